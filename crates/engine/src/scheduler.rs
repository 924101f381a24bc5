//! Who computes how many tokens in the next step. Pure: no tensors, no clock, no threads.
//!
//! A request is a sequence of known tokens of which the first so many are computed (are in the cache). A step gives
//! each of some requests a number of further tokens; there is no prefill and no decode, a prompt is only a longer way to go.
//! Some requests run, the rest wait. Of two that run the one of higher priority comes before, then the one that arrived first.
//! The rules:
//!
//! 1. Who runs and needs a page when none is free takes it from the last that runs, perhaps itself: that one gives back
//!    all its pages and its slot, waits, and computes its tokens again later (preemption by recompute).
//! 2. Of those who wait the next is one of the highest priority, of the group that was served the fewest tokens ([`crate::fair`]),
//!    and of its requests the one that arrived first. It joins if a slot is free and the free pages hold all its known tokens and one more
//!    page for each that already runs. If not, the last that runs gives way to it if it has a lower priority; else nobody
//!    joins, so nobody is overtaken for being long.
//! 3. Everyone who runs gets one token, so a long prompt never stops the others. Half of what is left of the budget goes to
//!    prompts in order, so the first of them keeps at least half its pace; the other half, and what the first left over,
//!    to those of the highest priority with the fewest tokens to go, so that short prompts do not wait for long ones. Of several
//!    whose next page will be the same only one gets more, and the others find it in the next step.
//! 4. What is left then is for guesses, up to a number of rows: who computes its last known token may compute some that it is
//!    expected to have next, if free pages hold them. Those that prove right are known and computed at once.
//!
//! **Pages are shared.** A full page that is computed gets a name ([`Pages::name`]): its tokens, the name before it, and for the
//! first page of a sequence what else its content depends on ([`Ask::kind`]). Who joins, or computes a prompt, goes on behind the pages that
//! hold its next tokens already, whoever computed them, but computes at least its last known token. Where a page depends on
//! tokens that follow it, its name has these too ([`Limits::share`]). Where also states of fixed size are kept of a sequence, it goes
//! on only behind pages that have a checkpoint of them. Shares then end where one is wanted: at the last page that a
//! prompt fills before its last token, and at each [`STRIDE`] tokens.
//!
//! **Everyone finishes** within a priority while no higher one has requests, if groups are finite in number. Who is oldest is
//! never preempted once it runs, gets a token in every step, and so finishes. While it waits, those who overtake it are of
//! groups with smaller counters. Each step serves somebody, which raises the counter of its group, and who comes later is not
//! lifted above the least; so the counters of all other groups pass that of its own, and it is next. Then nobody overtakes it,
//! those who run finish or give way, and it joins. So the oldest finishes, and then the next oldest is the oldest.

mod entry;

use crate::fair::Fair;
use crate::pages::{Pages, pages_for};
use alula_device::PAGE;
use entry::Entry;
use std::cmp::Reverse;
use std::collections::HashMap;
use thiserror::Error;

/// A request's name, unique in its engine; later requests have larger ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u64);

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a scheduler may give out.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Tokens in one step, at least 1.
    pub tokens: usize,
    /// Requests that run at the same time, at least 1; never more than `tokens`.
    pub running: usize,
    /// Cache pages.
    pub pages: usize,
    /// Rows of logits in one step, of last known tokens, of guesses and of others that are [asked for](Ask::all); never less than
    /// `running`.
    pub outputs: usize,
    /// Tokens in one step up to which guesses are added.
    pub guesses: usize,
    /// Requests that wait, beside those for which there is a place.
    pub waiting: usize,
    /// Tokens of those who wait, unless it is one alone.
    pub waiting_tokens: usize,
    /// Whether pages are shared, and on how many tokens after it a page depends.
    pub share: Option<usize>,
    /// Positions that a token sees at most, its own among them. Pages before those are given back while a sequence runs.
    pub window: Option<usize>,
    /// Where states of fixed size are kept in the slots: how many checkpoints of them there are.
    pub checkpoints: Option<usize>,
}

impl Default for Limits {
    /// No limits, no pages, nothing shared.
    fn default() -> Self {
        let most = usize::MAX;
        let (tokens, running, outputs, guesses) = (most, most, most, most);
        let (share, window, checkpoints) = (None, None, None);
        let (waiting, waiting_tokens) = (most, most);
        Self { tokens, running, pages: 0, outputs, guesses, waiting, waiting_tokens, share, window, checkpoints }
    }
}

/// Checkpoints are at least so many tokens apart, but for those at the ends of prompts.
pub const STRIDE: usize = 16 * PAGE;

/// A sequence that asks to be computed.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// The known tokens, at least one.
    pub tokens: Vec<u32>,
    /// Length that the sequence may reach.
    pub longest: usize,
    /// Who asks.
    pub group: u64,
    /// Higher ones come first.
    pub priority: i32,
    /// What its cache depends on beside its tokens. Sequences share pages only if this is the same.
    pub kind: Vec<u32>,
    /// Whether logits are wanted of each of the tokens. Then all of them are computed, also what others have computed.
    pub all: bool,
}

/// A request that is not put in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// It could never finish, because it may grow longer than the whole cache.
    #[error("a sequence of {longest} tokens does not fit in a cache of {room} tokens")]
    TooLong {
        /// Length that the sequence may reach.
        longest: usize,
        /// Positions in all cache pages together.
        room: usize,
    },
    /// Too many wait.
    #[error(
        "{waiting} requests of {tokens} tokens wait already, and at most {most} of {most_tokens} may; try again later"
    )]
    Full {
        /// Requests that wait.
        waiting: usize,
        /// Their tokens.
        tokens: usize,
        /// Requests that may wait.
        most: usize,
        /// Tokens that they may have.
        most_tokens: usize,
    },
    /// Too many of its group wait, and others must find room too.
    #[error(
        "{waiting} requests of {tokens} tokens of one group wait already, and may take no more of the queue; try again later"
    )]
    Share {
        /// Requests of the group that wait.
        waiting: usize,
        /// Their tokens.
        tokens: usize,
    },
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Prompt tokens of requests that began to run,
    pub prompt_tokens: u64,
    /// and of these, tokens that were found in the cache.
    pub cached_tokens: u64,
    /// Pages that were forgotten because their memory was needed.
    pub evictions: u64,
    /// How often a request had to give way.
    pub preemptions: u64,
}

/// Decides every step. Owns the sequences, the pages, the page tables and the slots.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    pages: Pages,
    /// Slots that nobody has who runs; the last is taken first.
    slots: Vec<u32>,
    /// Those who run, first those of the highest priority, then in order of arrival, which is order of id.
    running: Vec<Entry>,
    /// Those who wait, in order of arrival.
    waiting: Vec<Entry>,
    fair: Fair,
    next: u64,
    counters: Counters,
    /// Kept for its memory.
    name: Vec<u32>,
    /// Kept for its memory.
    order: Vec<usize>,
}

/// One request's part of a [`Step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share<'a> {
    /// Whose.
    pub id: Id,
    /// The sequence, all its known tokens.
    pub tokens: &'a [u32],
    /// Position of the first token to compute.
    pub start: usize,
    /// Number of known tokens to compute, at least 1.
    pub len: usize,
    /// Number of expected tokens to compute after them; 0 unless this ends.
    pub tried: usize,
    /// Whether this computes the last known token, so that its logits give the next one.
    pub ends: bool,
    /// Positions before that one of which logits are wanted too, first and end.
    pub asked: (usize, usize),
    /// Page table; covers `0..start + len + tried`, with [`alula_device::HOLE`] for pages before the [window](Limits::window).
    pub pages: &'a [u32],
    /// Below [`Limits::running`], and of nobody else who runs. Its own from its first share on.
    pub slot: u32,
    /// The checkpoint that its slot is to be put to before.
    pub resume: Option<u32>,
}

/// A map from request to number of tokens, those of the highest priority first, then in order of arrival.
#[derive(Debug)]
pub struct Step<'a> {
    running: &'a [Entry],
}

impl<'a> Step<'a> {
    /// The requests that compute something in this step.
    pub fn shares(&self) -> impl Iterator<Item = Share<'a>> + use<'a> {
        self.running.iter().filter(|e| e.due > 0).map(|e| Share {
            id: e.id,
            tokens: &e.tokens,
            start: e.computed,
            len: e.due,
            tried: e.tried,
            ends: e.ends(),
            asked: e.asked_in(e.due),
            pages: &e.table,
            slot: e.slot,
            resume: e.resume,
        })
    }
}

impl Scheduler {
    /// An empty line. Limits below 1 count as 1.
    pub fn new(limits: Limits) -> Self {
        let tokens = limits.tokens.max(1);
        let running = limits.running.clamp(1, tokens.min(u32::MAX as usize));
        let limits = Limits { tokens, running, outputs: limits.outputs.max(running), ..limits };
        Self {
            limits,
            pages: match limits.checkpoints {
                Some(total) => Pages::new(limits.pages).with_checkpoints(total),
                None => Pages::new(limits.pages),
            },
            slots: Vec::new(),
            running: Vec::new(),
            waiting: Vec::new(),
            fair: Fair::default(),
            next: 0,
            counters: Counters::default(),
            name: Vec::new(),
            order: Vec::new(),
        }
    }

    /// Puts a sequence in line. Nothing has changed if it is refused.
    ///
    /// Panics if it has no tokens.
    pub fn admit(&mut self, ask: Ask) -> Result<Id, Refused> {
        let Ask { tokens, longest, group, priority, kind, all } = ask;
        assert!(!tokens.is_empty(), "a sequence without tokens");
        let longest = longest.max(tokens.len());
        let room = self.pages.total().saturating_mul(PAGE);
        if longest > room {
            return Err(Refused::TooLong { longest, room });
        }
        let (waiting, held) = (self.waiting.len(), self.waiting_tokens());
        let Limits { waiting: most, waiting_tokens: most_tokens, running, .. } = self.limits;
        let places = running - self.running.len().min(running);
        let too_many = waiting >= most.saturating_add(places);
        if too_many || (waiting > 0 && held.saturating_add(tokens.len()) > most_tokens) {
            return Err(Refused::Full { waiting, tokens: held, most, most_tokens });
        }
        // A group leaves as much room as it takes (Choudhury and Hahne's dynamic thresholds), so one that asks without end
        // cannot keep the others out. Group 0 is everybody who has no name.
        let own: Vec<usize> =
            self.waiting.iter().filter(|e| group != 0 && e.group == group).map(|e| e.tokens.len()).collect();
        let (ours, our_tokens) = (own.len(), own.iter().sum::<usize>());
        let crowd = waiting + ours.saturating_sub(places) >= most.saturating_add(places);
        if ours > 0 && (crowd || held.saturating_add(our_tokens).saturating_add(tokens.len()) > most_tokens) {
            return Err(Refused::Share { waiting: ours, tokens: our_tokens });
        }
        let id = Id(self.next);
        self.next += 1;
        self.fair.come(group);
        self.waiting.push(Entry {
            id,
            group,
            priority,
            kind,
            asked: (0, if all { tokens.len() - 1 } else { 0 }),
            tokens,
            computed: 0,
            due: 0,
            guesses: 0,
            tried: 0,
            grown: 0,
            longest,
            table: Vec::new(),
            named: 0,
            before: 0,
            slot: 0,
            resume: None,
            mark: 0,
            found: 0,
            again: false,
        });
        Ok(id)
    }

    /// Decides the next step. It must be run and committed, or forgotten: then the next call decides anew from the same state.
    pub fn step(&mut self) -> Step<'_> {
        let mut at = 0;
        while at < self.running.len() {
            let entry = &mut self.running[at];
            if let Some(window) = self.limits.window {
                entry.trim(&mut self.pages, window);
            }
            let found = self.limits.share.map_or(0, |ahead| entry.find(&mut self.pages, ahead, &mut self.name));
            if !entry.again {
                entry.found += found;
                self.counters.cached_tokens += found as u64;
            }
            match self.pages.cover(&mut entry.table, entry.tokens.len()) {
                Ok(()) => {
                    // It has room to grow as far as its pages go, so that only a new page makes it allocate.
                    entry.tokens.reserve((entry.table.len() * PAGE + 1).saturating_sub(entry.tokens.len()));
                    at += 1;
                }
                Err(_) => self.preempt(),
            }
        }
        while let Some(at) = self.next_of_waiting() {
            let priority = self.waiting[at].priority;
            if (self.running.len() >= self.limits.running) || !self.join(at) {
                // Who has just given way does not fit: it had fewer pages than it needs, and others took of them.
                let lower = self.running.iter().rev().take_while(|e| e.priority < priority);
                let (count, pages) = lower.fold((0, 0), |(n, pages), e| (n + 1, pages + e.held()));
                let wanted = pages_for(self.waiting[at].tokens.len()) + self.running.len() - count;
                if count == 0 || self.pages.free() + pages < wanted {
                    break;
                }
                self.preempt();
            }
        }
        self.divide();
        Step { running: &self.running }
    }

    /// Who joins next, by its place among those who wait.
    fn next_of_waiting(&self) -> Option<usize> {
        let turn = |e: &Entry| (Reverse(e.priority), self.fair.counter(e.group), e.id);
        (0..self.waiting.len()).min_by_key(|&at| turn(&self.waiting[at]))
    }

    /// Lets one of those who wait run, if there are pages.
    fn join(&mut self, at: usize) -> bool {
        let entry = &mut self.waiting[at];
        let known = entry.tokens.len();
        let found = self.limits.share.map_or(0, |ahead| entry.find(&mut self.pages, ahead, &mut self.name));
        let wanted = pages_for(known) - entry.table.len() + self.running.len();
        if self.pages.free() < wanted || self.pages.cover(&mut entry.table, known).is_err() {
            self.pages.release(&mut entry.table);
            (entry.computed, entry.named, entry.before, entry.resume) = (0, 0, 0, None);
            return false;
        }
        let mut entry = self.waiting.remove(at);
        entry.mark = (known - 1) / PAGE * PAGE;
        entry.slot = self.slots.pop().unwrap_or(self.running.len() as u32);
        if !entry.again {
            entry.found = found;
            self.counters.prompt_tokens += known as u64;
            self.counters.cached_tokens += found as u64;
            self.fair.serve(entry.group, known - found);
        }
        let place = self.running.partition_point(|e| e.rank() < entry.rank());
        self.running.insert(place, entry);
        true
    }

    /// Divides the tokens of the step.
    fn divide(&mut self) {
        let Self { running, order, name, limits, .. } = self;
        let mut left = limits.tokens;
        // Each has a row of logits, and these are for those that want more.
        let mut outputs = limits.outputs - running.len();
        for entry in &mut *running {
            entry.due = (entry.tokens.len() - entry.computed).min(1);
            (entry.tried, entry.grown) = (0, 0);
            left -= entry.due;
        }
        order.clear();
        order.extend((0..running.len()).filter(|&at| running[at].rest() > 0));
        let mut pages = HashMap::new();
        // Gives as many tokens as there are, and returns what it gave.
        let mut give = |entry: &mut Entry, at: usize, left: usize, alone: bool| {
            let ahead = limits.share.filter(|_| !alone && entry.seeks());
            let name = ahead.and_then(|ahead| entry.name(entry.named, entry.before, ahead, name));
            if left == 0 || name.is_some_and(|name| *pages.entry(name.to_vec()).or_insert(at) != at) {
                return 0;
            }
            let most = match limits.share.and(limits.checkpoints) {
                Some(_) => entry.stop(entry.computed) - entry.computed - entry.due,
                None => usize::MAX,
            };
            let most = if entry.asks() { most.min(outputs) } else { most };
            let more = entry.rest().min(left).min(most);
            if entry.asks() {
                outputs -= more;
            }
            entry.due += more;
            more
        };
        let (mut half, alone) = (left.div_ceil(2), order.len() < 2);
        left -= half;
        for &at in &*order {
            half -= give(&mut running[at], at, half, alone);
        }
        left += half;
        order.sort_by_key(|&at| (Reverse(running[at].priority), running[at].rest()));
        for &at in &*order {
            left -= give(&mut running[at], at, left, alone);
        }
        left = left.min(self.limits.guesses.saturating_sub(self.limits.tokens - left));
        let mut outputs = self.limits.outputs - running.iter().map(Entry::outputs).sum::<usize>();
        for entry in running.iter_mut().filter(|e| e.ends()) {
            let (known, room) = (entry.tokens.len(), left.min(outputs));
            entry.tried = entry.guesses.min(room).min(entry.table.len() * PAGE - known);
            left -= entry.tried;
            outputs -= entry.tried;
        }
    }

    /// The last that runs waits again, with nothing computed.
    fn preempt(&mut self) {
        let Some(mut entry) = self.running.pop() else { return };
        self.counters.preemptions += 1;
        entry.forget(&mut self.pages);
        self.slots.push(entry.slot);
        let place = self.waiting.partition_point(|e| e.id < entry.id);
        self.waiting.insert(place, entry);
    }

    /// Expects `n` tokens of `id` to come next, until it is committed again. Returns how many of them its page table covers:
    /// fewer where pages are short, none if `id` does not run.
    pub fn expect(&mut self, id: Id, n: usize) -> usize {
        let others = self.running.len();
        let Some(entry) = self.running.iter_mut().find(|e| e.id == id) else { return 0 };
        let (known, held) = (entry.tokens.len(), entry.table.len());
        let n = n.min(entry.longest - known);
        // A page is left to each that runs, so that nobody gives way to a guess.
        let more = pages_for(known + n).saturating_sub(held);
        if more == 0 || self.pages.free() >= more + others && self.pages.cover(&mut entry.table, known + n).is_ok() {
            entry.guesses = n;
        } else {
            entry.guesses = n.min((held * PAGE).saturating_sub(known));
        }
        entry.guesses
    }

    /// The page table of `id`, empty while it waits.
    pub fn table(&self, id: Id) -> &[u32] {
        self.entry(id).map_or(&[], |e| &e.table)
    }

    /// The sequence of `id`; empty if it is not in line.
    pub fn tokens(&self, id: Id) -> &[u32] {
        self.entry(id).map_or(&[], |e| &e.tokens)
    }

    /// Prompt tokens of `id` that were in the cache when it first ran.
    pub fn found(&self, id: Id) -> usize {
        self.entry(id).map_or(0, |e| e.found)
    }

    fn entry(&self, id: Id) -> Option<&Entry> {
        let waiting = || self.waiting.binary_search_by_key(&id, |e| e.id).ok().map(|at| &self.waiting[at]);
        self.running.iter().find(|e| e.id == id).or_else(waiting)
    }

    /// Adds a token to the sequence of `id`, which has computed its last known one in the step that is to be committed.
    ///
    /// Panics if `id` does not run or grows past the length it was admitted with.
    pub fn append(&mut self, id: Id, token: u32) {
        let entry = self.running.iter_mut().find(|e| e.id == id).expect("only who runs grows");
        entry.tokens.push(token);
        entry.grown += 1;
        self.fair.serve(entry.group, 1);
        assert!(entry.tokens.len() <= entry.longest, "request {id} grew past {} tokens", entry.longest);
    }

    /// The step's share of `id` has been computed. The tokens that were [appended](Scheduler::append) since are those that
    /// were expected rightly, and one more.
    ///
    /// Panics if `id` does not run.
    pub fn commit(&mut self, id: Id) {
        let entry = self.running.iter_mut().find(|e| e.id == id).expect("only who runs has a share");
        let tried = std::mem::take(&mut entry.tried);
        let right = std::mem::take(&mut entry.grown).saturating_sub(1).min(tried);
        entry.computed += std::mem::take(&mut entry.due) + right;
        entry.asked.0 = entry.asked.0.max(entry.computed).min(entry.asked.1);
        (entry.guesses, entry.resume) = (0, None);
    }

    /// The pages of `id` that are computed in full may be shared. Their content must be as it will stay, and no other step use
    /// them that began before. Does nothing if `id` does not run.
    pub fn share(&mut self, id: Id) {
        let (Some(ahead), Some(entry)) = (self.limits.share, self.running.iter_mut().find(|e| e.id == id)) else {
            return;
        };
        while (entry.named + 1) * PAGE <= entry.computed {
            let Some(name) = entry.name(entry.named, entry.before, ahead, &mut self.name) else { break };
            let page = self.pages.name(entry.table[entry.named], name);
            entry.table[entry.named] = page;
            entry.before = self.pages.number(page);
            entry.named += 1;
        }
    }

    /// Where `id` stands after its step, a checkpoint may be wanted: its slot, its position, and the checkpoint that is to hold
    /// them before anything else happens. Its pages must have been [shared](Scheduler::share).
    pub fn checkpoint(&mut self, id: Id) -> Option<(u32, usize, u32)> {
        let entry = self.running.iter().find(|e| e.id == id)?;
        let at = entry.computed;
        let wanted = at > 0 && (at == entry.mark || at.is_multiple_of(STRIDE)) && entry.named * PAGE == at;
        let last = entry.named.checked_sub(1).map(|at| entry.table[at]);
        let page = last.filter(|page| wanted && !self.pages.resumes(*page))?;
        let needed = |number| self.running.iter().any(|e| e.resume == Some(number));
        let number = self.pages.checkpoints()?.give(page, needed)?;
        Some((entry.slot, at, number))
    }

    /// The states could not be kept in a checkpoint: it holds nothing.
    pub fn lose(&mut self, checkpoint: u32) {
        if let Some(checkpoints) = self.pages.checkpoints() {
            checkpoints.lose(checkpoint);
        }
    }

    /// Everything of `id` that is in the cache is void and is computed anew; `kind` is what that depends on, see [`Ask::kind`].
    /// Does nothing if `id` does not run.
    pub fn restart(&mut self, id: Id, kind: Vec<u32>) {
        if let Some(entry) = self.running.iter_mut().find(|e| e.id == id) {
            entry.forget(&mut self.pages);
            entry.kind = kind;
        }
    }

    /// Takes `id` out of the line, finished or not, and frees its pages and slot; false if it is not there. May come at any time.
    pub fn cancel(&mut self, id: Id) -> bool {
        let entry = if let Some(at) = self.running.iter().position(|e| e.id == id) {
            let mut entry = self.running.remove(at);
            self.slots.push(entry.slot);
            self.pages.release(&mut entry.table);
            entry
        } else {
            match self.waiting.binary_search_by_key(&id, |e| e.id) {
                Ok(at) => self.waiting.remove(at),
                Err(_) => return false,
            }
        };
        self.fair.go(entry.group);
        true
    }

    /// Requests that run.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Known tokens of the requests that wait.
    pub fn waiting_tokens(&self) -> usize {
        self.waiting.iter().map(|e| e.tokens.len()).sum()
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        Counters { evictions: self.pages.evictions(), ..self.counters }
    }

    /// The cache pages: how many there are, how many are free.
    pub fn pages(&self) -> &Pages {
        &self.pages
    }
}

#[cfg(test)]
mod tests;
