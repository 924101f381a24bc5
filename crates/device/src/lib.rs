//! Who runs a graph: the device interface and the CPU.
//!
//! A device compiles a graph once into a [`Plan`] that owns everything a step needs: packed weights, the arena, the
//! cache. A step's cost beyond its kernels is a walk over a list.
#![forbid(unsafe_code)]

mod available;
mod batch;
mod cores;
mod cpu;
mod divide;
pub mod kept;
mod loader;
mod lora;
mod pager;
mod prepare;
mod read;
mod stage;
mod state;
mod stream;

pub use alula_kernels::{CacheType, Ceilings, Rate};
pub use alula_simd::{Cpu, IsaError};
pub use available::{available, taken};
pub use batch::{Adapter, Batch, HOLE, PAGE, Seq, emptied};
pub use cores::threads;
pub use cpu::CpuDevice;
pub use kept::Keep;
pub use read::disk_speed;

use alula_graph::{Graph, Op, WeightSource};
use alula_tensor::Storage;
use std::time::Duration;

/// What a device cannot do, or was asked wrongly.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A weight is missing, of another shape than the graph says, or broken.
    #[error("weight `{name}`: {why}")]
    Weight {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// An op that this device has no kernel for.
    #[error("{device} does not support the op {op} (`{value}`)")]
    Unsupported {
        /// Device name.
        device: String,
        /// Op family.
        op: &'static str,
        /// Name of the value it makes.
        value: String,
    },
    /// Threads cannot be bound to cores.
    #[error("{threads} threads cannot be bound to a core each: {why}")]
    Bind {
        /// How many were asked for.
        threads: usize,
        /// What is wrong, and what to do.
        why: String,
    },
    /// A batch that the plan was not made for.
    #[error("batch: {0}")]
    Batch(String),
    /// The machine has too little memory for the sizes that were asked for.
    #[error("there is no memory for {what}; ask for a shorter context, or smaller or fewer steps")]
    Memory {
        /// What it was for, with its size where that is a number at all.
        what: String,
    },
    /// It does not fit, even if weights are fetched when they are needed.
    #[error(
        "with what is fetched when it is needed left out, {least} bytes of memory are needed beside what the program itself \
         takes, and there are {budget}; ask for a shorter context, smaller steps or a smaller cache type, or give it more"
    )]
    Budget {
        /// Bytes that there are.
        budget: usize,
        /// Bytes that are needed at least.
        least: usize,
    },
}

/// The sizes that a plan is made for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Tokens in a step.
    pub tokens: usize,
    /// Result rows in a step.
    pub outputs: usize,
    /// Positions in a sequence.
    pub context: usize,
    /// Cache pages of [`PAGE`] positions.
    pub pages: usize,
    /// Sequences whose states of fixed size are kept at a time.
    pub slots: usize,
    /// States of fixed size that are kept beside those, see [`Plan::save`].
    pub checkpoints: usize,
    /// Element type of the cache.
    pub cache: CacheType,
}

/// Bytes that a plan holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Weights as the device keeps them, those that are always in memory.
    pub weights: usize,
    /// Cache, if every page and every slot were in use.
    pub cache: usize,
    /// Arena and scratch, if steps were as large as they may be.
    pub work: usize,
    /// Weights that are fetched when they are needed.
    pub fetched: usize,
    /// Memory for those of them that are there at a time.
    pub room: usize,
}

impl Memory {
    /// All that is in memory at a time.
    pub fn total(&self) -> usize {
        [self.cache, self.work, self.room].into_iter().fold(self.weights, usize::saturating_add)
    }
}

/// What a plan would hold and what a token would need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// What it would hold.
    pub memory: Memory,
    /// Bytes of weights that one token's step reads.
    pub token: usize,
    /// Of them, those that are fetched where they are not in memory still.
    pub token_fetched: usize,
}

/// What became of the weights that a plan fetches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How often a unit of them was needed: a product's matrices, or an expert's.
    pub wanted: u64,
    /// How often it was in memory still,
    pub found: u64,
    /// or had been fetched, or begun to be, before it was needed.
    pub ahead: u64,
    /// Bytes that were read.
    pub read: u64,
    /// How long steps waited for them.
    pub waited: Duration,
}

/// Something that runs graphs.
pub trait Device: Send + Sync {
    /// What it is, for people.
    fn name(&self) -> String;

    /// Whether it has a kernel for the op.
    fn supports(&self, op: &Op) -> bool;

    /// Loads the graph's weights and makes a plan. With `keep`, weights that the device brings into a form of its own
    /// may be taken from there, or kept there for the next time. `progress` hears of each weight: done and all, in
    /// elements.
    ///
    /// # Errors
    /// An op is not supported; a weight is missing or of another shape than the graph says; there is too little
    /// memory for the limits.
    fn compile(
        &self,
        graph: &Graph,
        weights: &dyn WeightSource,
        limits: Limits,
        keep: Option<&Keep>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Box<dyn Plan>, DeviceError>;

    /// What a plan of [`compile`](Device::compile) would need, without loading.
    ///
    /// # Errors
    /// As there.
    fn needs(&self, graph: &Graph, weights: &dyn WeightSource, limits: Limits) -> Result<Needs, DeviceError>;

    /// Bytes that a plan may take, if the device was told.
    fn budget(&self) -> Option<usize> {
        None
    }
}

/// A graph made ready on a device.
pub trait Plan: Send {
    /// Runs a step. Returns the last value's rows, `[batch.outputs, columns]`, valid until the next call.
    ///
    /// # Errors
    /// The batch is over the limits or does not fit together.
    fn run(&mut self, batch: &Batch<'_>) -> Result<&[f32], DeviceError>;

    /// Positions that a row sees at most, its own among them, if that is bounded in all layers that keep pages.
    fn window(&self) -> Option<usize>;

    /// Keeps the states of fixed size of a slot as they are at `position`, where the slot's last run begins or ends, in place of
    /// what the checkpoint held.
    ///
    /// # Errors
    /// The slot does not stand there; the slot or the checkpoint does not exist.
    fn save(&mut self, slot: u32, position: usize, checkpoint: u32) -> Result<(), DeviceError>;

    /// Puts a slot where a checkpoint stands: another sequence goes on from there.
    ///
    /// # Errors
    /// The checkpoint holds nothing; the slot or the checkpoint does not exist.
    fn restore(&mut self, checkpoint: u32, slot: u32) -> Result<(), DeviceError>;

    /// The file that packed weights are read from, if they were kept from an earlier start. Who finds after a run that it is
    /// no longer [whole](Storage::is_whole) must not use what the run gave.
    fn packed_file(&self) -> Option<&Storage>;

    /// A value that the graph keeps, by its number there, `[tokens, columns]` of the last run.
    fn kept(&self, value: usize) -> &[f32];

    /// The sizes that it was made for.
    fn limits(&self) -> Limits;

    /// Columns of the result.
    fn cols(&self) -> usize;

    /// What it holds.
    fn memory(&self) -> Memory;

    /// What became of the weights that it fetches, since it was made; `None` where all are in memory.
    fn traffic(&self) -> Option<Traffic> {
        None
    }

    /// Adapters that the graph has: their numbers are below this.
    fn adapters(&self) -> usize;
}
