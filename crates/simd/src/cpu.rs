//! Which levels there are, which of them this machine has, and which one to use.

use crate::{Amx, Bf16, Isa, Kernel, Scalar};
#[cfg(target_arch = "x86_64")]
use crate::{Avx2, Avx512, Avx512Vnni, AvxVnni, Dots};
#[cfg(target_arch = "aarch64")]
use crate::{DotProd, I8mm, Neon};
use std::fmt;

/// An instruction-set level that this machine was found to have.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Level {
    /// Portable code.
    Scalar(Scalar),
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// The same with AVX-VNNI.
    #[cfg(target_arch = "x86_64")]
    AvxVnni(AvxVnni),
    /// AVX-512 F, BW, DQ, VL.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// The same with VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(Avx512Vnni),
    /// ARM64 Advanced SIMD.
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
    /// The same with dot products.
    #[cfg(target_arch = "aarch64")]
    DotProd(DotProd),
    /// The same with products of small matrices.
    #[cfg(target_arch = "aarch64")]
    I8mm(I8mm),
}

/// One row: the name that `ALULA_ISA` takes, and how to ask the machine for the level, with its unit for bfloat16 if it has
/// one.
type Row = (&'static str, fn() -> Option<(Level, Option<Bf16>)>);

/// Every level of this architecture, slowest first.
const ISAS: &[Row] = &[
    ("scalar", || Some((Level::Scalar(Scalar), None))),
    #[cfg(target_arch = "x86_64")]
    ("avx2", || Avx2::detect().map(|t| (Level::Avx2(t), None))),
    #[cfg(target_arch = "x86_64")]
    ("avxvnni", || AvxVnni::detect().map(|t| (Level::AvxVnni(t), None))),
    #[cfg(target_arch = "x86_64")]
    ("avx512", || Avx512::detect().map(|t| (Level::Avx512(t), None))),
    #[cfg(target_arch = "x86_64")]
    ("avx512vnni", || Avx512Vnni::detect().map(|t| (Level::Avx512Vnni(t), Dots::detect().map(Bf16::Dots)))),
    #[cfg(target_arch = "x86_64")]
    ("amx", || Amx::detect().map(|t| (Level::Avx512Vnni(t.vectors()), Some(Bf16::Tiles(t))))),
    #[cfg(target_arch = "aarch64")]
    ("neon", || Neon::detect().map(|t| (Level::Neon(t), None))),
    #[cfg(target_arch = "aarch64")]
    ("dotprod", || DotProd::detect().map(|t| (Level::DotProd(t), None))),
    #[cfg(target_arch = "aarch64")]
    ("i8mm", || I8mm::detect().map(|t| (Level::I8mm(t), None))),
];

/// The machine's instruction-set level: made once at start, passed along by value.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    name: &'static str,
    level: Level,
    unit: Option<Bf16>,
    fast: bool,
}

/// `ALULA_ISA` asks for a level that cannot be had.
#[derive(Debug, PartialEq, Eq)]
pub struct IsaError(String);

impl fmt::Display for IsaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let have: Vec<_> = Cpu::all().iter().map(Cpu::name).collect();
        write!(f, "ALULA_ISA={}: this machine has {}; unset it to use the fastest", self.0, have.join(", "))
    }
}

impl std::error::Error for IsaError {}

impl Cpu {
    /// Every level this machine has, slowest first.
    pub fn all() -> Vec<Cpu> {
        let have = |&(name, detect): &Row| detect().map(|(level, unit)| Cpu { name, level, unit, fast: false });
        ISAS.iter().filter_map(have).collect()
    }

    /// The fastest level, or the one that `name` asks for.
    ///
    /// # Errors
    /// The name is unknown or the machine lacks the level.
    pub fn pick(name: Option<&str>) -> Result<Cpu, IsaError> {
        let all = Cpu::all();
        let found = match name.filter(|n| !n.is_empty()) {
            None => all.last(),
            Some(n) => all.iter().find(|c| c.name == n),
        };
        found.copied().ok_or_else(|| IsaError(name.unwrap_or_default().to_owned()))
    }

    /// [`pick`](Cpu::pick) with the environment variable `ALULA_ISA`.
    ///
    /// # Errors
    /// As `pick`.
    pub fn from_env() -> Result<Cpu, IsaError> {
        Cpu::pick(std::env::var("ALULA_ISA").ok().as_deref())
    }

    /// The level's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The level's unit of tiles, if it has one.
    pub fn amx(&self) -> Option<Amx> {
        match self.unit {
            Some(Bf16::Tiles(amx)) => Some(amx),
            _ => None,
        }
    }

    /// The same level, where units that round in their own way are used too, so that bits depend on the machine.
    pub fn fast(self) -> Cpu {
        Cpu { fast: true, ..self }
    }

    /// The unit for products of bfloat16, if it may be used: see [`fast`](Cpu::fast).
    pub fn bf16(&self) -> Option<Bf16> {
        self.unit.filter(|_| self.fast)
    }

    /// Runs a kernel at this level.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.level {
            Level::Scalar(t) => t.enter(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(t) => t.enter(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::AvxVnni(t) => t.enter(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(t) => t.enter(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni(t) => t.enter(kernel),
            #[cfg(target_arch = "aarch64")]
            Level::Neon(t) => t.enter(kernel),
            #[cfg(target_arch = "aarch64")]
            Level::DotProd(t) => t.enter(kernel),
            #[cfg(target_arch = "aarch64")]
            Level::I8mm(t) => t.enter(kernel),
        }
    }
}
