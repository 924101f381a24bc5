//! The patterns of [`super::pre`] that end in `\s+(?!\S)|\s+`, by hand: they are alike, so one matcher and a row of
//! choices for each do them all, in linear time and without backtracking. The patterns say what is right; the tests
//! below hold each row to its pattern.

use crate::unicode::{LETTER, MARK, NUMBER, PUNCTUATION, SYMBOL, category};

/// A set of the kinds of characters below; each character is of one kind.
pub(super) type Set = u16;
const LOWER: Set = 1; // a-z
const UPPER: Set = 1 << 1; // A-Z
const OTHER_LETTER: Set = 1 << 2;
pub(super) const M: Set = 1 << 3;
pub(super) const N: Set = 1 << 4;
pub(super) const SPACE: Set = 1 << 5; // U+0020
pub(super) const NEWLINE: Set = 1 << 6; // \r \n
const OTHER_WHITE: Set = 1 << 7;
pub(super) const SLASH: Set = 1 << 8;
const OTHER_PUNCTUATION: Set = 1 << 9;
pub(super) const S: Set = 1 << 10;
const REST: Set = 1 << 11;
/// Ideographs where [`Split::ideographs`] sets them apart, and what is no letter in their ranges.
const IDEOGRAPH: Set = 1 << 12;
const NO_IDEOGRAPH: Set = 1 << 13;
pub(super) const L: Set = LOWER | UPPER | OTHER_LETTER;
pub(super) const P: Set = SLASH | OTHER_PUNCTUATION;
const WHITE: Set = SPACE | NEWLINE | OTHER_WHITE;
/// `[^\s\p{L}\p{N}]`
pub(super) const SIGN: Set = M | P | S | REST | NO_IDEOGRAPH;
/// `[^\r\n\p{L}\p{N}]`
pub(super) const LEAD: Set = SIGN | SPACE | OTHER_WHITE;

/// The seven English suffixes: `'s`, `'t`, `'re` and so on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Suffix {
    No,
    /// Words of their own, in lower case.
    Lower,
    /// Words of their own.
    Own,
    /// Part of the word before.
    Joined,
}

/// What letters make a word.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Letters {
    /// `[letters]+`
    Run,
    /// `U*V+` or else `U+V*`; U is all letters but a-z, V all but A-Z.
    Cased,
    /// Letters with their marks, also with single spaces between them.
    Phrase,
}

/// What newlines in white space do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Newlines {
    /// Nothing.
    White,
    /// `[\r\n]`
    One,
    /// `\s*[\r\n]+`: white space is cut behind the last of them.
    Cut,
}

/// A pattern. Its alternatives, in this order:
#[derive(Clone, Copy, Debug)]
pub(super) struct Split {
    /// Runs of ideographs, which then are no letters (`[han]+`).
    pub(super) ideographs: bool,
    pub(super) suffix: Suffix,
    /// An ASCII sign and ASCII letters behind it.
    pub(super) tags: bool,
    /// What may stand before letters, and what counts as letters.
    pub(super) lead: Set,
    pub(super) letters: Set,
    pub(super) words: Letters,
    /// The most numbers in one word, and what may stand before them.
    pub(super) numbers: usize,
    pub(super) number_lead: Set,
    /// A run of these with a space before, if there is one; what follows the run, and how much of it at most.
    pub(super) signs: Set,
    pub(super) after: Set,
    pub(super) after_most: usize,
    /// `\s+(?!\S)|\s+`, and what comes before it.
    pub(super) white: bool,
    pub(super) newlines: Newlines,
    /// White space comes in powers of two: `\s{512}(?!\S)|\s{256}(?!\S)|…`
    pub(super) powers: bool,
}

/// Llama 3's.
pub(super) const LLAMA3: Split = Split {
    ideographs: false,
    suffix: Suffix::Own,
    tags: false,
    lead: LEAD,
    letters: L,
    words: Letters::Run,
    numbers: 3,
    number_lead: 0,
    signs: SIGN,
    after: NEWLINE,
    after_most: usize::MAX,
    white: true,
    newlines: Newlines::Cut,
    powers: false,
};

/// The kind of each ASCII character.
static ASCII: [Set; 128] = {
    let mut kinds = [REST; 128];
    let mut b = 0u8;
    while b < 128 {
        kinds[b as usize] = match b {
            b'a'..=b'z' => LOWER,
            b'A'..=b'Z' => UPPER,
            b'0'..=b'9' => N,
            b' ' => SPACE,
            b'\r' | b'\n' => NEWLINE,
            b'\t' | 0x0b | 0x0c => OTHER_WHITE,
            b'/' => SLASH,
            b'$' | b'+' | b'<' | b'=' | b'>' | b'^' | b'`' | b'|' | b'~' => S,
            b'!'..=b'~' => OTHER_PUNCTUATION,
            _ => REST,
        };
        b += 1;
    }
    kinds
};

/// How many of these eight bytes are ASCII letters, up to the first that is none.
fn ascii_letters(eight: [u8; 8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let word = u64::from_le_bytes(eight);
    let lower = (word | (ONES * 0x20)) & (ONES * 0x7f);
    let from_a = lower + ONES * (0x80 - 0x61); // bit 7: at least `a`
    let past_z = lower + ONES * (0x80 - 0x7b); // bit 7: beyond `z`
    let other = !(from_a & !past_z & !word) & (ONES * 0x80);
    other.trailing_zeros() as usize / 8
}

impl Split {
    /// The pattern without alternatives.
    pub(super) const NOTHING: Split =
        Split { suffix: Suffix::No, lead: 0, letters: 0, numbers: 0, signs: 0, white: false, ..LLAMA3 };

    /// Calls `word` with the end of each match and of what lies between matches, from left to right.
    pub(super) fn cut(&self, text: &str, mut word: impl FnMut(usize)) {
        let mut at = 0;
        let mut white = White::default();
        let mut unmatched = false;
        while at < text.len() {
            match self.next(text, at, &mut white) {
                Ok(end) => {
                    if unmatched {
                        word(at);
                    }
                    unmatched = false;
                    word(end);
                    at = end;
                }
                Err(end) => {
                    unmatched = true;
                    at = end;
                }
            }
        }
        if unmatched {
            word(at);
        }
    }

    /// The kind of the character at a place and where it ends; no kind at the end of the text.
    #[inline(always)]
    fn kind(&self, text: &str, at: usize) -> (Set, usize) {
        match text.as_bytes().get(at) {
            None => (0, at),
            Some(&b) if b < 128 => (ASCII[usize::from(b)], at + 1),
            Some(_) => self.kind_beyond_ascii(text, at),
        }
    }

    #[cold]
    fn kind_beyond_ascii(&self, text: &str, at: usize) -> (Set, usize) {
        let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) else { return (0, at) };
        let set = category(c);
        let is = |categories| set & categories != 0;
        let kind = if self.ideographs && is_ideograph(c) {
            if is(LETTER) { IDEOGRAPH } else { NO_IDEOGRAPH }
        } else if is(LETTER) {
            OTHER_LETTER
        } else if is(MARK) {
            M
        } else if is(NUMBER) {
            N
        } else if is(PUNCTUATION) {
            OTHER_PUNCTUATION
        } else if is(SYMBOL) {
            S
        } else if c.is_whitespace() {
            OTHER_WHITE
        } else {
            REST
        };
        (kind, at + c.len_utf8())
    }

    /// Where a run of a set ends.
    #[inline(always)]
    fn run(&self, text: &str, mut at: usize, set: Set) -> usize {
        if set & L == L {
            while let Some(&eight) = text.as_bytes().get(at..).and_then(<[u8]>::first_chunk) {
                let n = ascii_letters(eight);
                at += n;
                if n < 8 {
                    break;
                }
            }
        }
        self.run_of(text, at, set, usize::MAX)
    }

    #[inline(always)]
    fn run_of(&self, text: &str, mut at: usize, set: Set, most: usize) -> usize {
        for _ in 0..most {
            let (kind, next) = self.kind(text, at);
            if kind & set == 0 {
                break;
            }
            at = next;
        }
        at
    }

    /// The match at `at`, or else the end of the character there.
    #[inline]
    fn next(&self, text: &str, at: usize, white: &mut White) -> Result<usize, usize> {
        let (kind, next) = self.kind(text, at);
        if kind & (IDEOGRAPH | NO_IDEOGRAPH) != 0 {
            return Ok(self.run_of(text, next, IDEOGRAPH | NO_IDEOGRAPH, usize::MAX));
        }
        if kind & (P | S) != 0 {
            if let Suffix::Lower | Suffix::Own = self.suffix
                && let Some(n @ 1..) = Some(self.suffix_len(text, at))
            {
                return Ok(at + n);
            }
            if self.tags && text.as_bytes()[at].is_ascii() {
                let end = self.run_of(text, next, LOWER | UPPER, usize::MAX);
                if end > next {
                    return Ok(end);
                }
            }
        }
        if kind & (self.lead | self.letters) != 0
            && let Some(end) = self.letters(text, at, kind, next)
        {
            return Ok(if self.suffix == Suffix::Joined { end + self.suffix_len(text, end) } else { end });
        }
        if kind & (N | self.number_lead) != 0 && self.numbers > 0 {
            let from = if kind == N { at } else { next };
            let end = self.run_of(text, from, N, self.numbers);
            if end > from {
                return Ok(end);
            }
        }
        if kind & (self.signs | SPACE) != 0 {
            let from = if kind == SPACE { next } else { at };
            let end = self.run_of(text, from, self.signs, usize::MAX);
            if end > from {
                return Ok(self.run_of(text, end, self.after, self.after_most));
            }
        }
        if kind & WHITE != 0 && self.white { Ok(self.white(text, at, kind, next, white)) } else { Err(next) }
    }

    /// Words of letters, with a character before if that is possible.
    #[inline]
    fn letters(&self, text: &str, at: usize, kind: Set, next: usize) -> Option<usize> {
        let starts = [if kind & self.lead != 0 { next } else { at }, at];
        let match_at = |from: usize, find: &dyn Fn(usize) -> usize| Some(find(from)).filter(|&end| end > from);
        match self.words {
            Letters::Run => {
                let end = self.run(text, starts[0], self.letters);
                if end > starts[0] { Some(end) } else { (kind & self.letters != 0).then_some(next) }
            }
            Letters::Cased => {
                let alternatives: [&dyn Fn(usize) -> usize; 2] =
                    [&|from| self.upper_lower(text, from), &|from| self.run(text, from, self.letters & !LOWER)];
                alternatives.into_iter().find_map(|find| starts.iter().find_map(|&from| match_at(from, find)))
            }
            Letters::Phrase => starts.iter().find_map(|&from| match_at(from, &|from| self.phrase(text, from))),
        }
    }

    /// `U*V+`, or `from` where there is none. (Where it is tried in vain, `U+V*` is no more than `U+`.)
    fn upper_lower(&self, text: &str, from: usize) -> usize {
        let (mut at, mut last) = (from, from);
        loop {
            let (kind, next) = self.kind(text, at);
            if kind & self.letters & !LOWER == 0 {
                break;
            }
            at = next;
            if kind != UPPER {
                last = at; // U* can end before this one, and V+ be it alone
            }
        }
        let end = self.run_of(text, at, self.letters & !UPPER, usize::MAX);
        if end > at { end } else { last }
    }

    /// `(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+`, or `from` where there is none.
    fn phrase(&self, text: &str, from: usize) -> usize {
        let mut end = from;
        loop {
            let (mut kind, mut next) = self.kind(text, end);
            if kind == SPACE && end > from {
                (kind, next) = self.kind(text, next);
            }
            if kind & L == 0 {
                return end;
            }
            end = self.run_of(text, next, M, usize::MAX);
        }
    }

    /// The bytes of the suffix at a place, 0 for none.
    fn suffix_len(&self, text: &str, at: usize) -> usize {
        let mut rest = text.as_bytes().get(at..).unwrap_or(&[]).iter().map(|&b| match self.suffix {
            Suffix::Lower => b,
            _ => b.to_ascii_lowercase(),
        });
        match (rest.next(), rest.next(), rest.next()) {
            (Some(b'\''), Some(b's' | b't' | b'm' | b'd'), _) => 2,
            (Some(b'\''), Some(b'r' | b'v'), Some(b'e')) | (Some(b'\''), Some(b'l'), Some(b'l')) => 3,
            _ => 0,
        }
    }

    /// White space before which nothing else matched.
    fn white(&self, text: &str, at: usize, kind: Set, next: usize, run: &mut White) -> usize {
        if kind == NEWLINE && self.newlines == Newlines::One {
            return next;
        }
        if run.end <= at {
            *run = White { end: at, ..White::default() };
            loop {
                let (kind, next) = self.kind(text, run.end);
                if kind & WHITE == 0 {
                    break;
                }
                if kind == NEWLINE && self.newlines == Newlines::Cut {
                    run.cut = next;
                }
                run.last = run.end;
                run.end = next;
            }
        }
        if at < run.cut {
            return run.cut;
        }
        let ends_text = run.end == text.len();
        if self.powers {
            let ends: Vec<usize> =
                text[at..run.end].char_indices().map(|(i, c)| at + i + c.len_utf8()).take(513).collect();
            let fits = |&n: &usize| ends.len() > n || ends.len() == n && ends_text;
            let n = [512, 256, 128, 64, 32, 16, 8, 4, 2].into_iter().find(fits).unwrap_or(1);
            return ends[n - 1];
        }
        // The last one belongs to what follows.
        if ends_text || run.last == at { run.end } else { run.last }
    }
}

/// The run of white space that was seen last: where its last newline ends, if that counts, where its last character
/// begins, and where it ends.
#[derive(Default)]
struct White {
    cut: usize,
    last: usize,
    end: usize,
}

/// Ideographs as llama.cpp has them.
fn is_ideograph(c: char) -> bool {
    matches!(c as u32, 0x4e00..=0x9fff | 0x3400..=0x4dbf | 0x20000..=0x2a6df | 0x2a700..=0x2ebef | 0xf900..=0xfaff
        | 0x2f800..=0x2fa1f)
}
