//! Cache pages: who holds which, counted.

use alula_device::PAGE;
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
    /// Free pages; the last is taken first.
    free: Vec<u32>,
    /// Number of tables that hold each page.
    holders: Vec<u32>,
}

impl Pages {
    /// `total` free pages (at most `u32::MAX`).
    pub fn new(total: usize) -> Self {
        let last = u32::try_from(total).unwrap_or(u32::MAX);
        Self { free: (0..last).rev().collect(), holders: vec![0; last as usize] }
    }

    /// All pages, held or not.
    pub fn total(&self) -> usize {
        self.holders.len()
    }

    /// Pages that nobody holds.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Lengthens `table` with free pages until it covers `tokens` positions; all of them or none.
    pub fn cover(&mut self, table: &mut Vec<u32>, tokens: usize) -> Result<(), OutOfPages> {
        let wanted = pages_for(tokens).saturating_sub(table.len());
        let Some(keep) = self.free.len().checked_sub(wanted) else {
            return Err(OutOfPages { wanted, free: self.free.len() });
        };
        for page in self.free.drain(keep..).rev() {
            self.holders[page as usize] = 1;
            table.push(page);
        }
        Ok(())
    }

    /// Counts one more holder of every page of `table`; the caller puts them in a table of its own.
    ///
    /// Panics if a page is free: then the table was not anybody's.
    pub fn share(&mut self, table: &[u32]) {
        for &page in table {
            let holders = &mut self.holders[page as usize];
            assert!(*holders > 0, "page {page} is free and cannot be shared");
            *holders += 1;
        }
    }

    /// Empties `table`, and frees those of its pages that nobody else holds.
    ///
    /// Panics if a page is already free.
    pub fn release(&mut self, table: &mut Vec<u32>) {
        for page in table.drain(..).rev() {
            let holders = &mut self.holders[page as usize];
            assert!(*holders > 0, "page {page} released twice");
            *holders -= 1;
            if *holders == 0 {
                self.free.push(page);
            }
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
    #[should_panic(expected = "cannot be shared")]
    fn sharing_a_free_page() {
        Pages::new(1).share(&[0]);
    }

    proptest! {
        /// Random growth, sharing and release: a page is free exactly when no table holds it, and no page is given twice.
        #[test]
        fn counts_are_right(ops in prop::collection::vec((0..4u8, 0..6usize, 0..400usize), 0..200)) {
            let mut pages = Pages::new(12);
            let mut tables = vec![Vec::new(); 6];
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
                        }
                    }
                    2 => pages.release(&mut tables[i]),
                    _ => {
                        let j = n % 6;
                        if i != j {
                            let copy = tables[i].clone();
                            pages.share(&copy);
                            pages.release(&mut tables[j]);
                            tables[j] = copy;
                        }
                    }
                }
                let held: std::collections::BTreeSet<u32> = tables.iter().flatten().copied().collect();
                prop_assert_eq!(pages.free() + held.len(), pages.total());
                for page in 0..12u32 {
                    let holders = tables.iter().filter(|t| t.contains(&page)).count();
                    prop_assert_eq!(pages.holders[page as usize] as usize, holders);
                }
            }
            for table in &mut tables {
                pages.release(table);
            }
            prop_assert_eq!(pages.free(), 12);
        }
    }
}
