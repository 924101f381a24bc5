//! AMX: products of tiles, 16 rows of 64 bytes each, in registers of their own.
//!
//! Stable Rust has no intrinsics for it, so the instructions are written out. The compiler does not touch tiles by
//! itself, and their shapes are set per thread, so what is between [`Amx::configure`] and the drop of its [`Tiles`] must
//! have them alone: nothing there may configure, measure or detect.
#![allow(unsafe_code)]

use crate::{Avx512Vnni, Isa, Kernel};
use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::hint::black_box;
use std::marker::PhantomData;

/// AMX with products of bytes and of bfloat16 (Sapphire Rapids on), permitted by the operating system, beside the vectors
/// of AVX-512 with VNNI.
#[derive(Clone, Copy, Debug)]
pub struct Amx(Avx512Vnni);

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Tiles whose shapes are set on this thread, until it is dropped.
pub struct Tiles(PhantomData<*const ()>);

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the thread has a configuration.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) }
    }
}

impl Amx {
    /// The token, if the machine has the instructions, the system keeps their state and permits their use, and a first
    /// product is right.
    pub fn detect() -> Option<Self> {
        const TILE_STATE: u64 = 3 << 17;
        let features = __cpuid_count(7, 0).edx;
        let all = [22, 24, 25].iter().all(|bit| features >> bit & 1 == 1); // BF16, TILE, INT8
        let saved = __cpuid_count(1, 0).ecx >> 27 & 1 == 1;
        if __cpuid_count(0, 0).eax < 7 || !all || !saved {
            return None;
        }
        let (low, high): (u32, u32);
        // SAFETY: the system has enabled it, as the bit before says.
        unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nostack, nomem)) }
        let state = u64::from(high) << 32 | u64::from(low);
        let amx = Amx(Avx512Vnni::detect()?);
        (state & TILE_STATE == TILE_STATE && permitted() && amx.works()).then_some(amx)
    }

    /// Whether a product of small numbers is right.
    fn works(self) -> bool {
        let x: [i8; 16 * 32] = std::array::from_fn(|i| (i * 7 % 31) as i8 - 15);
        let w: [[i8; 64]; 8] = std::array::from_fn(|i| std::array::from_fn(|j| ((i * 64 + j) * 5 % 29) as i8 - 14));
        let mut out = [[0; 16]; 16];
        // SAFETY: 16 rows of 32 bytes, 8 lines.
        unsafe { self.configure(32).product::<false>(x.as_ptr(), 32, w.as_ptr(), out.as_mut_ptr()) }
        (0..16).all(|row| {
            (0..16).all(|col| {
                let product = |k: usize| i32::from(x[row * 32 + k]) * i32::from(w[k / 4][4 * col + k % 4]);
                out[row][col] == (0..32).map(product).sum::<i32>()
            })
        })
    }

    /// The level of the vectors.
    pub fn vectors(self) -> Avx512Vnni {
        self.0
    }

    /// Runs a kernel at the level of the vectors.
    pub fn enter<K: Kernel>(self, kernel: K) -> K::Output {
        self.0.enter(kernel)
    }

    /// Tiles for products of 16 rows of `depth` bytes with as many inputs of 16 columns. `depth` is 4 to 64.
    ///
    /// # Panics
    /// If `depth` is anything else, or not a multiple of 4.
    pub fn configure(self, depth: usize) -> Tiles {
        assert!((4..=64).contains(&depth) && depth.is_multiple_of(4));
        let mut config = Config { palette: 1, start: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        // Tiles 0 to 3 are sums, 4 and 5 rows, 6 and 7 columns.
        for tile in 0..8 {
            let (rows, bytes) = [(16, 64), (16, 64), (16, depth), (depth / 4, 64)][tile / 2];
            config.rows[tile] = rows as u8;
            config.row_bytes[tile] = bytes as u16;
        }
        // SAFETY: permitted, as the token says; the shapes are within palette 1.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly, preserves_flags)) }
        Tiles(PhantomData)
    }

    /// Products of full tiles in registers, `turns` times four: of bytes, or of bfloat16. Returns the operations, two
    /// per product.
    pub fn work(self, bf16: bool, turns: u64) -> u64 {
        let tiles = self.configure(64);
        let zeros = black_box([0u8; 1024]);
        // SAFETY: the tiles are configured; 1024 bytes are 16 rows of 64.
        unsafe {
            asm!(
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "tileloadd tmm4, [{z} + {s}*1]", "tileloadd tmm5, [{z} + {s}*1]",
                "tileloadd tmm6, [{z} + {s}*1]", "tileloadd tmm7, [{z} + {s}*1]",
                z = in(reg) zeros.as_ptr(), s = in(reg) 64usize, options(nostack, readonly, preserves_flags)
            );
            for _ in 0..turns {
                if bf16 {
                    asm!(
                        "tdpbf16ps tmm0, tmm4, tmm6",
                        "tdpbf16ps tmm1, tmm4, tmm7",
                        "tdpbf16ps tmm2, tmm5, tmm6",
                        "tdpbf16ps tmm3, tmm5, tmm7",
                        options(nostack, nomem, preserves_flags)
                    );
                } else {
                    asm!(
                        "tdpbssd tmm0, tmm4, tmm6",
                        "tdpbssd tmm1, tmm4, tmm7",
                        "tdpbssd tmm2, tmm5, tmm6",
                        "tdpbssd tmm3, tmm5, tmm7",
                        options(nostack, nomem, preserves_flags)
                    );
                }
            }
        }
        drop(tiles);
        turns * 4 * 16 * 16 * if bf16 { 32 } else { 64 } * 2
    }
}

impl Tiles {
    /// `out[row][col] = Σ_k x[row][k] · w[k][col]`, exact: inputs in fours, `w[k / 4][4 col + k % 4]`. Products with
    /// `SECOND` and without go to other registers, so that one does not wait for the other.
    ///
    /// # Safety
    /// These are the last tiles that were configured on this thread, and still are. `x` points to 16 rows of their
    /// depth, `stride` bytes apart; `w` to a quarter as many lines, `out` to 16, which it writes.
    #[inline(always)]
    pub unsafe fn product<const SECOND: bool>(
        &self,
        x: *const i8,
        stride: usize,
        w: *const [i8; 64],
        out: *mut [i32; 16],
    ) {
        macro_rules! product {
            ($sum:literal, $x:literal, $w:literal) => {
                asm!(
                    concat!("tilezero ", $sum),
                    concat!("tileloadd ", $x, ", [{x} + {stride}*1]"),
                    concat!("tileloadd ", $w, ", [{w} + {line}*1]"),
                    concat!("tdpbssd ", $sum, ", ", $x, ", ", $w),
                    concat!("tilestored [{out} + {line}*1], ", $sum),
                    x = in(reg) x, stride = in(reg) stride, w = in(reg) w, line = in(reg) 64usize,
                    out = in(reg) out, options(nostack, preserves_flags)
                )
            };
        }
        // SAFETY: by the contract; the tiles are configured.
        unsafe { if SECOND { product!("tmm1", "tmm5", "tmm7") } else { product!("tmm0", "tmm4", "tmm6") } }
    }
}

impl Tiles {
    /// Adds `depth` tiles of products of bfloat16 to four tiles of sums: `sums[2 r + c] += Σ x[r] · w[c]`. A tile of `x`
    /// is 16 rows of 32 inputs, one of `w` 16 pairs of inputs of 16 columns. The next tiles of `x[r]` and `w[c]` lie 1 KiB
    /// further. How it rounds is in Intel's manual: even and odd inputs are two sums, subnormal numbers are 0.
    ///
    /// # Safety
    /// These are the last tiles that were configured on this thread, and still are. Their depth is 64; `depth` is not 0,
    /// and `x` and `w` point to as many tiles each.
    #[inline(always)]
    pub unsafe fn add_bf16(&self, x: [*const u8; 2], w: [*const u8; 2], depth: usize, sums: &mut [[[f32; 16]; 16]; 4]) {
        // SAFETY: by the contract; the tiles are configured; a tile of sums is 1 KiB.
        unsafe {
            asm!(
                "tileloadd tmm0, [{s} + {line}*1]", "tileloadd tmm1, [{s} + {line}*1 + 1024]",
                "tileloadd tmm2, [{s} + {line}*1 + 2048]", "tileloadd tmm3, [{s} + {line}*1 + 3072]",
                "2:",
                "tileloadd tmm4, [{x0} + {line}*1]", "tileloadd tmm6, [{w0} + {line}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w1} + {line}*1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{x1} + {line}*1]",
                "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
                "add {x0}, 1024", "add {x1}, 1024", "add {w0}, 1024", "add {w1}, 1024",
                "dec {n}", "jnz 2b",
                "tilestored [{s} + {line}*1], tmm0", "tilestored [{s} + {line}*1 + 1024], tmm1",
                "tilestored [{s} + {line}*1 + 2048], tmm2", "tilestored [{s} + {line}*1 + 3072], tmm3",
                s = in(reg) sums.as_mut_ptr(), line = in(reg) 64usize, n = inout(reg) depth => _,
                x0 = inout(reg) x[0] => _, x1 = inout(reg) x[1] => _, w0 = inout(reg) w[0] => _, w1 = inout(reg) w[1] => _,
                options(nostack)
            );
        }
    }
}

/// Asks Linux for the use of tiles. Other systems are not asked.
fn permitted() -> bool {
    const ARCH_PRCTL: usize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    if !cfg!(target_os = "linux") {
        return false;
    }
    let result: isize;
    // SAFETY: the call touches no memory of the process; before Linux 5.16 it fails.
    unsafe {
        asm!(
            "syscall", inlateout("rax") ARCH_PRCTL => result, in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA, out("rcx") _, out("r11") _, options(nostack)
        );
    }
    result == 0
}
