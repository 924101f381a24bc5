//! Who computes how many tokens in the next step. Pure: no tensors, no clock, no threads.
//!
//! A request is a sequence of known tokens of which the first so many are computed (are in the cache). A step gives
//! each of some requests a number of further tokens; there is no prefill and no decode, a prompt is only a longer way to go.
//! The rules, over one line of requests in order of arrival, of which a front part runs and the rest waits:
//!
//! 1. Everyone who runs gets one token (so a long prompt never stops the others), then, in order, as many more as the budget holds.
//! 2. What is left of the budget goes to the next in line, who joins if the free pages hold all its known tokens
//!    and one more page for each that already runs; nobody overtakes.
//! 3. Who runs and needs a page when none is free takes it from the youngest that runs, perhaps itself: that one gives back all
//!    its pages and its slot, waits at the head of those who wait, and computes its tokens again later (preemption by recompute).
//!
//! 4. What is left then is for guesses: who computes its last known token may compute some that it is expected to have next,
//!    if free pages hold them. Those that prove right are known and computed at once.
//!
//! So the oldest always moves on, hence finishes, hence everyone does.

use crate::pages::{Pages, pages_for};
use alula_device::PAGE;
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
}

/// A request that could never finish, because it may grow longer than the whole cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a sequence of {longest} tokens does not fit in a cache of {room} tokens")]
pub struct TooLong {
    /// Length that the sequence may reach.
    pub longest: usize,
    /// Positions in all cache pages together.
    pub room: usize,
}

/// One request in the line.
#[derive(Debug)]
struct Entry {
    id: Id,
    /// Tokens of the sequence so far.
    known: usize,
    /// Of these, how many are in the cache.
    computed: usize,
    /// Of these, how many the step under way adds.
    due: usize,
    /// Tokens that are expected to come next.
    guesses: usize,
    /// Of these, how many the step under way computes.
    tried: usize,
    /// Length that the sequence may reach.
    longest: usize,
    /// Covers `known` while it runs, empty while it waits.
    table: Vec<u32>,
    /// Nobody else's while it runs.
    slot: u32,
}

/// Decides every step. Owns the pages, the page tables and the slots.
#[derive(Debug)]
pub struct Scheduler {
    tokens: usize,
    max_running: usize,
    pages: Pages,
    /// Slots that nobody has who runs; the last is taken first.
    slots: Vec<u32>,
    /// In order of arrival, which is order of id: `line[..running]` run, the rest wait.
    line: Vec<Entry>,
    running: usize,
    next: u64,
    preemptions: u64,
}

/// One request's part of a [`Step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share<'a> {
    /// Whose.
    pub id: Id,
    /// Position of the first token to compute.
    pub start: usize,
    /// Number of known tokens to compute, at least 1.
    pub len: usize,
    /// Number of expected tokens to compute after them; 0 unless this ends.
    pub tried: usize,
    /// Whether this computes the last known token, so that its logits give the next one.
    pub ends: bool,
    /// Page table; covers `0..start + len + tried`.
    pub pages: &'a [u32],
    /// Below [`Limits::running`], and of nobody else who runs. Its own from position 0 on.
    pub slot: u32,
}

/// A map from request to number of tokens, in order of arrival.
#[derive(Debug)]
pub struct Step<'a> {
    running: &'a [Entry],
}

impl<'a> Step<'a> {
    /// The requests that compute something in this step.
    pub fn shares(&self) -> impl Iterator<Item = Share<'a>> + use<'a> {
        self.running.iter().filter(|e| e.due > 0).map(|e| Share {
            id: e.id,
            start: e.computed,
            len: e.due,
            tried: e.tried,
            ends: e.computed + e.due == e.known,
            pages: &e.table,
            slot: e.slot,
        })
    }
}

impl Scheduler {
    /// An empty line. Limits below 1 count as 1.
    pub fn new(limits: Limits) -> Self {
        let tokens = limits.tokens.max(1);
        let max_running = limits.running.clamp(1, tokens);
        Self {
            tokens,
            max_running,
            pages: Pages::new(limits.pages),
            slots: (0..max_running as u32).rev().collect(),
            line: Vec::new(),
            running: 0,
            next: 0,
            preemptions: 0,
        }
    }

    /// Puts a sequence of `known` tokens, at least 1, that may grow to `longest` at the end of the line.
    pub fn admit(&mut self, known: usize, longest: usize) -> Result<Id, TooLong> {
        let longest = longest.max(known);
        let room = self.pages.total().saturating_mul(PAGE);
        if longest > room {
            return Err(TooLong { longest, room });
        }
        let id = Id(self.next);
        self.next += 1;
        let table = Vec::new();
        self.line.push(Entry { id, known, computed: 0, due: 0, guesses: 0, tried: 0, longest, table, slot: 0 });
        Ok(id)
    }

    /// Decides the next step. It must be run and committed, or forgotten: then the next call decides anew from the same state.
    pub fn step(&mut self) -> Step<'_> {
        let mut at = 0;
        while at < self.running {
            let Entry { table, known, .. } = &mut self.line[at];
            match self.pages.cover(table, *known) {
                Ok(()) => at += 1,
                Err(_) => self.preempt(),
            }
        }
        let mut left = self.tokens;
        for entry in &mut self.line[..self.running] {
            entry.due = (entry.known - entry.computed).min(1);
            entry.tried = 0;
            left -= entry.due;
        }
        for entry in &mut self.line[..self.running] {
            let more = (entry.known - entry.computed - entry.due).min(left);
            entry.due += more;
            left -= more;
        }
        // Who has just given way does not fit: it had fewer pages than it needs, and others took of them.
        while left > 0 && self.running < self.max_running {
            let Some(entry) = self.line.get_mut(self.running) else { break };
            if self.pages.free() < pages_for(entry.known) + self.running
                || self.pages.cover(&mut entry.table, entry.known).is_err()
            {
                break;
            }
            entry.slot = self.slots.pop().expect("as many slots as may run");
            (entry.due, entry.tried) = (entry.known.min(left), 0);
            left -= entry.due;
            self.running += 1;
        }
        for entry in &mut self.line[..self.running] {
            let (n, ends) = (entry.guesses, entry.due > 0 && entry.computed + entry.due == entry.known);
            let room = n <= left && entry.known + n <= entry.longest;
            if ends && room && self.pages.cover(&mut entry.table, entry.known + n).is_ok() {
                entry.tried = n;
                left -= n;
            }
        }
        Step { running: &self.line[..self.running] }
    }

    /// The youngest that runs waits again, with nothing computed.
    fn preempt(&mut self) {
        self.running -= 1;
        self.preemptions += 1;
        let entry = &mut self.line[self.running];
        self.pages.release(&mut entry.table);
        self.slots.push(entry.slot);
        (entry.computed, entry.due, entry.guesses, entry.tried) = (0, 0, 0, 0);
    }

    /// Expects `n` tokens of `id` to come next, until it is committed again. Does nothing if `id` is not there.
    pub fn expect(&mut self, id: Id, n: usize) {
        if let Some(at) = self.find(id) {
            self.line[at].guesses = n;
        }
    }

    /// The page table of `id`, empty while it waits.
    pub fn table(&self, id: Id) -> &[u32] {
        self.find(id).map_or(&[], |at| &self.line[at].table)
    }

    /// The step's share of `id` has been computed, and `appended` tokens were added to its sequence: those that were expected
    /// rightly, and one more.
    ///
    /// Panics if `id` is not in line or grows past the length it was admitted with.
    pub fn commit(&mut self, id: Id, appended: usize) {
        let at = self.find(id).expect("commit of a request that is not in line");
        let entry = &mut self.line[at];
        let tried = std::mem::take(&mut entry.tried);
        entry.computed += std::mem::take(&mut entry.due) + appended.saturating_sub(1).min(tried);
        entry.known += appended;
        entry.guesses = 0;
        assert!(entry.known <= entry.longest, "request {id} grew past {} tokens", entry.longest);
    }

    /// Everything of `id` that is in the cache is void and is computed anew, in the pages it has. Does nothing if `id` is not there.
    pub fn restart(&mut self, id: Id) {
        if let Some(at) = self.find(id) {
            let entry = &mut self.line[at];
            (entry.computed, entry.due, entry.guesses, entry.tried) = (0, 0, 0, 0);
        }
    }

    /// Takes `id` out of the line, finished or not, and frees its pages and slot; false if it is not there. May come at any time.
    pub fn cancel(&mut self, id: Id) -> bool {
        let Some(at) = self.find(id) else { return false };
        let mut entry = self.line.remove(at);
        self.pages.release(&mut entry.table);
        if at < self.running {
            self.slots.push(entry.slot);
            self.running -= 1;
        }
        true
    }

    fn find(&self, id: Id) -> Option<usize> {
        self.line.binary_search_by_key(&id, |e| e.id).ok()
    }

    /// Requests that run.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.line.len() - self.running
    }

    /// How often a request had to give way so far.
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// The cache pages: how many there are, how many are free.
    pub fn pages(&self) -> &Pages {
        &self.pages
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn scheduler(tokens: usize, running: usize, pages: usize) -> Scheduler {
        Scheduler::new(Limits { tokens, running, pages })
    }

    /// The step as (id, start, len, ends), then committed; each share that ends grows by one token.
    fn run(s: &mut Scheduler) -> Vec<(u64, usize, usize, bool)> {
        let shares: Vec<_> = s.step().shares().map(|x| (x.id.0, x.start, x.len, x.ends)).collect();
        for &(id, _, _, ends) in &shares {
            s.commit(Id(id), usize::from(ends));
        }
        shares
    }

    #[test]
    fn a_long_prompt_goes_in_pieces_and_stops_nobody() {
        let mut s = scheduler(8, 4, 100);
        s.admit(3, 100).unwrap();
        s.admit(20, 100).unwrap();
        s.admit(2, 100).unwrap();
        assert_eq!(run(&mut s), [(0, 0, 3, true), (1, 0, 5, false)]);
        assert_eq!(run(&mut s), [(0, 3, 1, true), (1, 5, 7, false)]);
        assert_eq!((s.running(), s.waiting()), (2, 1));
        assert_eq!(run(&mut s), [(0, 4, 1, true), (1, 12, 7, false)]);
        assert_eq!(run(&mut s), [(0, 5, 1, true), (1, 19, 1, true), (2, 0, 2, true)]);
        assert_eq!(run(&mut s), [(0, 6, 1, true), (1, 20, 1, true), (2, 2, 1, true)]);
    }

    #[test]
    fn a_younger_request_keeps_its_pace_beside_an_older_long_one() {
        let mut s = scheduler(4, 4, 100);
        s.admit(1, 100).unwrap();
        s.admit(1, 100).unwrap();
        assert_eq!(run(&mut s).len(), 2);
        s.commit(Id(0), 50);
        assert_eq!(run(&mut s), [(0, 1, 3, false), (1, 1, 1, true)]);
    }

    #[test]
    fn the_youngest_gives_way_and_comes_back() {
        let mut s = scheduler(64, 4, 3);
        s.admit(PAGE - 1, 3 * PAGE).unwrap();
        s.admit(1, 3 * PAGE).unwrap();
        assert_eq!(run(&mut s), [(0, 0, 63, true), (1, 0, 1, true)]);
        s.commit(Id(0), PAGE);
        assert_eq!(run(&mut s), [(0, 63, 63, false), (1, 1, 1, true)]);
        assert_eq!((s.preemptions(), s.pages().free()), (0, 0));
        s.commit(Id(0), 1);
        assert_eq!(run(&mut s), [(0, 126, 3, true)], "129 tokens need a third page");
        assert_eq!((s.running(), s.waiting(), s.preemptions(), s.pages().free()), (1, 1, 1, 0));
        assert!(s.cancel(Id(0)));
        assert_eq!(run(&mut s), [(1, 0, 3, true)]);
        assert!(s.cancel(Id(1)) && !s.cancel(Id(1)));
        assert_eq!((s.running(), s.waiting(), s.pages().free()), (0, 0, 3));
    }

    #[test]
    fn the_youngest_gives_way_to_itself_too() {
        let mut s = scheduler(200, 4, 2);
        s.admit(1, 2 * PAGE).unwrap();
        s.admit(PAGE, 2 * PAGE).unwrap();
        assert_eq!(run(&mut s), [(0, 0, 1, true)], "one page is kept for the first");
        let mut s = scheduler(200, 4, 3);
        s.admit(PAGE, 2 * PAGE).unwrap();
        s.admit(PAGE, 2 * PAGE).unwrap();
        assert_eq!(run(&mut s), [(0, 0, 64, true), (1, 0, 64, true)]);
        assert_eq!(run(&mut s), [(0, 64, 1, true)], "the third page went to the older");
        assert_eq!((s.waiting(), s.preemptions(), s.pages().free()), (1, 1, 1));
        assert_eq!(run(&mut s), [(0, 65, 1, true)], "its two pages are not free");
    }

    #[test]
    fn limits_hold() {
        let mut s = scheduler(0, 0, 2);
        assert_eq!(s.admit(1, 2 * PAGE + 1), Err(TooLong { longest: 129, room: 128 }));
        assert_eq!(s.admit(129, 1), Err(TooLong { longest: 129, room: 128 }));
        s.admit(2, 128).unwrap();
        s.admit(2, 128).unwrap();
        assert_eq!(run(&mut s), [(0, 0, 1, false)]);
        assert_eq!(run(&mut s), [(0, 1, 1, true)]);
        assert_eq!((s.running(), s.waiting()), (1, 1));
        let mut s = scheduler(8, 1, 9);
        s.admit(2, 128).unwrap();
        s.admit(2, 128).unwrap();
        assert_eq!(run(&mut s), [(0, 0, 2, true)], "one at a time");
    }

    #[test]
    fn newcomers_leave_a_page_to_each_that_runs() {
        let mut s = scheduler(1000, 9, 3);
        s.admit(1, 10).unwrap();
        s.admit(2 * PAGE, 2 * PAGE).unwrap();
        s.admit(1, 10).unwrap();
        assert_eq!(run(&mut s), [(0, 0, 1, true)], "two pages are free but one is kept, and nobody overtakes");
        assert_eq!((s.running(), s.waiting()), (1, 2));
    }

    #[test]
    fn a_forgotten_step_is_decided_again() {
        let mut s = scheduler(8, 9, 9);
        s.admit(20, 30).unwrap();
        s.admit(5, 30).unwrap();
        run(&mut s);
        let first: Vec<_> = s.step().shares().map(|x| (x.id, x.start, x.len)).collect();
        let again: Vec<_> = s.step().shares().map(|x| (x.id, x.start, x.len)).collect();
        assert_eq!(first, again);
        assert_eq!(first, [(Id(0), 8, 8)]);
    }

    #[test]
    fn a_restart_computes_everything_again() {
        let mut s = scheduler(8, 9, 9);
        let id = s.admit(3, 30).unwrap();
        run(&mut s);
        s.restart(id);
        assert_eq!(run(&mut s), [(0, 0, 4, true)]);
        assert_eq!(run(&mut s), [(0, 4, 1, true)]);
        s.restart(Id(7));
        assert!(s.cancel(id));
        assert_eq!(s.pages().free(), 9);
    }

    #[test]
    #[should_panic(expected = "grew past")]
    fn growth_past_the_promise_is_a_bug() {
        let mut s = scheduler(8, 9, 9);
        let id = s.admit(1, 2).unwrap();
        s.commit(id, 2);
    }

    /// What a bystander knows about one request.
    struct Watch {
        known: usize,
        goal: usize,
        computed: usize,
        guesses: usize,
        /// That it had in its last share.
        slot: Option<u32>,
    }

    /// Checks a step against what is known from outside, and commits it.
    fn watch(s: &mut Scheduler, budget: usize, max_running: usize, seen: &mut BTreeMap<Id, Watch>) -> usize {
        let preemptions = s.preemptions();
        let was_running: Vec<Id> = s.line[..s.running].iter().map(|e| e.id).collect();
        let step = s.step();
        let (mut total, mut held, mut shares, mut slots) = (0, BTreeSet::new(), Vec::new(), BTreeSet::new());
        for share in step.shares() {
            let w = &seen[&share.id];
            assert!(share.len >= 1);
            assert!(share.start == w.computed || share.start == 0, "goes on where it was, or begins again");
            assert!(share.start + share.len <= w.known);
            assert_eq!(share.ends, share.start + share.len == w.known);
            let all = share.len + share.tried;
            assert!(share.tried == 0 || share.ends && share.tried <= w.guesses && w.known + share.tried <= w.goal);
            assert!(share.pages.len() >= pages_for(share.start + all));
            assert!(share.pages.iter().all(|&p| held.insert(p)), "a page in two tables");
            assert!((share.slot as usize) < max_running && slots.insert(share.slot), "a slot of two who run");
            assert!(share.start == 0 || seen[&share.id].slot == Some(share.slot), "another slot on the way");
            total += all;
            shares.push((share.id, share.start, share.len, share.ends, share.tried, share.slot));
        }
        assert!(total <= budget && shares.len() <= max_running);
        assert!(shares.iter().map(|x| x.0).is_sorted(), "in order of arrival");
        let gave_way = (s.preemptions() - preemptions) as usize;
        let moved = was_running.len() - gave_way;
        assert!(was_running[..moved].iter().all(|id| shares.iter().any(|x| x.0 == *id)), "everyone who runs moves on");
        assert_eq!(
            s.pages().free() + held.len(),
            s.pages().total(),
            "every page is free or in the table of one that runs"
        );
        let oldest = seen.keys().next();
        assert_eq!(shares.first().map(|x| &x.0), oldest, "the oldest moves on");
        for &(id, start, len, ends, tried, slot) in &shares {
            let w = seen.get_mut(&id).unwrap();
            // Every other guess is right.
            let right = if (start + len) % 2 == 0 { tried } else { 0 };
            let grow = if ends { (1 + right).min(w.goal - w.known) } else { 0 };
            (w.computed, w.slot) = (start + len + grow.saturating_sub(1), Some(slot));
            w.known += grow;
            s.commit(id, grow);
            w.guesses = (w.known + start) % 4 % 3;
            s.expect(id, w.guesses);
            if ends && grow == 0 {
                assert!(s.cancel(id));
                seen.remove(&id);
            }
        }
        for (id, w) in seen.iter_mut() {
            if !shares.iter().any(|x| x.0 == *id) && !s.line[..s.running].iter().any(|e| e.id == *id) {
                (w.computed, w.guesses) = (0, 0);
            }
        }
        total
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        /// Random arrivals, cancellations and steps: budget kept, no page in two tables or lost, everyone finishes.
        #[test]
        fn every_request_finishes(
            budget in 1..100usize, running in 1..8usize, total in 1..10usize,
            ops in prop::collection::vec((0..6u8, 1..400usize, 1..400usize), 1..60),
        ) {
            let mut s = scheduler(budget, running, total);
            let mut seen = BTreeMap::new();
            let (mut promised, room) = (0, total * PAGE);
            for (op, a, b) in ops {
                match op {
                    0 | 1 => {
                        let (known, goal) = (a.min(b), a.max(b));
                        match s.admit(known, goal) {
                            Ok(id) => {
                                prop_assert!(goal <= room);
                                promised += goal;
                                seen.insert(id, Watch { known, goal, computed: 0, guesses: 0, slot: None });
                            }
                            Err(e) => prop_assert_eq!(e, TooLong { longest: goal, room }),
                        }
                    }
                    2 => {
                        let pick = seen.keys().nth(a % seen.len().max(1)).copied();
                        if let Some(id) = pick {
                            let forgotten = s.step().shares().count();
                            prop_assert!(forgotten <= running);
                            prop_assert!(s.cancel(id));
                            seen.remove(&id);
                            for (id, w) in &mut seen {
                                w.computed = s.line[s.find(*id).unwrap()].computed;
                            }
                        }
                    }
                    _ => { watch(&mut s, budget, running, &mut seen); }
                }
                prop_assert_eq!(s.running() + s.waiting(), seen.len());
            }
            // The oldest gains at least one token a step, so this many steps are enough for all.
            for _ in 0..promised {
                if seen.is_empty() { break; }
                prop_assert!(watch(&mut s, budget, running, &mut seen) > 0);
            }
            prop_assert!(seen.is_empty(), "somebody starved");
            prop_assert_eq!(s.pages().free(), total);
            prop_assert_eq!(s.slots.len(), s.max_running);
            prop_assert_eq!(s.step().shares().count(), 0);
        }
    }
}
