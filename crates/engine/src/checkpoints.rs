//! States of fixed size that are kept for later: which of them belongs to which page.

use std::collections::{BTreeMap, HashMap};

/// Checkpoints, `0..total`. Each that is in use holds the states of sequences that end with the last position of a page.
/// When all are in use, the one that was used least recently goes.
#[derive(Debug, Default)]
pub struct Checkpoints {
    /// The last is taken first.
    free: Vec<u32>,
    /// Of each page that has one: its number, and when it was used.
    of: HashMap<u32, (u32, u64)>,
    /// Pages by when theirs was used.
    by_use: BTreeMap<u64, u32>,
    /// Counts uses.
    clock: u64,
}

impl Checkpoints {
    /// So many, none of which is in use.
    pub fn new(total: usize) -> Self {
        Self { free: (0..u32::try_from(total).unwrap_or(u32::MAX)).rev().collect(), ..Self::default() }
    }

    /// Whether `page` has one.
    pub fn has(&self, page: u32) -> bool {
        self.of.contains_key(&page)
    }

    /// The one of `page`, which is used now.
    pub fn take(&mut self, page: u32) -> Option<u32> {
        let (number, used) = self.of.get_mut(&page)?;
        self.clock += 1;
        self.by_use.remove(used);
        self.by_use.insert(self.clock, page);
        *used = self.clock;
        Some(*number)
    }

    /// One for `page`, which has none, that is not `needed` for others. `None` if there is none.
    pub fn give(&mut self, page: u32, needed: impl Fn(u32) -> bool) -> Option<u32> {
        if self.free.is_empty() {
            let oldest = *self.by_use.values().find(|page| !needed(self.of[page].0))?;
            self.forget(oldest);
        }
        let number = self.free.pop()?;
        self.clock += 1;
        self.of.insert(page, (number, self.clock));
        self.by_use.insert(self.clock, page);
        Some(number)
    }

    /// The checkpoint `number` holds nothing.
    pub fn lose(&mut self, number: u32) {
        let page = self.of.iter().find(|(_, (n, _))| *n == number).map(|(page, _)| *page);
        page.into_iter().for_each(|page| self.forget(page));
    }

    /// The content of `page` is gone, and that of its checkpoint is nothing to anybody.
    pub fn forget(&mut self, page: u32) {
        if let Some((number, used)) = self.of.remove(&page) {
            self.by_use.remove(&used);
            self.free.push(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes() {
        let mut all = Checkpoints::new(2);
        assert_eq!((all.give(10, |_| false), all.give(20, |_| false)), (Some(0), Some(1)));
        assert_eq!((all.take(10), all.take(30)), (Some(0), None));
        assert_eq!(all.give(30, |_| false), Some(1), "that of page 20");
        assert!(all.has(10) && !all.has(20) && all.has(30));
        assert_eq!(all.give(40, |n| n == 0), Some(1), "the other one is needed");
        assert_eq!(all.give(50, |_| true), None);
        all.lose(0);
        all.forget(10);
        assert_eq!((all.give(50, |_| true), all.free.len()), (Some(0), 0));
        assert_eq!(Checkpoints::new(0).give(1, |_| false), None);
    }
}
