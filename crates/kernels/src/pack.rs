//! Weights in the layout that the matrix kernels read.
//!
//! A panel is 16 output rows, and a vector's lanes are those rows. Rows are padded to a multiple of 16 with zeros.
//!
//! - F32, F16 and BF16: input element k of the 16 rows, k ascending.
//! - Quantised: blocks as the format has them, of 32 or 256 inputs. A block holds
//!     - `d`, then `dmin` (for formats that have minimums), in half precision,
//!     - a signed byte per row and group: its scale; then its minimum,
//!     - codes, made unsigned, in runs of 32 inputs: `width` lines of 64 bytes. A step is 4 inputs; row r has bytes
//!       4r..4r+4 of its line. At 8 bits a line is a step; at 4 to 6 bits line j < 4 has the low four bits of step j
//!       in its low halves and those of step j + 4 in its high halves. The fifth bits lie in one line more, that of
//!       step j as bit j; the fifth and sixth bits in two lines more, those of step j as bits 2 (j % 4) of line j / 4.
//!
//!   What belongs to a whole block comes first, so that memory is read in order.
#![allow(unsafe_code)]

use crate::Ctx;
use crate::buf::{Buf, Shared};
use crate::quantize::QK;
use alula_simd::{LANES, f32_to_f16};
use alula_tensor::{Codes, DType, Format};

/// Bytes of a line.
pub(crate) const LINE: usize = 64;
/// The most elements, and the most groups, of a block.
const MOST: usize = 256;
const GROUPS: usize = 16;

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
    /// Inputs in a block: 32 or 256.
    pub(crate) block: usize,
    /// Inputs that share a scale: 16, 32 or `block`.
    pub(crate) group: usize,
    /// Bits of a code in memory: 4, 5, 6 or 8.
    pub(crate) width: usize,
    /// Codes in memory are indices into this table of value + `offset`; else they are value + `offset`.
    pub(crate) table: Option<[u8; 16]>,
    /// What was added to a value to make it unsigned: 0 or a power of two,
    pub(crate) offset: i32,
    /// and its logarithm: 32 where it is 0, as so many shifts leave nothing. A vector in memory, as a compiler that
    /// sees that the lanes are equal makes slow scalar code of the shift.
    pub(crate) shift: [i32; LANES],
    /// Whether groups have scales of their own.
    pub(crate) scales: bool,
    /// Whether there are minimums.
    pub(crate) mins: bool,
    /// `d` is in bfloat16, not IEEE half precision.
    pub(crate) bf16: bool,
    /// Runs of 32 inputs in a block.
    pub(crate) runs: usize,
    /// Where the scales of groups, their minimums, and the codes begin; bytes of a block of 16 rows.
    pub(crate) scales_at: usize,
    pub(crate) mins_at: usize,
    pub(crate) codes_at: usize,
    pub(crate) bytes: usize,
}

impl Blocks {
    fn new(codes: &Codes, block: usize, dtype: DType) -> Blocks {
        // The least power of two that makes every value unsigned.
        let shift = match -i32::from(codes.low) {
            0 => 32,
            least => (2 * least - 1).ilog2() as i32,
        };
        let offset = if shift < 32 { 1 << shift } else { 0 };
        let width = if codes.table.is_some() { 4 } else { [4, 5, 6, 8][codes.bits.saturating_sub(4).min(3) as usize] };
        let scales_at = 2 * LANES * (1 + usize::from(codes.has_min));
        let group_bytes = if codes.has_scales { block / codes.group * LANES } else { 0 };
        let mins_at = scales_at + group_bytes;
        let codes_at = mins_at + if codes.has_min { group_bytes } else { 0 };
        Blocks {
            block,
            group: codes.group,
            width,
            runs: block / QK,
            scales_at,
            mins_at,
            codes_at,
            bytes: codes_at + block / QK * width * LINE,
            table: codes.table.map(|t| t.map(|v| (i32::from(v) + offset) as u8)),
            offset,
            shift: [shift; LANES],
            scales: codes.has_scales,
            mins: codes.has_min,
            bf16: dtype == DType::MXFP4,
        }
    }
    /// Two scales to 32 inputs.
    pub(crate) fn halves(&self) -> bool {
        self.group < QK
    }
}

/// A weight matrix `[rows, cols]` packed for [`matmul`](crate::matmul()).
#[derive(Debug)]
pub struct Packed {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) kind: Kind,
    /// Bytes of a panel.
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
                let b = Blocks::new(codes, format.block, dtype);
                (Kind::Blocks(b), cols / b.block * b.bytes)
            }
            (None, DType::F16) => (Kind::F16, cols * LANES * 2),
            (None, DType::BF16) => (Kind::BF16, cols * LANES * 2),
            (None, _) => (Kind::F32, cols * LANES * 4),
        };
        let panels = rows.div_ceil(LANES);
        let mut data = Buf::zeroed(panels * panel);
        let shared = Shared::new(&mut data[..]);
        ctx.pool.run(panels, bytes.len() > 1 << 16, |p, _| {
            // SAFETY: one task a panel; panels are disjoint.
            let out = unsafe { shared.part(p * panel, panel) };
            let rows = &bytes[p * LANES * row_bytes..rows.min((p + 1) * LANES) * row_bytes];
            match (kind, &format.codes) {
                (Kind::F32, _) => scatter::<4>(rows, row_bytes, out),
                (Kind::Blocks(b), Some(codes)) => pack_panel(b, format, codes, rows, row_bytes, out),
                _ => scatter::<2>(rows, row_bytes, out),
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

/// Places the rows' elements of `N` bytes: element k of row r at 16 k + r. Some columns at a time, so that the lines
/// that they go to stay in the cache.
fn scatter<const N: usize>(rows: &[u8], row_bytes: usize, out: &mut [u8]) {
    const COLS: usize = 64;
    for (c, out) in out.chunks_mut(COLS * LANES * N).enumerate() {
        for (r, row) in rows.chunks_exact(row_bytes).enumerate() {
            let elements = row[c * COLS * N..].as_chunks::<N>().0;
            for (e, out) in elements.iter().zip(out.as_chunks_mut::<N>().0.chunks_exact_mut(LANES)) {
                out[r] = *e;
            }
        }
    }
}

/// Places up to 16 rows' codes, scales and minimums.
fn pack_panel(b: Blocks, format: &Format, codes: &Codes, rows: &[u8], row_bytes: usize, out: &mut [u8]) {
    // What a value becomes in memory. The first index of a value that stands in the table twice.
    let mut index: [u8; 256] = std::array::from_fn(|v| (v as u8 as i8 as i32 + b.offset) as u8);
    for (i, v) in codes.table.unwrap_or_default().iter().enumerate().rev().filter(|_| codes.table.is_some()) {
        index[usize::from(*v as u8)] = i as u8;
    }
    let (mut q, mut scales, mut mins) = ([0i8; MOST], [0i8; GROUPS], [0i8; GROUPS]);
    // Rows that are not there have values 0 and scales 0.
    let nothing = index[0];
    for (i, out) in out.chunks_exact_mut(b.bytes).enumerate() {
        // [run of 32][step][row][4]
        let mut u = [nothing; MOST * LANES];
        for (r, row) in rows.chunks_exact(row_bytes).enumerate() {
            let bytes = &row[i * format.bytes..][..format.bytes];
            let [d, dmin] = (codes.unpack)(bytes, &mut q[..b.block], &mut scales, &mut mins);
            let fours = q[..b.block].as_chunks::<4>().0.iter();
            for (four, out) in fours.zip(u.as_chunks_mut::<4>().0.chunks_exact_mut(LANES)) {
                out[r] = four.map(|v| index[usize::from(v as u8)]);
            }
            if b.scales {
                for g in 0..b.block / b.group {
                    out[b.scales_at + g * LANES + r] = scales[g] as u8;
                    if b.mins {
                        out[b.mins_at + g * LANES + r] = mins[g] as u8;
                    }
                }
            }
            let half = |v: f32| if b.bf16 { (v.to_bits() >> 16) as u16 } else { f32_to_f16(v) };
            let at = 2 * r;
            out[at..at + 2].copy_from_slice(&half(d).to_le_bytes());
            if b.mins {
                out[at + 2 * LANES..at + 2 * LANES + 2].copy_from_slice(&half(dmin).to_le_bytes());
            }
        }
        let runs = u[..b.block * LANES].as_chunks::<{ QK * LANES }>().0;
        for (u, out) in runs.iter().zip(out[b.codes_at..].chunks_exact_mut(b.width * LINE)) {
            pack_run(b.width, u, out);
        }
    }
}

/// Packs 8 steps of 64 codes into `width` lines.
fn pack_run(width: usize, u: &[u8; QK * LANES], out: &mut [u8]) {
    if width == 8 {
        return out.copy_from_slice(u);
    }
    let (low, high) = out.split_at_mut(4 * LINE);
    let (first, second) = u.split_at(4 * LINE);
    for (out, (a, b)) in low.iter_mut().zip(first.iter().zip(second)) {
        *out = a & 15 | b << 4;
    }
    for (step, u) in u.as_chunks::<LINE>().0.iter().enumerate() {
        let (line, shift) = if width == 6 { (step / 4, 2 * (step % 4)) } else { (0, step) };
        if let Some(line) = high.as_chunks_mut::<LINE>().0.get_mut(line) {
            for (out, u) in line.iter_mut().zip(u) {
                *out |= (u >> 4) << shift;
            }
        }
    }
}
