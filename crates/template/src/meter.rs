//! What one rendering may cost: a template comes with a model file, so it is a stranger's program.
//!
//! Units: a step is one operator or 64 bytes looked at (the engine counts its own instructions as fuel besides); bytes are counted when allocated and never given
//! back, so the bound on what is alive is also a bound on all that was ever made.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Steps that a rendering may take (some seconds at worst).
const STEPS: u64 = 100_000_000;
/// Bytes that a rendering may allocate, plus [`BYTES_PER_INPUT`] for each byte of its input.
const BYTES: u64 = 256 << 20;
/// See [`BYTES`]: templates that copy the conversation once per message stay far below this.
const BYTES_PER_INPUT: u64 = 256;
/// How deep values may nest. Python itself gives up near 1000; no schema that people write comes near 100.
pub(crate) const MAX_NESTING: u16 = 160;

/// Why a rendering stopped.
#[derive(Clone, Debug)]
pub(crate) enum Fail {
    /// `raise_exception` was called with this message.
    Raised(String),
    /// Anything else: what Python would have said in another exception, or a limit reached.
    Other(String),
}

pub(crate) type Res<T> = Result<T, Box<Fail>>;

/// An error that is not the template's own refusal.
pub(crate) fn fail<T>(what: impl Into<String>) -> Res<T> {
    Err(Box::new(Fail::Other(what.into())))
}

/// What is left to spend.
pub(crate) struct Meter {
    steps: AtomicU64,
    bytes: AtomicU64,
}

impl Default for Meter {
    fn default() -> Self {
        Self { steps: AtomicU64::new(STEPS), bytes: AtomicU64::new(BYTES) }
    }
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fail::Raised(what) | Fail::Other(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Fail {}

impl Meter {
    /// Takes in so many bytes of input, which allow for more work.
    pub(crate) fn grant(&self, bytes: usize) {
        let more = (bytes as u64).saturating_mul(BYTES_PER_INPUT);
        self.bytes.store(self.bytes.load(Relaxed).saturating_add(more), Relaxed);
    }

    /// Pays for work.
    pub(crate) fn step(&self, n: usize) -> Res<()> {
        match self.steps.load(Relaxed).checked_sub(n as u64) {
            Some(left) => self.steps.store(left, Relaxed),
            None => return fail("the template takes too long (more than 100 million steps)"),
        }
        Ok(())
    }

    /// Pays for looking through so many bytes.
    pub(crate) fn scan(&self, bytes: usize) -> Res<()> {
        self.step(1 + bytes / 64)
    }

    /// Pays for memory, before it is taken.
    pub(crate) fn alloc(&self, bytes: usize) -> Res<()> {
        match self.bytes.load(Relaxed).checked_sub(bytes as u64) {
            Some(left) => self.bytes.store(left, Relaxed),
            None => return fail("the template makes too much text (more than 256 MiB and 256 times its input)"),
        }
        self.scan(bytes)
    }
}
