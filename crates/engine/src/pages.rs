//! Cache pages: who holds which, counted, and what those that nobody holds still have.
//!
//! A page whose positions are all computed can be given a name: all that its content depends on, in words. Whoever knows
//! the name may share the page. Names are compared as a whole, so no two contents are ever taken for each other. A named page
//! that its last holder releases stays as it is until its memory is needed: of those that nobody holds, the one that was
//! released first goes first.
//!
//! Each name has a number ([`Pages::number`]), and no other name ever has the same. So a name may contain the number of the one before it,
//! which then stands for all that came before. [`Pages::release`] lets go of the last page of a table first, so that the end of
//! such a chain goes before its beginning.

use crate::checkpoints::Checkpoints;
use alula_device::{HOLE, PAGE};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use thiserror::Error;

/// Pages needed to hold `tokens` positions.
pub const fn pages_for(tokens: usize) -> usize {
    tokens.div_ceil(PAGE)
}

/// More pages were asked for than are free. Nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{wanted} more cache pages wanted, {free} free")]
pub struct OutOfPages {
    /// Pages asked for.
    pub wanted: usize,
    /// Pages that were free.
    pub free: usize,
}

/// The cache pages of one model, `0..total`, each of [`PAGE`] positions.
///
/// A page table is a list of pages; page `table[p / PAGE]` holds position `p`. Tables may share pages: a page is
/// free again when as many tables have released it as hold it. The owner of a table releases it; dropping it leaks.
/// Pages are not cleared: whoever takes a page writes every position before reading it.
#[derive(Debug)]
pub struct Pages {
    /// Free pages without a name; the last is taken first.
    free: Vec<u32>,
    /// Number of tables that hold each page.
    holders: Vec<u32>,
    /// The name of each page that has one,
    names: Vec<Option<Arc<[u32]>>>,
    /// the number of each name,
    numbers: Vec<u64>,
    /// and the page of each name.
    named: HashMap<Arc<[u32]>, u32>,
    /// Free pages that have a name, by when they were released,
    idle: BTreeMap<u64, u32>,
    /// and when each of them was.
    since: Vec<u64>,
    /// Counts releases and names.
    clock: u64,
    evictions: u64,
    /// Where sequences cannot go on from any page: those from which they can.
    checkpoints: Option<Checkpoints>,
}

impl Pages {
    /// `total` free pages (at most `u32::MAX`).
    pub fn new(total: usize) -> Self {
        let last = u32::try_from(total).unwrap_or(u32::MAX);
        Self {
            free: (0..last).rev().collect(),
            holders: vec![0; last as usize],
            names: vec![None; last as usize],
            numbers: vec![0; last as usize],
            named: HashMap::new(),
            idle: BTreeMap::new(),
            since: vec![0; last as usize],
            clock: 0,
            evictions: 0,
            checkpoints: None,
        }
    }

    /// The same where sequences go on only from pages that have a checkpoint.
    pub fn with_checkpoints(self, total: usize) -> Self {
        Self { checkpoints: Some(Checkpoints::new(total)), ..self }
    }

    /// The checkpoints, where there are some.
    pub fn checkpoints(&mut self) -> Option<&mut Checkpoints> {
        self.checkpoints.as_mut()
    }

    /// Whether a sequence can go on behind `page`.
    pub fn resumes(&self, page: u32) -> bool {
        self.checkpoints.as_ref().is_none_or(|c| c.has(page))
    }

    /// All pages, held or not.
    pub fn total(&self) -> usize {
        self.holders.len()
    }

    /// Pages that nobody holds.
    pub fn free(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// Of these, pages that have a name.
    pub fn cached(&self) -> usize {
        self.idle.len()
    }

    /// How often a page lost its name because its memory was needed.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Lengthens `table` with free pages until it covers `tokens` positions; all of them or none.
    pub fn cover(&mut self, table: &mut Vec<u32>, tokens: usize) -> Result<(), OutOfPages> {
        let wanted = pages_for(tokens).saturating_sub(table.len());
        if wanted > self.free() {
            return Err(OutOfPages { wanted, free: self.free() });
        }
        for _ in 0..wanted {
            let page = self.free.pop().or_else(|| self.evict()).expect("so many are free");
            self.holders[page as usize] = 1;
            table.push(page);
        }
        Ok(())
    }

    /// The free page with a name that was released first, without its name.
    fn evict(&mut self) -> Option<u32> {
        let (_, page) = self.idle.pop_first()?;
        self.evictions += 1;
        if let Some(name) = self.names[page as usize].take() {
            self.named.remove(&name);
        }
        if let Some(checkpoints) = &mut self.checkpoints {
            checkpoints.forget(page);
        }
        Some(page)
    }

    /// The page with this name.
    pub fn find(&self, name: &[u32]) -> Option<u32> {
        self.named.get(name).copied()
    }

    /// One more holder for `page`, which was found: the caller puts it in a table that holds the page before it.
    pub fn hold(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        if *holders == 0 {
            self.idle.remove(&self.since[page as usize]);
        }
        *holders += 1;
    }

    /// Gives `page`, of which one holder is the caller, a name, and returns the page that has it: another one if that has it
    /// already, which the caller then holds instead. Its content is the same. A name never changes.
    ///
    /// Panics if nobody holds the page or it has a name.
    pub fn name(&mut self, page: u32, name: &[u32]) -> u32 {
        assert!(self.holders[page as usize] > 0, "page {page} is free and cannot have a name");
        assert!(self.names[page as usize].is_none(), "page {page} has a name");
        if let Some(same) = self.find(name) {
            self.hold(same);
            self.let_go(page);
            return same;
        }
        self.clock += 1;
        self.numbers[page as usize] = self.clock;
        let name: Arc<[u32]> = name.into();
        self.names[page as usize] = Some(Arc::clone(&name));
        self.named.insert(name, page);
        page
    }

    /// The number of the name of `page`, which has one; at least 1.
    pub fn number(&self, page: u32) -> u64 {
        self.numbers[page as usize]
    }

    /// One holder less for `page`.
    ///
    /// Panics if it is free.
    pub fn let_go(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        assert!(*holders > 0, "page {page} released twice");
        *holders -= 1;
        if *holders > 0 {
            return;
        }
        if self.names[page as usize].is_some() {
            self.clock += 1;
            self.since[page as usize] = self.clock;
            self.idle.insert(self.clock, page);
        } else {
            self.free.push(page);
        }
    }

    /// Empties `table`, and frees those of its pages that nobody else holds, the last first. Holes are nothing.
    ///
    /// Panics if a page is already free.
    pub fn release(&mut self, table: &mut Vec<u32>) {
        for page in table.drain(..).rev().filter(|page| *page != HOLE) {
            self.let_go(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_or_nothing() {
        let mut pages = Pages::new(3);
        let mut table = Vec::new();
        pages.cover(&mut table, PAGE + 1).unwrap();
        assert_eq!(table, [0, 1]);
        let before = table.clone();
        assert_eq!(pages.cover(&mut table, 4 * PAGE), Err(OutOfPages { wanted: 2, free: 1 }));
        assert_eq!((&table, pages.free()), (&before, 1));
        pages.cover(&mut table, 3 * PAGE).unwrap();
        assert_eq!((table.len(), pages.free(), pages.total()), (3, 0, 3));
        pages.cover(&mut table, 1).unwrap();
        assert_eq!(table.len(), 3, "a table that is long enough stays");
    }

    #[test]
    #[should_panic(expected = "released twice")]
    fn double_release() {
        let mut pages = Pages::new(1);
        let mut table = Vec::new();
        pages.cover(&mut table, 1).unwrap();
        pages.release(&mut table.clone());
        pages.release(&mut table);
    }

    #[test]
    #[should_panic(expected = "is free and cannot")]
    fn naming_a_free_page() {
        Pages::new(1).name(0, &[1]);
    }

    #[test]
    fn the_same_content_is_one_page() {
        let mut pages = Pages::new(4);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        pages.cover(&mut a, 2 * PAGE).unwrap();
        pages.cover(&mut b, PAGE).unwrap();
        assert_eq!((pages.name(a[0], &[7]), pages.name(a[1], &[0, 8])), (0, 1));
        b[0] = pages.name(b[0], &[7]);
        assert_eq!((b[0], pages.free(), pages.cached()), (0, 2, 0), "the second page of this content is free again");
        pages.release(&mut a);
        assert_eq!((pages.free(), pages.cached()), (3, 1));
        assert_eq!(pages.find(&[0, 8]), Some(1));
        pages.hold(1);
        b.push(1);
        pages.release(&mut b);
        assert_eq!((pages.free(), pages.cached(), pages.evictions()), (4, 2, 0));
        pages.cover(&mut a, 3 * PAGE).unwrap();
        assert_eq!((pages.find(&[0, 8]), pages.evictions()), (None, 1), "the end of a chain goes before its beginning");
        assert_eq!(pages.find(&[7]), Some(0));
    }

    proptest! {
        /// Chains of pages grow, are named, found, shared and released: a page is free exactly when no table holds it, none is
        /// given twice, and a page that is found is what its name says, which another owner of the memory never is.
        #[test]
        fn counts_and_contents_are_right(ops in prop::collection::vec((0..5u8, 0..6usize, 0..400usize), 0..300)) {
            let mut pages = Pages::new(12);
            let mut tables = vec![Vec::new(); 6];
            // What each page has been written with: the pages before it and a value.
            let mut memory: Vec<Vec<usize>> = vec![Vec::new(); 12];
            let named = |pages: &Pages, page: u32| pages.names[page as usize].is_some();
            for (op, i, n) in ops {
                match op {
                    0 | 1 => {
                        let free = pages.free();
                        let wanted = pages_for(n).saturating_sub(tables[i].len());
                        let others: Vec<u32> = tables.concat();
                        let old = tables[i].len();
                        prop_assert_eq!(pages.cover(&mut tables[i], n).is_ok(), wanted <= free);
                        for (k, page) in tables[i][old..].iter().enumerate() {
                            prop_assert!(!others.contains(page) && !tables[i][..old + k].contains(page));
                            memory[*page as usize] = Vec::new();
                        }
                    }
                    2 => pages.release(&mut tables[i]),
                    // Writes the first page without a name, and names it: few values, so that others have the same.
                    3 => {
                        let Some(at) = tables[i].iter().position(|&p| !named(&pages, p)) else { continue };
                        let before = at.checked_sub(1).map(|k| tables[i][k]);
                        let mut content = before.map_or(Vec::new(), |p| memory[p as usize].clone());
                        content.push(n % 3);
                        let page = tables[i][at];
                        memory[page as usize] = content.clone();
                        let name = [before.map_or(0, |p| pages.number(p) as u32), (n % 3) as u32];
                        tables[i][at] = pages.name(page, &name);
                        prop_assert_eq!(&memory[tables[i][at] as usize], &content);
                    }
                    // Finds as much of a chain of values as there is.
                    _ => {
                        pages.release(&mut tables[i]);
                        let (mut content, mut rest) = (Vec::new(), n);
                        loop {
                            let before = tables[i].last().map_or(0, |p| pages.number(*p) as u32);
                            let Some(page) = pages.find(&[before, (rest % 3) as u32]) else { break };
                            pages.hold(page);
                            content.push(rest % 3);
                            prop_assert_eq!(&memory[page as usize], &content);
                            tables[i].push(page);
                            rest /= 3;
                        }
                    }
                }
                let held: std::collections::BTreeSet<u32> = tables.iter().flatten().copied().collect();
                prop_assert_eq!(pages.free() + held.len(), pages.total());
                for page in 0..12u32 {
                    let holders = tables.iter().filter(|t| t.contains(&page)).count();
                    prop_assert_eq!(pages.holders[page as usize] as usize, holders);
                    // Whoever has a name has the page that it contains.
                    let before = pages.names[page as usize].as_ref().map_or(0, |name| name[0]);
                    let there = (0..12).any(|p| named(&pages, p) && pages.number(p) as u32 == before);
                    prop_assert!(before == 0 || there, "a chain has lost its beginning");
                }
            }
            for table in &mut tables {
                pages.release(table);
            }
            prop_assert_eq!(pages.free(), 12);
        }
    }
}
