//! What an engine is doing, in numbers.

use crate::scheduler;

/// How much an engine has to do and what it has done, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests that run.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Tokens of the requests that wait.
    pub waiting_tokens: usize,
    /// The cache's pages.
    pub pages: PageLoad,
    /// The last step.
    pub step: StepLoad,
    /// What happened since the engine was made.
    pub counters: Counters,
}

/// The pages of a cache; `total` is `used + cached + free`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageLoad {
    /// All.
    pub total: usize,
    /// Those that requests hold.
    pub used: usize,
    /// Those that nobody holds and that have content which a later request may find; they are taken when no others are free.
    pub cached: usize,
    /// Those without content.
    pub free: usize,
}

/// One step's batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepLoad {
    /// Rows: tokens that were computed, guesses among them.
    pub rows: usize,
    /// Requests that had a share.
    pub requests: usize,
}

/// What happened since an engine was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// What the scheduler counts: prompt tokens, those of them that were found in the cache, evictions, preemptions.
    pub scheduler: scheduler::Counters,
    /// Steps.
    pub steps: u64,
    /// Tokens that were generated.
    pub generated: u64,
    /// How often tokens were guessed for a request and computed,
    pub drafts: u64,
    /// the tokens that were guessed then,
    pub guessed: u64,
    /// and of these, those that were right.
    pub right: u64,
}
