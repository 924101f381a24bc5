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
use alula_simd::{Cpu, Isa, Kernel, LANES};
use alula_tensor::{Codes, DType, Format, Storage};
use std::ops::Deref;

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
    fn new(codes: &Codes, block: usize) -> Blocks {
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
            bf16: codes.scale == DType::BF16,
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
    pub(crate) data: Data,
}

/// Where panels lie: memory of their own, or a part of a file that was packed before; or nowhere.
#[derive(Debug)]
pub(crate) enum Data {
    Own(Buf),
    Mapped(Storage, usize, usize),
    Absent,
}

impl Deref for Data {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Data::Own(buf) => buf,
            Data::Mapped(storage, start, len) => &storage[*start..][..*len],
            Data::Absent => &[],
        }
    }
}

/// How a matrix of `cols` columns is packed, and the bytes of a panel; `None` where it cannot be.
fn layout(dtype: DType, cols: usize) -> Option<(Kind, usize)> {
    let format = dtype.format();
    let (kind, block, bytes) = match (&format.codes, dtype) {
        (Some(codes), _) => {
            let b = Blocks::new(codes, format.block);
            (Kind::Blocks(b), b.block, b.bytes)
        }
        (None, DType::F16) => (Kind::F16, 1, LANES * 2),
        (None, DType::BF16) => (Kind::BF16, 1, LANES * 2),
        (None, _) => (Kind::F32, 1, LANES * 4),
    };
    let whole = cols > 0 && cols.is_multiple_of(block);
    Some((kind, (cols / block).checked_mul(bytes)?)).filter(|_| whole)
}

impl Packed {
    /// Stands for the layout that the head of this file describes. Files that hold panels name it; whoever changes a
    /// byte of the layout gives it another number.
    pub const LAYOUT: u32 = 1;
    /// What the panels' address is a multiple of.
    pub const ALIGN: usize = LINE;

    /// A matrix whose panels lie in `storage`, as [`as_bytes`](Packed::as_bytes) gave them, from byte `start` on. `None`
    /// if they cannot lie there: the storage is too short, or the place is not on a cache line.
    pub fn stored(dtype: DType, rows: usize, cols: usize, storage: &Storage, start: usize) -> Option<Packed> {
        let (kind, panel) = layout(dtype, cols)?;
        let len = rows.div_ceil(LANES).checked_mul(panel)?;
        let place = storage.get(start..start.checked_add(len)?)?;
        let aligned = place.as_ptr().addr().is_multiple_of(Packed::ALIGN);
        aligned.then(|| Packed { rows, cols, kind, panel, data: Data::Mapped(storage.clone(), start, len) })
    }

    /// What can be known of a matrix without its elements; it cannot be multiplied with. `None` where no such matrix can be
    /// packed.
    pub fn absent(dtype: DType, rows: usize, cols: usize) -> Option<Packed> {
        let (kind, panel) = layout(dtype, cols)?;
        rows.div_ceil(LANES).checked_mul(panel)?;
        Some(Packed { rows, cols, kind, panel, data: Data::Absent })
    }

    /// Whether its elements are nowhere.
    pub fn is_absent(&self) -> bool {
        matches!(self.data, Data::Absent)
    }

    /// The panels.
    pub fn as_bytes(&self) -> &[u8] {
        &self.data
    }

    /// Packs row-major `bytes` of `rows * cols` elements.
    ///
    /// # Panics
    /// If `bytes` is not exactly that matrix in whole blocks, or there is not so much memory.
    pub fn new(ctx: Ctx<'_>, dtype: DType, rows: usize, cols: usize, bytes: &[u8]) -> Packed {
        Packed::reusing(ctx, (dtype, rows, cols), bytes, None).expect("memory for a matrix")
    }

    /// The same in memory that another matrix had, if that was as large; `None` where there is not so much memory.
    ///
    /// # Panics
    /// If `bytes` is not exactly that matrix in whole blocks.
    pub fn reusing(
        ctx: Ctx<'_>,
        (dtype, rows, cols): (DType, usize, usize),
        bytes: &[u8],
        old: Option<Packed>,
    ) -> Option<Packed> {
        let format = dtype.format();
        let (kind, panel) = layout(dtype, cols).expect("rows of whole blocks");
        let row_bytes = cols / format.block * format.bytes;
        assert_eq!(bytes.len(), rows * row_bytes);
        let panels = rows.div_ceil(LANES);
        let mut data = match old {
            Some(Packed { data: Data::Own(mut buf), .. }) if buf.len() == panels * panel => {
                // Rows that are not there are zeros.
                buf[rows / LANES * panel..].fill(0);
                buf
            }
            _ => Buf::try_zeroed(panels.checked_mul(panel)?)?,
        };
        let shared = Shared::new(&mut data[..]);
        ctx.pool.run(panels, bytes.len() > 1 << 16, |p, _| {
            // SAFETY: one task a panel; panels are disjoint.
            let out = unsafe { shared.part(p * panel, panel) };
            let rows = &bytes[p * LANES * row_bytes..rows.min((p + 1) * LANES) * row_bytes];
            match (kind, &format.codes) {
                (Kind::F32, _) => scatter::<4>(rows, row_bytes, out),
                (Kind::Blocks(b), Some(codes)) => pack_panel(ctx.cpu, &b, format, codes, rows, row_bytes, out),
                _ => scatter::<2>(rows, row_bytes, out),
            }
        });
        Some(Packed { rows, cols, kind, panel, data: Data::Own(data) })
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

    /// Bytes of memory that it takes, or would take.
    pub fn bytes(&self) -> usize {
        self.rows.div_ceil(LANES) * self.panel
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

/// Places up to 16 rows' codes, scales and minimums. No [`Kernel`]: above the level that everything is compiled for,
/// compilers make slow gathers of a transposition.
fn pack_panel(cpu: Cpu, b: &Blocks, format: &Format, codes: &Codes, rows: &[u8], row_bytes: usize, out: &mut [u8]) {
    // One block of each row. Rows that are not there have values 0 and scales 0.
    let (mut q, mut scales, mut mins) = ([[0; MOST]; LANES], [[0; GROUPS]; LANES], [[0; GROUPS]; LANES]);
    let (mut d, mut dmin) = ([0.0; LANES], [0.0; LANES]);
    let offset = if b.table.is_some() { 0 } else { b.offset as u8 };
    let pack_run = match b.width {
        4 => pack_run::<0>,
        5 => pack_run::<1>,
        6 => pack_run::<2>,
        _ => bytes,
    };
    let mut u = [[0; LINE]; QK / 4];
    for (i, out) in out.chunks_exact_mut(b.bytes).enumerate() {
        for (r, row) in rows.chunks_exact(row_bytes).enumerate() {
            let bytes = &row[i * format.bytes..][..format.bytes];
            [d[r], dmin[r]] = match codes.nibbles {
                Some(at) => {
                    pack_nibbles(b.block, &bytes[at..], r, &mut out[b.codes_at..]);
                    (codes.head)(bytes, &mut scales[r], &mut mins[r])
                }
                None => (codes.unpack)(bytes, &mut q[r][..b.block], &mut scales[r], &mut mins[r]),
            };
        }
        let halves = out.as_chunks_mut::<{ 2 * LANES }>().0;
        for (out, d) in halves.iter_mut().zip([&d, &dmin]).take(1 + usize::from(b.mins)) {
            if b.bf16 {
                *out = std::array::from_fn(|i| (d[i / 2].to_bits() >> (16 + i % 2 * 8)) as u8);
            } else {
                cpu.run(Half(d, out));
            }
        }
        if b.scales {
            lines(&scales, &mut out[b.scales_at..b.mins_at]);
            lines(&mins, &mut out[b.mins_at..b.codes_at]);
        }
        if codes.nibbles.is_some() {
            // Codes of 0.
            let none = offset | offset << 4;
            for line in out[b.codes_at..].as_chunks_mut::<LINE>().0 {
                line[rows.len() / row_bytes * 4..].fill(none);
            }
            continue;
        }
        for (run, out) in out[b.codes_at..].chunks_exact_mut(b.width * LINE).enumerate() {
            steps(&q, run * QK, &mut u);
            u.as_flattened_mut().iter_mut().for_each(|u| *u = u.wrapping_add(offset));
            pack_run(&u, out);
        }
    }
}

/// Places a row's nibbles, which are codes as they are: those of 16 bytes stand as in a panel, and of those of 32 bytes the low
/// ones are a run, and the high ones.
#[inline]
fn pack_nibbles(block: usize, bytes: &[u8], r: usize, out: &mut [u8]) {
    const LOW: u32 = 0x0f0f_0f0f;
    assert!(r < LANES);
    let (words, lines) = (bytes.as_chunks::<4>().0, out.as_chunks_mut::<4>().0.as_chunks_mut::<LANES>().0);
    if block == QK {
        if let (Some(words), Some(lines)) = (words.first_chunk::<4>(), lines.first_chunk_mut::<4>()) {
            for j in 0..4 {
                lines[j][r] = words[j];
            }
        }
        return;
    }
    for (words, lines) in words.as_chunks::<8>().0.iter().zip(lines.as_chunks_mut::<8>().0) {
        for j in 0..4 {
            let [a, b] = [words[j], words[j + 4]].map(u32::from_le_bytes);
            lines[j][r] = (a & LOW | (b & LOW) << 4).to_le_bytes();
            lines[j + 4][r] = (a >> 4 & LOW | b & !LOW).to_le_bytes();
        }
    }
}

/// Numbers to little-endian half precision.
struct Half<'a>(&'a [f32; LANES], &'a mut [u8; 2 * LANES]);

impl Kernel for Half<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let mut bits = [0; LANES];
        isa.store_f16(isa.load(self.0), &mut bits);
        for (out, bits) in self.1.as_chunks_mut::<2>().0.iter_mut().zip(bits) {
            *out = bits.to_le_bytes();
        }
    }
}

/// Lines of 16 rows' bytes, as many as there is room for.
fn lines(rows: &[[i8; GROUPS]; LANES], out: &mut [u8]) {
    for (g, out) in out.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        *out = std::array::from_fn(|r| rows[r][g] as u8);
    }
}

/// 32 inputs of 16 rows from input `first` on: a line for 4 inputs. By squares of 4 lines and 4 rows, which compilers
/// transpose in registers.
fn steps(q: &[[i8; MOST]; LANES], first: usize, out: &mut [[u8; LINE]; QK / 4]) {
    for (r, rows) in q.as_chunks::<4>().0.iter().enumerate() {
        for s in (0..QK / 4).step_by(4) {
            let mut square = [[[0; 4]; 4]; 4];
            for i in 0..4 {
                square[i] = *rows[i][first + 4 * s..].as_chunks().0.first_chunk().expect("within the block");
            }
            for i in 0..4 {
                let line = [square[0][i], square[1][i], square[2][i], square[3][i]];
                for (out, v) in out[s + i][16 * r..].iter_mut().zip(line.as_flattened()) {
                    *out = *v as u8;
                }
            }
        }
    }
}

/// Packs 8 steps of codes into 4 lines of their low four bits and `HIGH` lines of as many bits above.
fn pack_run<const HIGH: usize>(u: &[[u8; LINE]; QK / 4], out: &mut [u8]) {
    let lines = out.as_chunks_mut::<LINE>().0;
    for j in 0..4 {
        for i in 0..LINE {
            lines[j][i] = u[j][i] & 15 | u[j + 4][i] << 4;
        }
    }
    for high in 0..HIGH {
        let steps = 8 / HIGH;
        for i in 0..LINE {
            let mut bits = 0;
            for step in 0..steps {
                bits |= u[high * steps + step][i] >> 4 << (HIGH * step);
            }
            lines[4 + high][i] = bits;
        }
    }
}

/// Codes of 8 bits are packed already.
fn bytes(u: &[[u8; LINE]; QK / 4], out: &mut [u8]) {
    out.copy_from_slice(u.as_flattened());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pool;
    use alula_simd::f32_to_f16;
    use alula_tensor::FORMATS;

    fn random(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    /// Element by element, from the module's description.
    fn plain(b: &Blocks, format: &Format, codes: &Codes, row_bytes: usize, bytes: &[u8]) -> Vec<u8> {
        let rows: Vec<&[u8]> = bytes.chunks(row_bytes).collect();
        let blocks = row_bytes / format.bytes;
        let mut out = vec![0; rows.len().div_ceil(LANES) * blocks * b.bytes];
        for (at, out) in out.chunks_mut(b.bytes).enumerate() {
            for r in 0..LANES {
                let (mut q, mut scales, mut mins) = ([0; MOST], [0; GROUPS], [0; GROUPS]);
                let mut d = [0.0; 2];
                if let Some(row) = rows.get(at / blocks * LANES + r) {
                    let block = &row[at % blocks * format.bytes..][..format.bytes];
                    d = (codes.unpack)(block, &mut q, &mut scales, &mut mins);
                }
                for (i, d) in d.into_iter().take(1 + usize::from(b.mins)).enumerate() {
                    let bits = if b.bf16 { (d.to_bits() >> 16) as u16 } else { f32_to_f16(d) };
                    out[2 * (i * LANES + r)..][..2].copy_from_slice(&bits.to_le_bytes());
                }
                for g in (0..b.block / b.group).filter(|_| b.scales) {
                    out[b.scales_at + g * LANES + r] = scales[g] as u8;
                    if b.mins {
                        out[b.mins_at + g * LANES + r] = mins[g] as u8;
                    }
                }
                for (k, q) in q[..b.block].iter().enumerate() {
                    let code = if b.table.is_some() { *q as u8 } else { (i32::from(*q) + b.offset) as u8 };
                    let (step, at) = (k % QK / 4, b.codes_at + k / QK * b.width * LINE + 4 * r + k % 4);
                    match b.width {
                        8 => out[at + step * LINE] = code,
                        _ => out[at + step % 4 * LINE] |= (code & 15) << (step / 4 * 4),
                    }
                    match b.width {
                        5 => out[at + 4 * LINE] |= code >> 4 << step,
                        6 => out[at + (4 + step / 4) * LINE] |= code >> 4 << (step % 4 * 2),
                        _ => assert!(b.width == 8 || code < 16),
                    }
                }
            }
        }
        out
    }

    #[test]
    fn panels_are_as_documented_everywhere() {
        let pools = [Pool::new(1), Pool::new(2)];
        for (format, codes) in FORMATS.iter().filter_map(|f| Some((f, f.codes?))) {
            let row_bytes = 3 * format.bytes;
            for rows in [1, 16, 19, 70] {
                let bytes = random(rows * row_bytes);
                let want = plain(&Blocks::new(&codes, format.block), format, &codes, row_bytes, &bytes);
                for (cpu, pool) in Cpu::all().into_iter().flat_map(|cpu| pools.iter().map(move |pool| (cpu, pool))) {
                    let packed = Packed::new(Ctx { cpu, pool }, format.dtype, rows, 3 * format.block, &bytes);
                    assert!(*packed.data == want[..], "{} of {rows} rows, {}", format.name, cpu.name());
                }
            }
        }
    }

    /// Of what was in the memory before, in a matrix of another shape and type, nothing is left.
    #[test]
    fn memory_is_used_again() {
        let pool = Pool::new(1);
        for (format, cpu) in FORMATS.iter().flat_map(|f| Cpu::all().into_iter().map(move |cpu| (f, cpu))) {
            let ctx = Ctx { cpu, pool: &pool };
            for rows in [1, 16, 19] {
                let bytes = random(rows * 2 * format.bytes);
                let shape = (format.dtype, rows, 2 * format.block);
                let want = Packed::new(ctx, shape.0, shape.1, shape.2, &bytes);
                for len in [want.bytes(), want.bytes() + 64] {
                    let old = Packed::new(ctx, DType::F32, 16, len / 64, &vec![0xff; len]);
                    let got = Packed::reusing(ctx, shape, &bytes, Some(old)).expect("memory");
                    assert!(got.as_bytes() == want.as_bytes(), "{} of {rows} rows, {}", format.name, cpu.name());
                    assert_eq!((got.rows(), got.cols(), got.kind), (want.rows(), want.cols(), want.kind));
                }
            }
        }
    }

    #[test]
    fn the_number_of_the_layout_stands_for_these_bytes() {
        let ctx = Ctx { cpu: Cpu::all()[0], pool: &Pool::new(1) };
        let mut digest = 0xcbf2_9ce4_8422_2325_u64; // FNV-1a
        for format in FORMATS {
            let packed = Packed::new(ctx, format.dtype, 17, 2 * format.block, &random(17 * 2 * format.bytes));
            for byte in packed.as_bytes() {
                digest = (digest ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
            }
        }
        assert_eq!(
            (Packed::LAYOUT, format!("{digest:x}").as_str()),
            (1, "dbdc132ca988d170"),
            "another layout needs another number"
        );
    }

    #[test]
    fn panels_are_taken_from_where_they_lie() {
        let ctx = Ctx { cpu: Cpu::all()[0], pool: &Pool::new(1) };
        let packed = Packed::new(ctx, DType::Q4K, 20, 512, &random(20 * 2 * 144));
        let len = packed.bytes();
        // Some place in a vector is on a cache line.
        let mut bytes = vec![0; len + 128];
        let start = bytes.as_ptr().addr().next_multiple_of(64) - bytes.as_ptr().addr();
        bytes[start..][..len].copy_from_slice(packed.as_bytes());
        let storage = Storage::from(bytes);
        let stored = Packed::stored(DType::Q4K, 20, 512, &storage, start).expect("room");
        assert_eq!((stored.as_bytes(), stored.rows(), stored.cols()), (packed.as_bytes(), 20, 512));
        for (rows, cols, start) in [
            (20, 512, start + 1),
            (20, 512, start + 256),
            (20, 512, usize::MAX),
            (200, 512, start),
            (usize::MAX, 512, start),
            (20, usize::MAX & !255, start),
            (20, 511, start),
            (20, 0, start),
        ] {
            assert!(Packed::stored(DType::Q4K, rows, cols, &storage, start).is_none(), "{rows} {cols} {start}");
        }
    }

    #[test]
    fn elements_of_floats_lie_by_lanes() {
        let bytes = random(19 * 70 * 4);
        let ctx = Ctx { cpu: Cpu::all()[0], pool: &Pool::new(1) };
        for (dtype, size) in [(DType::F32, 4), (DType::F16, 2), (DType::BF16, 2)] {
            let packed = Packed::new(ctx, dtype, 19, 70, &bytes[..19 * 70 * size]);
            for (at, element) in packed.data.chunks(size).enumerate() {
                let (row, k) = (at / LANES / 70 * LANES + at % LANES, at / LANES % 70);
                let want = if row < 19 { &bytes[(row * 70 + k) * size..][..size] } else { &[0; 4][..size] };
                assert_eq!(element, want, "row {row}, element {k}");
            }
        }
    }
}
