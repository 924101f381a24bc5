//! The paged cache of keys and values.
//!
//! The unit is a block: 16 positions of one head. It consists of lines of 16 elements. A key block has a line per
//! element of a key, whose lanes are positions; a value block has, for every 16 elements of a value, a line per
//! position, whose lanes are those elements. So both are panels as the float kernels read them.
//!
//! The quantised types keep up to 32 lines in a group, and before it the scales of its 16 positions in half precision:
//! 32 neighbouring elements of a key or a value share one. Codes are those of the formats Q8_0 and Q4_0.
#![allow(unsafe_code)]

use crate::buf::Shared;
use crate::{Buf, Ctx, WORTH_SPLITTING};
use alula_simd::{Isa, Kernel, LANES, f32_to_bf16, f32_to_f16};

/// What the cache keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheType {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// Bfloat16.
    BF16,
    /// 8 bits, a scale for 32 elements.
    Q8_0,
    /// 4 bits, a scale for 32 elements.
    Q4_0,
}

/// Lines that share scales.
const GROUP: usize = 32;
/// Bytes of a group's scales.
const SCALES: usize = 2 * LANES;

impl CacheType {
    /// Bytes of a line.
    fn line(self) -> usize {
        match self {
            CacheType::F32 => 4 * LANES,
            CacheType::F16 | CacheType::BF16 => 2 * LANES,
            CacheType::Q8_0 => LANES,
            CacheType::Q4_0 => LANES / 2,
        }
    }

    /// Bytes of the scales of a group.
    fn scales(self) -> usize {
        if matches!(self, CacheType::Q8_0 | CacheType::Q4_0) { SCALES } else { 0 }
    }

    /// Where a group begins.
    fn group(self, group: usize) -> usize {
        group * (self.scales() + GROUP * self.line())
    }

    /// Bytes of a block of so many lines; more than there can be, where that is no number.
    fn block(self, lines: usize) -> usize {
        lines.saturating_mul(self.line()).saturating_add(lines.div_ceil(GROUP) * self.scales())
    }
}

/// What lanes are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Keys,
    Values,
}

/// One layer's keys and values for a number of pages: `[pages, heads, page / 16]` blocks of each.
pub struct Kv {
    pub(crate) kind: CacheType,
    pub(crate) heads: usize,
    pub(crate) key_dim: usize,
    pub(crate) value_dim: usize,
    /// Values are the first elements of keys, and not kept.
    pub(crate) shared: bool,
    pub(crate) page: usize,
    k: Buf,
    v: Buf,
}

/// Lines of a value's block.
fn value_lines(value_dim: usize) -> usize {
    value_dim.div_ceil(LANES).saturating_mul(LANES)
}

impl Kv {
    /// A zeroed cache of `pages` pages of `page` positions; `None` where there is not so much memory.
    ///
    /// # Panics
    /// If `page` is not a multiple of 16, or a size other than `pages` is 0.
    pub fn new(
        kind: CacheType,
        pages: usize,
        page: usize,
        heads: usize,
        key_dim: usize,
        value_dim: usize,
    ) -> Option<Kv> {
        Kv::zeroed(
            Kv { kind, heads, key_dim, value_dim, shared: false, page, k: Buf::zeroed(0), v: Buf::zeroed(0) },
            pages,
        )
    }

    /// The same without memory for values: they are the first elements of keys.
    ///
    /// # Panics
    /// As [`Kv::new`], or if values are longer than keys.
    pub fn latent(
        kind: CacheType,
        pages: usize,
        page: usize,
        heads: usize,
        key_dim: usize,
        value_dim: usize,
    ) -> Option<Kv> {
        assert!(value_dim <= key_dim);
        Kv::zeroed(
            Kv { kind, heads, key_dim, value_dim, shared: true, page, k: Buf::zeroed(0), v: Buf::zeroed(0) },
            pages,
        )
    }

    fn zeroed(mut self, pages: usize) -> Option<Kv> {
        let Kv { kind, heads, key_dim, value_dim, page, .. } = self;
        assert!(page.is_multiple_of(LANES) && page > 0 && heads > 0 && key_dim > 0 && value_dim > 0);
        let blocks = pages.checked_mul(page / LANES)?.checked_mul(heads)?;
        let zeroed = |lines: usize| Buf::try_zeroed(blocks.checked_mul(kind.block(lines))?);
        self.k = zeroed(key_dim)?;
        self.v = zeroed(if self.shared { 0 } else { value_lines(value_dim) })?;
        Some(self)
    }

    /// Bytes that 16 positions take; `value_dim` is 0 where values are parts of keys.
    pub fn bytes_per_block(kind: CacheType, heads: usize, key_dim: usize, value_dim: usize) -> usize {
        heads * (kind.block(key_dim) + kind.block(value_lines(value_dim)))
    }

    /// Lines of a block.
    fn lines(&self, side: Side) -> usize {
        match side {
            Side::Keys => self.key_dim,
            Side::Values => value_lines(self.value_dim),
        }
    }

    /// The bytes of a block of a page.
    fn block(&self, side: Side, page: usize, head: usize, block: usize) -> &[u8] {
        let bytes = self.kind.block(self.lines(side));
        let at = (page * self.heads + head) * (self.page / LANES) + block;
        match side {
            Side::Keys => &self.k[at * bytes..][..bytes],
            Side::Values => &self.v[at * bytes..][..bytes],
        }
    }
}

/// The page tables of a step's rows.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// Position of each row in its sequence.
    pub positions: &'a [u32],
    /// Sequence of each row, an index into `pages`.
    pub seqs: &'a [u32],
    /// Page table of each sequence.
    pub pages: &'a [&'a [u32]],
}

/// Writes the keys and values of a step's rows into the cache. Where two rows have one place, the later one stays.
///
/// `k`: `[rows, heads, key_dim]`, `v`: `[rows, heads, value_dim]`, which is not read where values are shared.
///
/// # Panics
/// If the sizes do not fit together, or a row's page is missing.
pub fn store(ctx: Ctx<'_>, kv: &mut Kv, rows: Rows<'_>, k: &[f32], v: &[f32]) {
    let (heads, dk, dv, page, kind) = (kv.heads, kv.key_dim, kv.value_dim, kv.page, kv.kind);
    let n = rows.positions.len();
    let own = !kv.shared;
    assert!(k.len() == n * heads * dk && (!own || v.len() == n * heads * dv));
    let [key, value] = [Side::Keys, Side::Values].map(|side| kind.block(kv.lines(side)));
    let (ks, vs) = (Shared::new(&mut kv.k[..]), Shared::new(&mut kv.v[..]));
    // A task is a head: neighbouring rows share its cache lines.
    ctx.pool.run(heads, k.len() > WORTH_SPLITTING, |h, _| {
        for row in 0..n {
            let p = rows.positions[row] as usize;
            let place = rows.pages[rows.seqs[row] as usize][p / page] as usize;
            let (block, at) = ((place * heads + h) * (page / LANES) + p % page / LANES, p % LANES);
            // SAFETY: a block belongs to one head, and a head's rows are written one after another.
            let key = unsafe { ks.part(block * key, key) };
            ctx.cpu.run(Put { kind, side: Side::Keys, at, x: &k[(row * heads + h) * dk..][..dk], block: key });
            if own {
                // SAFETY: as above.
                let value = unsafe { vs.part(block * value, value) };
                ctx.cpu.run(Put { kind, side: Side::Values, at, x: &v[(row * heads + h) * dv..][..dv], block: value });
            }
        }
    });
}

/// Writes a key or a value to position `at` of a block.
struct Put<'a> {
    kind: CacheType,
    side: Side,
    at: usize,
    x: &'a [f32],
    block: &'a mut [u8],
}

impl Kernel for Put<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Put { kind, side, at, x, block } = self;
        for (g, x) in x.chunks(GROUP).enumerate() {
            let (scales, lines) = block[kind.group(g)..].split_at_mut(kind.scales());
            // Element e is in line `line`, lane `lane`.
            let place = |e: usize| match side {
                Side::Keys => (e, at),
                Side::Values => (e / LANES * LANES + at, e % LANES),
            };
            let mut scale = |d: f32| scales[2 * at..2 * at + 2].copy_from_slice(&f32_to_f16(d).to_le_bytes());
            match kind {
                CacheType::F32 => {
                    for (e, x) in x.iter().enumerate() {
                        let (line, lane) = place(e);
                        lines[(line * LANES + lane) * 4..][..4].copy_from_slice(&x.to_le_bytes());
                    }
                }
                CacheType::F16 => {
                    for (i, x) in x.chunks(LANES).enumerate() {
                        let mut half = [0; LANES];
                        isa.store_f16(crate::load_part(isa, x), &mut half);
                        for (e, half) in half[..x.len()].iter().enumerate() {
                            let (line, lane) = place(i * LANES + e);
                            lines[(line * LANES + lane) * 2..][..2].copy_from_slice(&half.to_le_bytes());
                        }
                    }
                }
                CacheType::BF16 => {
                    for (e, x) in x.iter().enumerate() {
                        let (line, lane) = place(e);
                        lines[(line * LANES + lane) * 2..][..2].copy_from_slice(&f32_to_bf16(*x).to_le_bytes());
                    }
                }
                CacheType::Q8_0 => {
                    let most = x.iter().fold(0f32, |m, x| if m.is_nan() || x.abs() <= m { m } else { x.abs() });
                    scale(most / 127.0);
                    for (e, x) in x.iter().enumerate() {
                        let (line, lane) = place(e);
                        lines[line * LANES + lane] = (x * (127.0 / most)).round_ties_even() as i8 as u8;
                    }
                }
                CacheType::Q4_0 => {
                    let most = x.iter().fold(0f32, |m, x| if m.is_nan() || x.abs() <= m.abs() { m } else { *x });
                    scale(most / -8.0);
                    for (e, x) in x.iter().enumerate() {
                        let (line, lane) = place(e);
                        let code = (x * (-8.0 / most) + 8.5).clamp(0.0, 15.0) as u8;
                        let byte = &mut lines[(line * LANES + lane) / 2];
                        *byte = if lane % 2 == 0 { *byte & 0xf0 | code } else { *byte & 15 | code << 4 };
                    }
                }
            }
        }
    }
}

/// Expands a block to single precision: every 16 lines to the first 16 of `stride` lines of `out`. `next` is the block
/// that will be wanted next. Blocks are (page, head, block of the page).
///
/// # Panics
/// If `out` has not so many lines.
#[inline(always)]
pub(crate) fn expand<I: Isa>(
    isa: I,
    kv: &Kv,
    side: Side,
    block: (usize, usize, usize),
    next: (usize, usize, usize),
    out: &mut [[f32; LANES]],
    stride: usize,
) {
    let kind = kv.kind;
    let bytes = kv.block(side, block.0, block.1, block.2);
    let next = kv.block(side, next.0, next.1, next.2).as_ptr();
    for i in (0..bytes.len()).step_by(64) {
        isa.prefetch(next.wrapping_add(i));
    }
    macro_rules! convert {
        ($t:ty, $load:ident) => {{
            let n = bytes.len() / size_of::<[$t; LANES]>();
            // SAFETY: a block is nothing but such numbers, and begins on a multiple of 32 bytes.
            let from: &[[$t; LANES]] = unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), n) };
            for (out, from) in out.chunks_mut(stride).zip(from.chunks(LANES)) {
                for (out, from) in out.iter_mut().zip(from) {
                    isa.store(isa.$load(from), out);
                }
            }
        }};
    }
    match kind {
        CacheType::F32 => convert!(f32, load),
        CacheType::F16 => convert!(u16, load_f16),
        CacheType::BF16 => convert!(u16, load_bf16),
        CacheType::Q8_0 | CacheType::Q4_0 => {
            let (width, low) = (kind.line(), isa.splat(-8.0));
            for (g, out) in out.chunks_mut(2 * stride).enumerate().take_while(|(g, _)| kind.group(*g) < bytes.len()) {
                let (scales, codes) = bytes[kind.group(g)..].split_at(SCALES);
                let mut halves = [0; LANES];
                for (half, bytes) in halves.iter_mut().zip(scales.as_chunks::<2>().0) {
                    *half = u16::from_le_bytes(*bytes);
                }
                let d = isa.load_f16(&halves);
                let mut each = [0.0; LANES];
                isa.store(d, &mut each);
                for (out, codes) in out.chunks_mut(stride).zip(codes.chunks(LANES * width)) {
                    for (i, (out, code)) in out.iter_mut().zip(codes.chunks_exact(width)).enumerate().take(LANES) {
                        let mut values = [0i8; LANES];
                        if kind == CacheType::Q8_0 {
                            for (v, code) in values.iter_mut().zip(code) {
                                *v = *code as i8;
                            }
                        } else {
                            for (v, code) in values.as_chunks_mut::<2>().0.iter_mut().zip(code) {
                                *v = [(code & 15) as i8, (code >> 4) as i8];
                            }
                        }
                        let v = isa.to_f(isa.load_i8(&values));
                        let v = if kind == CacheType::Q8_0 { v } else { isa.add(v, low) };
                        let scale = if side == Side::Keys { d } else { isa.splat(each[i]) };
                        isa.store(isa.mul(v, scale), out);
                    }
                }
            }
        }
    }
}
