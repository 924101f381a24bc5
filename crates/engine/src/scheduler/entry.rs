//! One request: its sequence, how far it is computed, and the pages that hold that.

use super::{Id, STRIDE};
use crate::pages::Pages;
use alula_device::{HOLE, PAGE};
use std::cmp::Reverse;

/// One request in the line.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: Id,
    pub(super) group: u64,
    pub(super) priority: i32,
    pub(super) kind: Vec<u32>,
    /// Positions before the last known token's whose logits are still wanted, first and end.
    pub(super) asked: (usize, usize),
    /// The sequence so far.
    pub(super) tokens: Vec<u32>,
    /// Of these, how many are in the cache.
    pub(super) computed: usize,
    /// Of these, how many the step under way adds.
    pub(super) due: usize,
    /// Tokens that are expected to come next.
    pub(super) guesses: usize,
    /// Of these, how many the step under way computes.
    pub(super) tried: usize,
    /// Tokens that were added since the step.
    pub(super) grown: usize,
    /// Length that the sequence may reach.
    pub(super) longest: usize,
    /// Covers all known tokens while it runs, empty while it waits.
    pub(super) table: Vec<u32>,
    /// Of these pages, how many have names: the first ones.
    pub(super) named: usize,
    /// The number of the last one's name, 0 where there is none.
    pub(super) before: u64,
    /// Nobody else's while it runs.
    pub(super) slot: u32,
    /// The checkpoint that it goes on from in the step under way.
    pub(super) resume: Option<u32>,
    /// Where its prompt has its last checkpoint.
    pub(super) mark: usize,
    /// Prompt tokens that were in the cache when it first ran.
    pub(super) found: usize,
    /// It has run before.
    pub(super) again: bool,
}

impl Entry {
    pub(super) fn rank(&self) -> (Reverse<i32>, Id) {
        (Reverse(self.priority), self.id)
    }

    /// Known tokens that are neither computed nor due.
    pub(super) fn rest(&self) -> usize {
        self.tokens.len() - self.computed - self.due
    }

    pub(super) fn ends(&self) -> bool {
        self.due > 0 && self.rest() == 0
    }

    /// Whether it computes tokens for their logits.
    pub(super) fn asks(&self) -> bool {
        self.asked.0 < self.asked.1
    }

    /// Of the positions whose logits are wanted, those among its next `len` ones.
    pub(super) fn asked_in(&self, len: usize) -> (usize, usize) {
        let first = self.asked.0.max(self.computed);
        (first, self.asked.1.min(self.computed + len).max(first))
    }

    /// Rows of logits in the step, guesses not counted.
    pub(super) fn outputs(&self) -> usize {
        let (first, end) = self.asked_in(self.due);
        end - first + usize::from(self.ends())
    }

    /// Everything that is in the cache is void.
    pub(super) fn forget(&mut self, pages: &mut Pages) {
        pages.release(&mut self.table);
        (self.computed, self.due, self.guesses, self.tried, self.named, self.again) = (0, 0, 0, 0, 0, true);
        (self.before, self.resume) = (0, None);
    }

    /// Pages in its table.
    pub(super) fn held(&self) -> usize {
        self.table.iter().filter(|page| **page != HOLE).count()
    }

    /// The name of its page `at`, which comes after the name of this number, if it is known.
    pub(super) fn name<'a>(&self, at: usize, before: u64, ahead: usize, name: &'a mut Vec<u32>) -> Option<&'a [u32]> {
        let content = self.tokens.get(at * PAGE..(at + 1) * PAGE + ahead)?;
        name.clear();
        name.extend([before as u32, (before >> 32) as u32]);
        if before == 0 {
            name.extend(&self.kind);
        }
        name.extend(content);
        Some(name)
    }

    /// Gives back the pages that nothing after its computed tokens sees, with a window of so many positions.
    pub(super) fn trim(&mut self, pages: &mut Pages, window: usize) {
        let unseen = (self.computed + 1).saturating_sub(window) / PAGE;
        for page in self.table.iter_mut().take(unseen).rev().take_while(|page| **page != HOLE) {
            pages.let_go(std::mem::replace(page, HOLE));
        }
    }

    /// Whether its next page could be another's: not if its last known token is in it, or it is computed for its logits.
    pub(super) fn seeks(&self) -> bool {
        !self.asks() && self.named == self.computed / PAGE && (self.named + 1) * PAGE < self.tokens.len()
    }

    /// Takes over computed pages of its next tokens; returns how many of these it need not compute.
    pub(super) fn find(&mut self, pages: &mut Pages, ahead: usize, name: &mut Vec<u32>) -> usize {
        if !self.seeks() {
            return 0;
        }
        let (mut chain, mut useful, mut before) = (Vec::new(), 0, self.before);
        while (self.named + chain.len() + 1) * PAGE < self.tokens.len() {
            let at = self.named + chain.len();
            let Some(page) = self.name(at, before, ahead, name).and_then(|name| pages.find(name)) else { break };
            chain.push(page);
            before = pages.number(page);
            if pages.resumes(page) {
                useful = chain.len();
            }
        }
        for &page in &chain[..useful] {
            pages.hold(page);
            match self.table.get_mut(self.named) {
                Some(own) => pages.let_go(std::mem::replace(own, page)),
                None => self.table.push(page),
            }
            self.named += 1;
        }
        let Some(&last) = chain[..useful].last() else { return 0 };
        self.before = pages.number(last);
        self.resume = pages.checkpoints().and_then(|c| c.take(last));
        let was = std::mem::replace(&mut self.computed, self.named * PAGE);
        self.computed - was
    }

    /// The next position after `at` where a checkpoint is wanted.
    pub(super) fn stop(&self, at: usize) -> usize {
        let stride = (at / STRIDE + 1) * STRIDE;
        if self.mark > at { self.mark.min(stride) } else { stride }
    }
}
