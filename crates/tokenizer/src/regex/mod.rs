//! The regular expressions of tokenizers: matched in order of preference, as Oniguruma and ECMAScript do, on a stack
//! that lives on the heap, with a budget of steps. A pattern compiles in microseconds, which an engine with automata
//! does not, and characters are classed by the same tables everywhere.
//!
//! Known: literals and escapes, `.`, classes with ranges, nesting, `&&` and POSIX names, `\s \d \w \h` and their
//! opposites, `\p{..}` with general categories, scripts and a few properties, `^ $ \A \z \Z \b \B`, groups (captures
//! are not kept), `(?i)` and `(?i:..)`, `(?>..)`, look-ahead, look-behind of fixed length, and `? * + {m,n}` greedy,
//! lazy and possessive.

mod class;
mod compile;
mod parse;

use class::Class;

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(crate) struct Regex {
    program: Vec<Step>,
    classes: Vec<Class>,
    /// What a match can begin with; `None` if it can be empty.
    first: Option<Box<[bool; 129]>>,
}

/// One instruction. Addresses are into the program.
#[derive(Clone, Debug)]
enum Step {
    /// One character of a class.
    One(u16),
    /// Between `min` and `max` characters of a class.
    Run {
        class: u16,
        min: u32,
        max: u32,
        kind: Kind,
    },
    /// A choice of two ways, the first preferred.
    Fork(u32, u32),
    Jump(u32),
    /// A choice of many ways in order of preference, each with what it can begin with.
    Switch(Box<[(Option<Box<[bool; 129]>>, u32)]>),
    /// Asserts that the sub-program that ends at `end` matches here (`back` characters before here), or does not.
    Look {
        end: u32,
        negative: bool,
        back: u32,
    },
    /// Matches the sub-program that ends at `end` in the one way it prefers.
    Atomic {
        end: u32,
    },
    Assert(Place),
    Match,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Greedy,
    Lazy,
    Possessive,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Start,
    End,
    LineStart,
    LineEnd,
    LastLineEnd,
    Word,
    NotWord,
}

/// A pattern took more steps than its budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooSlow;

/// A way that was not taken: where to go on, and at which place of the text. Runs keep a range of places.
struct Way {
    pc: u32,
    class: u16,
    lazy: bool,
    from: usize,
    to: usize,
    /// Where the run ended at first.
    end: usize,
}

/// Room to work for one search, and what it has learnt. Whether the rest of a pattern matches from a place does not
/// depend on how the place was reached, so a failure need not be found twice: this keeps `\s*[\r\n]+` linear.
struct Search {
    ways: Vec<Way>,
    runs: Vec<Learnt>,
    budget: u64,
}

/// Of the last run of one step: where it lies, and from where on to its end what follows is known to fail.
#[derive(Clone, Copy)]
struct Learnt {
    start: usize,
    end: usize,
    fails_from: usize,
}

impl Regex {
    /// Compiles a pattern; the error says what is wrong or not known.
    pub(crate) fn new(pattern: &str) -> Result<Regex, String> {
        compile::compile(&parse::parse(pattern)?)
    }

    /// All matches from left to right, as `visit(start, end)`. After an empty match the search goes on behind it.
    pub(crate) fn find_all(&self, text: &str, mut visit: impl FnMut(usize, usize)) -> Result<(), TooSlow> {
        let nothing = Learnt { start: 1, end: 0, fails_from: usize::MAX };
        let budget = 2_000_000 + 400 * text.len() as u64;
        let mut search = Search { ways: Vec::new(), runs: vec![nothing; self.program.len()], budget };
        let (mut at, mut last) = (0, usize::MAX);
        while let Some((start, end)) = self.find(text, at, last, &mut search)? {
            visit(start, end);
            (at, last) = (end, end);
            if start == end {
                match text[end..].chars().next() {
                    Some(c) => at += c.len_utf8(),
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// The first match at or after `from`; an empty one at `not_empty_at` does not count.
    fn find(
        &self,
        text: &str,
        from: usize,
        not_empty_at: usize,
        search: &mut Search,
    ) -> Result<Option<(usize, usize)>, TooSlow> {
        let mut at = from;
        loop {
            let next = text[at..].chars().next();
            let begins = match (&self.first, next) {
                (None, _) => true,
                (Some(first), Some(c)) => first[(c as usize).min(128)],
                (Some(_), None) => false,
            };
            if begins && let Some(end) = self.run(text, 0, at, search)? {
                if end != at || at != not_empty_at {
                    return Ok(Some((at, end)));
                }
            }
            match next {
                Some(c) => at += c.len_utf8(),
                None => return Ok(None),
            }
        }
    }

    /// Runs from `pc` at `at` until `Match`; where that is.
    fn run(&self, text: &str, pc: u32, at: usize, search: &mut Search) -> Result<Option<usize>, TooSlow> {
        let floor = search.ways.len();
        let (mut pc, mut at) = (pc, at);
        let other = |pc: u32, at: usize| Way { pc, class: 0, lazy: false, from: at, to: at, end: at };
        loop {
            search.budget = search.budget.checked_sub(1).ok_or(TooSlow)?;
            let on = match self.program.get(pc as usize) {
                Some(Step::One(class)) => match self.one(*class, text, at) {
                    Some(len) => {
                        at += len;
                        Some(pc + 1)
                    }
                    None => None,
                },
                Some(Step::Run { .. }) => self.span(text, at, pc, search)?.map(|to| {
                    at = to;
                    pc + 1
                }),
                Some(&Step::Fork(first, second)) => {
                    search.ways.push(other(second, at));
                    Some(first)
                }
                Some(&Step::Jump(to)) => Some(to),
                Some(Step::Switch(ways)) => {
                    let c = text[at..].chars().next().map(|c| (c as usize).min(128));
                    let can = |first: &Option<Box<[bool; 129]>>| first.as_ref().is_none_or(|f| c.is_some_and(|c| f[c]));
                    let mut ways = ways.iter().filter(|(first, _)| can(first));
                    let chosen = ways.next().map(|way| way.1);
                    let base = search.ways.len();
                    search.ways.extend(ways.map(|way| other(way.1, at)));
                    search.ways[base..].reverse();
                    chosen
                }
                Some(&Step::Look { end, negative, back }) => {
                    let found = match step_back(text, at, back) {
                        Some(place) => self.run(text, pc + 1, place, search)?.is_some_and(|to| back == 0 || to == at),
                        None => false,
                    };
                    (found != negative).then_some(end)
                }
                Some(&Step::Atomic { end }) => self.run(text, pc + 1, at, search)?.map(|to| {
                    at = to;
                    end
                }),
                Some(&Step::Assert(place)) => holds(place, text, at).then_some(pc + 1),
                Some(Step::Match) | None => {
                    search.ways.truncate(floor);
                    return Ok(Some(at));
                }
            };
            if let Some(on) = on {
                pc = on;
                continue;
            }
            // A dead end: take the last way that was not taken.
            let Search { ways, runs, .. } = search;
            let Some(way) = (ways.len() > floor).then(|| ways.last_mut()).flatten() else { return Ok(None) };
            pc = way.pc;
            at = way.to;
            if way.lazy {
                // One more character.
                at = way.from + self.one(way.class, text, way.from).unwrap_or(1);
                way.from = at;
            } else if way.end > way.to {
                // One fewer; so what follows fails from all the places behind this one.
                let behind = way.to + text[way.to..].chars().next().map_or(1, char::len_utf8);
                if let Some(run) = runs.get_mut(pc as usize - 1).filter(|run| run.end == way.end) {
                    run.fails_from = run.fails_from.min(behind);
                }
                way.to = text[..way.to].char_indices().next_back().map_or(way.from, |(i, _)| i);
            }
            if if way.lazy { way.from >= way.to } else { at <= way.from } {
                ways.pop();
            }
        }
    }

    /// Takes a run of characters; keeps the other lengths it may have as a way.
    fn span(&self, text: &str, at: usize, pc: u32, search: &mut Search) -> Result<Option<usize>, TooSlow> {
        let Some(&Step::Run { class, min, max, kind }) = self.program.get(pc as usize) else { return Ok(None) };
        let run = &mut search.runs[pc as usize];
        let (mut to, mut count, mut least) = (at, 0, at);
        if max == u32::MAX && min <= 1 && (run.start..run.end).contains(&at) {
            to = run.end;
            least = if min == 0 { at } else { at + text[at..].chars().next().map_or(1, char::len_utf8) };
        } else {
            while count < max
                && let Some(len) = self.one(class, text, to)
            {
                to += len;
                count += 1;
                if count == min {
                    least = to;
                }
            }
            search.budget = search.budget.checked_sub(u64::from(count) / 8).ok_or(TooSlow)?;
            if count < min {
                return Ok(None);
            }
            *run = Learnt { start: at, end: to, fails_from: if run.end == to { run.fails_from } else { usize::MAX } };
        }
        let end = to;
        let shorter = |to: usize| text[..to].char_indices().next_back().map_or(0, |(i, _)| i);
        match kind {
            Kind::Possessive => return Ok(Some(to)),
            Kind::Lazy => {
                if least < to {
                    search.ways.push(Way { pc: pc + 1, class, lazy: true, from: least, to, end });
                }
                return Ok(Some(least));
            }
            Kind::Greedy => {}
        }
        if run.fails_from <= to {
            if run.fails_from <= least {
                return Ok(None);
            }
            to = shorter(run.fails_from);
        }
        if least < to {
            search.ways.push(Way { pc: pc + 1, class, lazy: false, from: least, to: shorter(to), end });
        }
        Ok(Some(to))
    }

    /// The length of the character at `at`, if it is of the class.
    fn one(&self, class: u16, text: &str, at: usize) -> Option<usize> {
        let class = self.classes.get(usize::from(class))?;
        let byte = *text.as_bytes().get(at)?;
        if byte < 128 {
            return class.ascii(byte).then_some(1);
        }
        let c = text[at..].chars().next()?;
        class.has(c).then_some(c.len_utf8())
    }
}

/// The place `n` characters before `at`.
fn step_back(text: &str, at: usize, n: u32) -> Option<usize> {
    match n {
        0 => Some(at),
        n => text[..at].char_indices().rev().nth(n as usize - 1).map(|(i, _)| i),
    }
}

fn holds(place: Place, text: &str, at: usize) -> bool {
    let before = || text[..at].chars().next_back();
    let after = || text[at..].chars().next();
    let word = |c: Option<char>| c.is_some_and(crate::unicode::is_word);
    match place {
        Place::Start => at == 0,
        Place::End => at == text.len(),
        Place::LineStart => at == 0 || before() == Some('\n') && at < text.len(),
        Place::LineEnd => matches!(after(), None | Some('\n')),
        Place::LastLineEnd => matches!(&text[at..], "" | "\n"),
        Place::Word => word(before()) != word(after()),
        Place::NotWord => word(before()) == word(after()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(pattern: &str, text: &str) -> Vec<String> {
        let mut out = Vec::new();
        Regex::new(pattern).expect(pattern).find_all(text, |a, b| out.push(text[a..b].to_owned())).expect("in time");
        out
    }

    #[test]
    fn matches_in_order_of_preference() {
        assert_eq!(all("a|ab", "abab"), ["a", "a"]);
        assert_eq!(all("ab|a", "aba"), ["ab", "a"]);
        assert_eq!(all(r"\s+(?!\S)|\s+", "a   b  "), ["  ", " ", "  "]);
        assert_eq!(all(r"\p{N}{1,3}", "12345 ٣"), ["123", "45", "٣"]);
        assert_eq!(all("a+?b", "aaab"), ["aaab"]);
        assert_eq!(all("a+?", "aa"), ["a", "a"]);
        assert_eq!(all("a{2,3}?", "aaaaa"), ["aa", "aa"]);
        assert_eq!(all("(?:ab)*c", "ababc c"), ["ababc", "c"]);
        assert_eq!(all("a++b|a", "aac"), ["a", "a"]);
        assert_eq!(all("(?>a|ab)c|ab", "abc"), ["ab"]);
        assert_eq!(all("x*", "axb"), ["", "x", ""]);
        assert_eq!(all("(?i:'S|ll)", "'s'ſ LL"), ["'s", "'ſ", "LL"]);
        assert_eq!(all("(?i)ab[c-d]", "ABC abD"), ["ABC", "abD"]);
    }

    #[test]
    fn classes_and_assertions() {
        assert_eq!(all(r"[^\r\n\p{L}]+", "ab, é\n1"), [", ", "1"]);
        assert_eq!(all(r"[\p{L}&&[^a-z]]+", "abÀC"), ["ÀC"]);
        assert_eq!(all(r"[[:alpha:]_]+", "a_é 1"), ["a_é"]);
        assert_eq!(all(r"\p{Han}+|\P{Han}", "漢字a"), ["漢字", "a"]);
        assert_eq!(all(r"[a\-\]]+", "-a]b"), ["-a]"]);
        assert_eq!(all(r"(?<=a)b", "ab b"), ["b"]);
        assert_eq!(all(r"(?<!a)b", "ab b"), ["b"]);
        assert_eq!(all(r"\bfoo\b", "foo food foo"), ["foo", "foo"]);
        assert_eq!(all(r"\d{1,3}(?=(?:\d{3})*\b)", "1234567"), ["1", "234", "567"]);
        assert_eq!(all(r"\x41\u0042\x{43}", "ABC"), ["ABC"]);
        assert_eq!(all(r"^a|b$", "aab"), ["a", "b"]);
        assert_eq!(all(r"(?=(\d{3})+(?!\d))", "1234567").len(), 2);
    }

    #[test]
    fn what_is_not_known_is_said() {
        for bad in [
            "(",
            "[a",
            "a)",
            r"\p{Nonsense}",
            "a{3,1}",
            "*a",
            r"(\w)\1",
            "(?<=a+)b",
            "(a*)*",
            "[z-a]",
            "(?q)",
            "a{99999}{99999}",
        ] {
            assert!(Regex::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hostile_patterns_end() {
        let r = Regex::new("(?:a+)+$").expect("compiles");
        assert_eq!(r.find_all(&"a".repeat(10_000).replace("aaaaaaaaaa", "aaaaaaaaab"), |_, _| ()), Ok(()));
        assert_eq!(r.find_all(&("a".repeat(60) + "b"), |_, _| ()), Ok(()));
        let r = Regex::new("(?:a|aa)+$").expect("compiles");
        assert_eq!(r.find_all(&("a".repeat(60) + "b"), |_, _| ()), Err(TooSlow));
    }
}
