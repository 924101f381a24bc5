//! CPU compute: one file per op family, and the thread pool.
//!
//! Every function here keeps the numeric contract: an output element has one accumulator and one fixed order of
//! operations, so its bits do not depend on the number of threads, on the other rows of the call, or on the
//! instruction set. Work is split over threads by outputs. The one exception is [`Input::B16`], which callers choose.
#![warn(unsafe_code)]

mod attend;
mod buf;
mod cache;
mod conv;
mod dots;
mod experts;
mod fast;
mod float;
mod lora;
mod machine;
mod map;
mod matmul;
mod mean;
mod nodes;
mod norm;
mod pack;
mod parts;
mod place;
mod pool;
mod quantize;
mod rope;
mod scan;
mod softmax;
mod state;
mod temperature;

pub use attend::{Attend, Scratch, Window, attend};
pub use buf::{Buf, zeros};
pub use cache::{CacheType, Kv, Rows, store};
pub use conv::{Conv, conv};
pub use experts::{ExpertScratch, Experts, Groups, Mixture, Picked, Route, experts, route};
pub use fast::{BTile, round};
pub use lora::{Low, lora};
pub use machine::{Ceilings, Rate, ceilings};
pub use map::{Binary, Unary, glu, map, zip, zip_rows};
pub use matmul::{Input, Product, TILED, matmul, matmuls};
pub use mean::mean;
pub use nodes::{interleave, interleaved};
pub use norm::{Norm, NormKind, norm, norm_groups};
pub use pack::Packed;
pub use parts::{concat, parts, parts_scratch};
pub use pool::Pool;
pub use quantize::{QBlock, Source, quantize};
pub use rope::{RopeStyle, rope, rope_table};
pub use scan::{Scan, ScanInput, scan};
pub use softmax::softmax;
pub use state::{Fixed, Run, Runs};
pub use temperature::temperature;

use alula_simd::{Cpu, Isa, LANES};

/// Where a kernel runs.
#[derive(Clone, Copy)]
pub struct Ctx<'a> {
    /// Instruction set.
    pub cpu: Cpu,
    /// Threads.
    pub pool: &'a Pool,
}

/// Below this many multiply-adds (or as many bytes moved) a second thread costs more than it saves.
const WORTH_SPLITTING: usize = 1 << 15;

/// The first `s.len()` ≤ 16 lanes from memory, the rest 0.
#[inline(always)]
fn load_part<I: Isa>(isa: I, s: &[f32]) -> I::F {
    match s.first_chunk::<LANES>() {
        Some(full) => isa.load(full),
        None => {
            let mut lanes = [0.0; LANES];
            lanes[..s.len()].copy_from_slice(s);
            isa.load(&lanes)
        }
    }
}

/// The first `s.len()` ≤ 16 lanes to memory.
#[inline(always)]
fn store_part<I: Isa>(isa: I, v: I::F, s: &mut [f32]) {
    match s.first_chunk_mut::<LANES>() {
        Some(full) => isa.store(v, full),
        None => {
            let mut lanes = [0.0; LANES];
            isa.store(v, &mut lanes);
            s.copy_from_slice(&lanes[..s.len()]);
        }
    }
}
