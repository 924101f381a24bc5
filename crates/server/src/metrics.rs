//! What the server counts, as Prometheus reads it (text format 0.0.4).
//!
//! A request adds to a few atomic numbers; an engine leaves its [`Load`] after each step. Text is made only
//! when somebody asks. Everything of a model is written twice: as `alula_*`, and under the name that vLLM gives it, which is
//! what the Kubernetes Gateway API inference extension, llm-d and existing dashboards look for.

pub mod text;

use alula_engine::{Load, Reason, Usage};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds to the first token; vLLM's buckets.
const FIRST: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];
/// Seconds from token to token; vLLM's buckets and three smaller ones.
const TOKEN: &[f64] = &[
    0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
/// Seconds that a request takes; vLLM's buckets.
const LATENCY: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
];
/// Tokens of a request.
const TOKENS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0, 20_000.0, 50_000.0,
    100_000.0,
];
/// Tokens or requests of a step.
const STEP: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0];

/// How many observations are at most how large.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One for each bound, and one for what is above all of them.
    counts: Box<[AtomicU64]>,
    /// The bits of a double.
    sum: AtomicU64,
}

impl Histogram {
    /// An empty one with these upper bounds, in ascending order.
    pub fn new(bounds: &'static [f64]) -> Histogram {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, counts, sum: AtomicU64::new(0.0f64.to_bits()) }
    }

    /// Adds an observation.
    pub fn observe(&self, value: f64) {
        let at = self.bounds.partition_point(|&bound| bound < value);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // The function never declines.
        _ = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    fn read(&self) -> (Vec<u64>, f64) {
        let counts = self.counts.iter().map(|c| c.load(Ordering::Relaxed)).collect();
        (counts, f64::from_bits(self.sum.load(Ordering::Relaxed)))
    }
}

/// Why an answer ended, in the words of vLLM's label `finished_reason`.
pub(crate) const REASONS: [&str; 4] = ["stop", "length", "abort", "error"];

pub(crate) fn reason_name(reason: &Reason) -> &'static str {
    match reason {
        Reason::Stop | Reason::StopString(_) => "stop",
        Reason::Length | Reason::Context => "length",
        Reason::Cancelled => "abort",
        Reason::Failed(_) | Reason::Constraint(_) => "error",
    }
}

/// The requests of a model, or of an adapter that is called like one.
#[derive(Debug)]
pub struct ModelStats {
    first: Histogram,
    token: Histogram,
    whole: Histogram,
    queue: Histogram,
    prefill: Histogram,
    decode: Histogram,
    prompt: Histogram,
    generated: Histogram,
    ends: [AtomicU64; REASONS.len()],
    refused: AtomicU64,
    /// Jobs under way.
    pub(crate) active: AtomicI64,
}

impl Default for ModelStats {
    fn default() -> Self {
        let new = Histogram::new;
        Self {
            first: new(FIRST),
            token: new(TOKEN),
            whole: new(LATENCY),
            queue: new(LATENCY),
            prefill: new(LATENCY),
            decode: new(LATENCY),
            prompt: new(TOKENS),
            generated: new(TOKENS),
            ends: Default::default(),
            refused: AtomicU64::new(0),
            active: AtomicI64::new(0),
        }
    }
}

impl ModelStats {
    /// So many answers ended for this reason.
    pub(crate) fn end(&self, reason: &str, answers: usize) {
        if let Some(at) = REASONS.iter().position(|r| *r == reason) {
            self.ends[at].fetch_add(answers as u64, Ordering::Relaxed);
        }
    }

    /// A request found the queue full.
    pub(crate) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// What an answer took that came to the engine `before` seconds after its request.
    pub(crate) fn finished(&self, before: f64, usage: &Usage) {
        let (waited, prompt) = (usage.waited.as_secs_f64(), usage.prompt_time.as_secs_f64());
        let generate = usage.generate_time.as_secs_f64();
        self.first.observe(before + waited + prompt);
        self.whole.observe(before + waited + prompt + generate);
        self.queue.observe(waited);
        self.prefill.observe(prompt);
        self.decode.observe(generate);
        if usage.generated > 1 {
            self.token.observe(generate / (usage.generated - 1) as f64);
        }
        self.prompt.observe(usage.prompt as f64);
        self.generated.observe(usage.generated as f64);
    }
}

/// The steps of an engine.
#[derive(Debug)]
pub struct EngineStats {
    load: Mutex<Load>,
    rows: Histogram,
    batch: Histogram,
    gap: Histogram,
}

impl Default for EngineStats {
    fn default() -> Self {
        let new = Histogram::new;
        Self { load: Mutex::default(), rows: new(STEP), batch: new(STEP), gap: new(TOKEN) }
    }
}

impl EngineStats {
    /// What an engine does after a step, or after a request came or went.
    pub fn publish(&self, load: Load, stepped: bool) {
        if stepped && load.step.rows > 0 {
            self.rows.observe(load.step.rows as f64);
            self.batch.observe(load.step.requests as f64);
        }
        *lock(&self.load) = load;
    }

    /// So many seconds from one token of an answer to the next.
    pub fn gap(&self, seconds: f64) {
        self.gap.observe(seconds);
    }

    /// What the engine does.
    pub fn load(&self) -> Load {
        *lock(&self.load)
    }
}

/// By route and status: how many, and for how many seconds together.
type Requests = BTreeMap<(&'static str, u16), (u64, f64)>;

/// Everything that the server counts.
#[derive(Debug)]
pub struct Metrics {
    models: Mutex<BTreeMap<String, Arc<ModelStats>>>,
    requests: Mutex<Requests>,
    /// Seconds since 1970.
    began: f64,
}

impl Default for Metrics {
    fn default() -> Self {
        let began = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        Self { models: Mutex::default(), requests: Mutex::default(), began }
    }
}

impl Metrics {
    /// Those of a model. Only names that the server knows may be asked for: each stays for ever.
    pub fn model(&self, name: &str) -> Arc<ModelStats> {
        let mut models = lock(&self.models);
        match models.get(name) {
            Some(stats) => Arc::clone(stats),
            None => Arc::clone(models.entry(name.to_owned()).or_default()),
        }
    }

    /// A request is over.
    pub(crate) fn request(&self, route: &'static str, status: u16, seconds: f64) {
        let mut requests = lock(&self.requests);
        let (count, sum) = requests.entry((route, status)).or_default();
        (*count, *sum) = (*count + 1, *sum + seconds);
    }
}

/// Numbers cannot be half changed by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
