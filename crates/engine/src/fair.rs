//! Whose turn it is: counts what each group of requests was served.
//!
//! The virtual token counter of Sheng et al. 2024 (arXiv:2401.00588): of the groups that ask for something the one whose counter
//! is least comes next. A group that comes, or comes back, is lifted to the least counter of those that are there, so
//! that nobody saves up turns by staying away. A group that stays away keeps a counter that is larger. Of two groups that ask all the time
//! neither gets ahead by more than what is served between two decisions.

use std::collections::HashMap;

#[derive(Debug, Default)]
struct Group {
    /// Tokens served, and what it was lifted by.
    counter: u64,
    /// Its requests that are there.
    requests: usize,
}

/// The counters of all groups.
#[derive(Debug, Default)]
pub struct Fair {
    groups: HashMap<u64, Group>,
    /// Groups that have requests.
    present: usize,
}

impl Fair {
    /// A request of `group` comes.
    pub fn come(&mut self, group: u64) {
        let least = self.groups.values().filter(|g| g.requests > 0).map(|g| g.counter).min();
        let own = self.groups.entry(group).or_default();
        own.requests += 1;
        if own.requests == 1 {
            own.counter = own.counter.max(least.unwrap_or(0));
            self.present += 1;
        }
    }

    /// A request of `group` goes. Does nothing if there is none.
    pub fn go(&mut self, group: u64) {
        let Some(own) = self.groups.get_mut(&group).filter(|g| g.requests > 0) else { return };
        own.requests -= 1;
        if own.requests > 0 {
            return;
        }
        self.present -= 1;
        // Who is gone is remembered only while it makes a difference.
        let least = self.groups.values().filter(|g| g.requests > 0).map(|g| g.counter).min();
        match least {
            None => self.groups.clear(),
            Some(_) if self.groups.len() <= 2 * self.present + 64 => {}
            Some(least) => self.groups.retain(|_, g| g.requests > 0 || g.counter > least),
        }
    }

    /// `group` is served so many tokens.
    pub fn serve(&mut self, group: u64, tokens: usize) {
        if let Some(own) = self.groups.get_mut(&group) {
            own.counter = own.counter.saturating_add(tokens as u64);
        }
    }

    /// The counter of a group, 0 if it is not known.
    pub fn counter(&self, group: u64) -> u64 {
        self.groups.get(&group).map_or(0, |g| g.counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_saves_up_and_nobody_escapes() {
        let mut fair = Fair::default();
        fair.come(1);
        fair.come(2);
        fair.serve(1, 100);
        fair.serve(2, 30);
        fair.come(3);
        assert_eq!(fair.counter(3), 30, "lifted to the least that is there");
        fair.come(1);
        assert_eq!(fair.counter(1), 100, "who is there is not lifted");
        fair.go(1);
        fair.go(1);
        fair.serve(2, 50);
        fair.serve(3, 50);
        fair.come(1);
        assert_eq!(fair.counter(1), 100, "who comes back soon has still had more");
        fair.go(1);
        fair.serve(2, 50);
        fair.serve(3, 50);
        fair.come(1);
        assert_eq!(fair.counter(1), 130);
        for group in [1, 2, 3, 3, 4] {
            fair.go(group);
        }
        assert!(fair.groups.is_empty() && fair.present == 0);
    }

    #[test]
    fn groups_that_are_gone_are_forgotten() {
        let mut fair = Fair::default();
        fair.come(0);
        for group in 1..10_000 {
            fair.come(group);
            fair.serve(group, 3);
            fair.serve(0, 5);
            fair.go(group);
        }
        assert!(fair.groups.len() < 100, "{}", fair.groups.len());
    }
}
