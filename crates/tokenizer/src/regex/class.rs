//! Classes of characters.

use crate::unicode::{Categories, category, is_word, script};

/// What a class is made of.
#[derive(Clone, Debug)]
pub(super) enum Set {
    Range(char, char),
    Category(Categories),
    Script(u8),
    White,
    Word,
    Alphabetic,
    Upper,
    Lower,
    Not(Box<Set>),
    Any(Vec<Set>),
    All(Vec<Set>),
}

impl Set {
    pub(super) fn has(&self, c: char) -> bool {
        match self {
            Set::Range(a, b) => (*a..=*b).contains(&c),
            Set::Category(set) => category(c) & set != 0,
            Set::Script(n) => script(c) == *n,
            Set::White => c.is_whitespace(),
            Set::Word => is_word(c),
            Set::Alphabetic => c.is_alphabetic(),
            Set::Upper => c.is_uppercase(),
            Set::Lower => c.is_lowercase(),
            Set::Not(set) => !set.has(c),
            Set::Any(sets) => sets.iter().any(|s| s.has(c)),
            Set::All(sets) => sets.iter().all(|s| s.has(c)),
        }
    }

    /// The opposite.
    pub(super) fn not(self) -> Set {
        match self {
            Set::Not(set) => *set,
            set => Set::Not(Box::new(set)),
        }
    }

    /// With the other case of each of its letters.
    pub(super) fn any_case(self) -> Set {
        match self {
            Set::Range(a, b) if (b as u32 - a as u32) < 512 => {
                let mut sets = vec![Set::Range(a, b)];
                for c in a..=b {
                    sets.extend(other_cases(c).map(|c| Set::Range(c, c)));
                }
                Set::Any(sets)
            }
            Set::Not(set) => set.any_case().not(),
            Set::Any(sets) => Set::Any(sets.into_iter().map(Set::any_case).collect()),
            Set::All(sets) => Set::All(sets.into_iter().map(Set::any_case).collect()),
            set => set,
        }
    }
}

/// The other characters that are the same but for case.
fn other_cases(c: char) -> impl Iterator<Item = char> {
    fn single(mut cs: impl Iterator<Item = char>) -> Option<char> {
        cs.next().filter(|_| cs.next().is_none())
    }
    let special = match c {
        's' | 'S' => Some('ſ'),
        'k' | 'K' => Some('\u{212a}'),
        'å' | 'Å' => Some('\u{212b}'),
        _ => None,
    };
    let lower = single(c.to_lowercase());
    let upper = single(c.to_uppercase());
    let back = lower.and_then(|l| single(l.to_uppercase()));
    [lower, upper, back, special].into_iter().flatten().filter(move |&o| o != c)
}

/// A set with its ASCII part looked up beforehand.
#[derive(Clone, Debug)]
pub(super) struct Class {
    ascii: u128,
    set: Set,
}

impl Class {
    pub(super) fn new(set: Set) -> Class {
        let ascii = (0..128u8).filter(|&b| set.has(char::from(b))).fold(0, |bits, b| bits | 1 << b);
        Class { ascii, set }
    }

    pub(super) fn ascii(&self, b: u8) -> bool {
        self.ascii >> (b & 127) & 1 != 0
    }

    pub(super) fn has(&self, c: char) -> bool {
        if c.is_ascii() { self.ascii(c as u8) } else { self.set.has(c) }
    }
}
