//! Weights in the layout that the matrix kernels read.
//!
//! A panel is 16 output rows; its memory is one stream of 64-byte lines, in the order in which a dot product needs
//! them, so that a vector's lanes are the 16 rows:
//!
//! - F32: a line is one input element of the 16 rows. F16 and BF16: a line is two input elements.
//! - Quantised: blocks of 32 inputs. Codes of table formats are 4-bit indices, 4 lines (line j: step j in the low
//!   halves, step j + 4 in the high ones); others are bytes + 128, 8 lines. A step is 4 inputs: row r has bytes
//!   4r..4r+4. Then one line of f32 scales per group, and one of minima where the format has them.
//!
//! Rows are padded to a multiple of 16 with zeros.
#![allow(unsafe_code)]

use crate::Ctx;
use crate::buf::{Buf, Shared};
use crate::quantize::QK;
use alula_simd::LANES;
use alula_tensor::{Codes, DType};

/// Bytes of a line.
pub(crate) const LINE: usize = 64;

/// How a panel is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    F32,
    F16,
    BF16,
    Blocks(Blocks),
}

/// The layout of quantised panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocks {
    /// Codes are indices into this table of value + `offset`; else bytes are code + `offset`.
    pub(crate) table: Option<[u8; 16]>,
    /// What was added to a code to make it unsigned.
    pub(crate) offset: i32,
    /// Two scales per block of 32, else one.
    pub(crate) halves: bool,
    /// Minima follow the scales.
    pub(crate) mins: bool,
}

impl Blocks {
    pub(crate) fn code_lines(&self) -> usize {
        if self.table.is_some() { 4 } else { 8 }
    }
    pub(crate) fn lines(&self) -> usize {
        self.code_lines() + (1 + usize::from(self.halves)) * (1 + usize::from(self.mins))
    }
}

/// A weight matrix `[rows, cols]` packed for [`matmul`](crate::matmul()).
#[derive(Debug)]
pub struct Packed {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) kind: Kind,
    /// Lines per panel.
    pub(crate) panel: usize,
    pub(crate) data: Buf,
}

impl Packed {
    /// Packs row-major `bytes` of `rows * cols` elements.
    ///
    /// # Panics
    /// If `bytes` is not exactly that matrix in whole blocks.
    pub fn new(ctx: Ctx<'_>, dtype: DType, rows: usize, cols: usize, bytes: &[u8]) -> Packed {
        let format = dtype.format();
        assert!(cols > 0 && cols.is_multiple_of(format.block));
        let row_bytes = cols / format.block * format.bytes;
        assert_eq!(bytes.len(), rows * row_bytes);
        let (kind, panel) = match (&format.codes, dtype) {
            (Some(codes), _) => {
                let blocks = layout(codes);
                (Kind::Blocks(blocks), cols / QK * blocks.lines())
            }
            (None, DType::F16) => (Kind::F16, cols.div_ceil(2)),
            (None, DType::BF16) => (Kind::BF16, cols.div_ceil(2)),
            (None, _) => (Kind::F32, cols),
        };
        let panels = rows.div_ceil(LANES);
        let mut data = Buf::zeroed(panels * panel * LINE);
        let shared = Shared::new(&mut data[..]);
        ctx.pool.run(panels, bytes.len() > 1 << 16, |p, _| {
            // SAFETY: one task a panel; panels are disjoint.
            let out = unsafe { shared.part(p * panel * LINE, panel * LINE) };
            for r in 0..LANES.min(rows - p * LANES) {
                let row = &bytes[(p * LANES + r) * row_bytes..][..row_bytes];
                match kind {
                    Kind::F32 => scatter::<4>(row, r, out),
                    Kind::F16 | Kind::BF16 => scatter::<2>(row, r, out),
                    Kind::Blocks(b) => {
                        if let Some(codes) = &format.codes {
                            pack_row(b, codes, format.block, row.chunks_exact(format.bytes), r, out);
                        }
                    }
                }
            }
        });
        Packed { rows, cols, kind, panel, data }
    }

    /// Output rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input elements.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Whether inputs must be quantised for this matrix.
    pub fn quantized(&self) -> bool {
        matches!(self.kind, Kind::Blocks(_))
    }

    /// Bytes of memory that it takes.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }
}

/// The panel layout for a format's codes.
fn layout(codes: &Codes) -> Blocks {
    let offset = codes.table.map_or(128, |t| -i32::from(t.into_iter().min().unwrap_or(0).min(0)));
    let table = codes.table.map(|t| t.map(|v| (i32::from(v) + offset) as u8));
    Blocks { table, offset, halves: codes.group < QK, mins: codes.has_min }
}

/// Places a row's elements of `N` bytes: element k of row r at 16 k + r.
fn scatter<const N: usize>(row: &[u8], r: usize, out: &mut [u8]) {
    for (k, e) in row.chunks_exact(N).enumerate() {
        out[(k * LANES + r) * N..][..N].copy_from_slice(e);
    }
}

/// Places a row's codes, scales and minima.
fn pack_row<'a>(b: Blocks, codes: &Codes, block: usize, row: impl Iterator<Item = &'a [u8]>, r: usize, out: &mut [u8]) {
    let mut index = [0u8; 256];
    if let Some(table) = b.table {
        for (i, v) in table.into_iter().enumerate().rev() {
            index[usize::from(v)] = i as u8;
        }
    }
    let (mut q, mut scale, mut min) = ([0i8; 256], [0f32; 16], [0f32; 16]);
    let groups = block / codes.group;
    for (i, bytes) in row.enumerate() {
        (codes.unpack)(bytes, &mut q[..block], &mut scale[..groups], &mut min[..groups]);
        for j in 0..block / QK {
            let lines = &mut out[(i * block / QK + j) * b.lines() * LINE..][..b.lines() * LINE];
            for (step, four) in q[j * QK..][..QK].chunks_exact(4).enumerate() {
                for (e, &v) in four.iter().enumerate() {
                    let u = (i32::from(v) + b.offset) as u8;
                    if b.table.is_some() {
                        lines[step % 4 * LINE + 4 * r + e] |= index[usize::from(u)] << (4 * (step / 4));
                    } else {
                        lines[step * LINE + 4 * r + e] = u;
                    }
                }
            }
            let per_block = 1 + usize::from(b.halves);
            for h in 0..per_block {
                let group = (j * QK + h * (QK / per_block)) / codes.group;
                let mut put = |line: usize, v: f32| lines[line * LINE + 4 * r..][..4].copy_from_slice(&v.to_le_bytes());
                put(b.code_lines() + h, scale[group]);
                if b.mins {
                    put(b.code_lines() + per_block + h, min[group]);
                }
            }
        }
    }
}
