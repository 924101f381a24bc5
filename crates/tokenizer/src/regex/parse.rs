//! Pattern text to a tree.

use super::class::Set;
use super::{Kind, Place};
use crate::unicode::{CATEGORIES, CONTROL, LETTER, MARK, NUMBER, PUNCTUATION, SCRIPTS, SYMBOL};

/// A parsed pattern.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Empty,
    One(Set),
    Sequence(Vec<Node>),
    Choice(Vec<Node>),
    Repeat { node: Box<Node>, min: u32, max: u32, kind: Kind },
    Look { node: Box<Node>, ahead: bool, negative: bool },
    Atomic(Box<Node>),
    Assert(Place),
}

/// Groups and classes may lie this deep in each other.
const MAX_DEPTH: usize = 64;

pub(super) fn parse(pattern: &str) -> Result<Node, String> {
    let mut p = Parser { rest: pattern, any_case: false, depth: 0 };
    let node = p.choice()?;
    if p.rest.is_empty() { Ok(node) } else { Err("has a `)` without its `(`".into()) }
}

/// A text as it is.
fn literal(text: &str) -> Node {
    Node::Sequence(text.chars().map(|c| Node::One(Set::Range(c, c))).collect())
}

struct Parser<'a> {
    rest: &'a str,
    any_case: bool,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn eat(&mut self, what: &str) -> bool {
        let rest = self.rest.strip_prefix(what);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn deeper<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        self.depth += 1;
        let out = if self.depth > MAX_DEPTH { Err("is nested too deep".into()) } else { f(self) };
        self.depth -= 1;
        out
    }

    fn choice(&mut self) -> Result<Node, String> {
        let any_case = self.any_case;
        let mut ways = vec![self.sequence()?];
        while self.eat("|") {
            ways.push(self.sequence()?);
        }
        self.any_case = any_case;
        Ok(if ways.len() == 1 { ways.swap_remove(0) } else { Node::Choice(ways) })
    }

    fn sequence(&mut self) -> Result<Node, String> {
        let mut nodes = Vec::new();
        while self.peek().is_some_and(|c| c != '|' && c != ')') {
            let node = self.atom()?;
            nodes.push(self.repeats(node)?);
        }
        Ok(match nodes.len() {
            0 => Node::Empty,
            1 => nodes.swap_remove(0),
            _ => Node::Sequence(nodes),
        })
    }

    /// The quantifiers behind an atom.
    fn repeats(&mut self, mut node: Node) -> Result<Node, String> {
        loop {
            let before = self.rest;
            let (min, max, braces) = match self.next() {
                Some('?') => (0, 1, false),
                Some('*') => (0, u32::MAX, false),
                Some('+') => (1, u32::MAX, false),
                Some('{') => match self.bounds() {
                    Some((min, max)) => (min, max, true),
                    None => {
                        self.rest = before;
                        return Ok(node);
                    }
                },
                _ => {
                    self.rest = before;
                    return Ok(node);
                }
            };
            if min > max {
                return Err("has bounds in the wrong order".into());
            }
            let kind = if self.eat("?") {
                Kind::Lazy
            } else if !braces && self.eat("+") {
                Kind::Possessive
            } else {
                Kind::Greedy
            };
            if matches!(node, Node::Look { .. } | Node::Assert(_)) {
                return Err("repeats an assertion".into());
            }
            node = Node::Repeat { node: Box::new(node), min, max, kind };
        }
    }

    /// `m}`, `m,}`, `,n}` or `m,n}`; anything else is plain text.
    fn bounds(&mut self) -> Option<(u32, u32)> {
        let (inside, rest) = self.rest.split_once('}')?;
        let number = |s: &str, or: u32| if s.is_empty() { Some(or) } else { s.parse().ok() };
        let bounds = match inside.split_once(',') {
            None => inside.parse().ok().map(|n| (n, n)),
            Some(("", "")) => None,
            Some((m, n)) => number(m, 0).zip(number(n, u32::MAX)),
        }?;
        self.rest = rest;
        Some(bounds)
    }

    fn one(&self, set: Set) -> Node {
        Node::One(if self.any_case { set.any_case() } else { set })
    }

    fn atom(&mut self) -> Result<Node, String> {
        Ok(match self.next() {
            None => Node::Empty,
            Some('(') => self.deeper(Self::group)?,
            Some('[') => {
                let set = self.deeper(Self::class)?;
                self.one(set)
            }
            Some('.') => Node::One(Set::Range('\n', '\n').not()),
            Some('^') => Node::Assert(Place::LineStart),
            Some('$') => Node::Assert(Place::LineEnd),
            Some(c @ ('*' | '+' | '?')) => return Err(format!("has a `{c}` with nothing to repeat")),
            Some('\\') => match self.peek() {
                Some(c @ ('b' | 'B' | 'A' | 'z' | 'Z')) => {
                    self.next();
                    Node::Assert(match c {
                        'b' => Place::Word,
                        'B' => Place::NotWord,
                        'A' => Place::Start,
                        'z' => Place::End,
                        _ => Place::LastLineEnd,
                    })
                }
                Some(c @ '1'..='9') => return Err(format!("has a back-reference `\\{c}`")),
                Some('R') => {
                    self.next();
                    let newline = Set::Any(vec![
                        Set::Range('\n', '\r'),
                        Set::Range('\u{85}', '\u{85}'),
                        Set::Range('\u{2028}', '\u{2029}'),
                    ]);
                    Node::Atomic(Box::new(Node::Choice(vec![literal("\r\n"), Node::One(newline)])))
                }
                _ => {
                    let set = self.escape()?;
                    self.one(set)
                }
            },
            Some(c) => self.one(Set::Range(c, c)),
        })
    }

    /// What is behind a `(`.
    fn group(&mut self) -> Result<Node, String> {
        let look = |ahead, negative| Some((ahead, negative));
        let mut wrap: Option<(bool, bool)> = None;
        let mut atomic = false;
        let outer_case = self.any_case;
        if self.eat("?") {
            if self.eat("=") {
                wrap = look(true, false);
            } else if self.eat("!") {
                wrap = look(true, true);
            } else if self.eat("<=") {
                wrap = look(false, false);
            } else if self.eat("<!") {
                wrap = look(false, true);
            } else if self.eat(">") {
                atomic = true;
            } else if self.eat("#") {
                let (_, rest) = self.rest.split_once(')').ok_or("has a `(` without its `)`")?;
                self.rest = rest;
                return Ok(Node::Empty);
            } else if self.eat("<") || self.eat("P<") {
                let (_, rest) = self.rest.split_once('>').ok_or("has a group name without its `>`")?;
                self.rest = rest;
            } else {
                let mut on = true;
                loop {
                    match self.next() {
                        Some('i') => self.any_case = on,
                        // Unicode is always on; `m`, `s` and `x` change what no tokenizer's pattern says.
                        Some('u') if on => {}
                        Some('-') => on = false,
                        Some(':') => break,
                        // To the end of the group that this is in.
                        Some(')') => return Ok(Node::Empty),
                        other => return Err(format!("has an unknown group `(?{}`", other.unwrap_or(' '))),
                    }
                }
            }
        }
        let node = self.choice();
        self.any_case = outer_case;
        let node = Box::new(node?);
        if !self.eat(")") {
            return Err("has a `(` without its `)`".into());
        }
        Ok(match wrap {
            Some((ahead, negative)) => Node::Look { node, ahead, negative },
            None if atomic => Node::Atomic(node),
            None => *node,
        })
    }

    /// What is behind a `[`.
    fn class(&mut self) -> Result<Set, String> {
        const OPEN: &str = "has a `[` without its `]`";
        let negative = self.eat("^");
        let (mut all, mut any, mut first) = (Vec::new(), Vec::new(), true);
        loop {
            let begin = self.rest;
            let item = match self.next().ok_or(OPEN)? {
                ']' if !first => break,
                '[' if self.rest.starts_with(':') && self.rest.contains(":]") => {
                    let (name, rest) = self.rest[1..].split_once(":]").ok_or(OPEN)?;
                    self.rest = rest;
                    match name.strip_prefix('^') {
                        Some(name) => property(name)?.not(),
                        None => property(name)?,
                    }
                }
                '[' => self.deeper(Self::class)?,
                '&' if self.rest.starts_with('&') => {
                    self.next();
                    all.push(Set::Any(std::mem::take(&mut any)));
                    continue;
                }
                '\\' => self.escape()?,
                c => Set::Range(c, c),
            };
            first = false;
            // A range, unless the `-` is the last thing in the class.
            let dash = self.rest.starts_with('-') && !self.rest.starts_with("-]") && !self.rest.starts_with("-[");
            match (item, dash) {
                (Set::Range(from, to), true) if from == to => {
                    self.next();
                    let end = match self.next().ok_or(OPEN)? {
                        '\\' => self.escape()?,
                        c => Set::Range(c, c),
                    };
                    match end {
                        Set::Range(end, same) if end == same && from <= end => any.push(Set::Range(from, end)),
                        Set::Range(..) => return Err("has a range in the wrong order".into()),
                        // `[a-\d]`: no range after all.
                        set => any.extend([Set::Range(from, from), Set::Range('-', '-'), set]),
                    }
                }
                (item, _) => any.push(item),
            }
            if begin.len() == self.rest.len() {
                return Err(OPEN.into());
            }
        }
        all.push(Set::Any(any));
        let set = if all.len() == 1 { all.swap_remove(0) } else { Set::All(all) };
        Ok(if negative { set.not() } else { set })
    }

    /// What is behind a `\`, in a class or out of it.
    fn escape(&mut self) -> Result<Set, String> {
        let c = self.next().ok_or("ends in `\\`")?;
        let control = |c: char| Ok(Set::Range(c, c));
        match c {
            'n' => control('\n'),
            'r' => control('\r'),
            't' => control('\t'),
            'f' => control('\u{c}'),
            'v' => control('\u{b}'),
            'a' => control('\u{7}'),
            'e' => control('\u{1b}'),
            '0' => control('\0'),
            's' => Ok(Set::White),
            'S' => Ok(Set::White.not()),
            'd' => property("Nd"),
            'D' => Ok(property("Nd")?.not()),
            'w' => Ok(Set::Word),
            'W' => Ok(Set::Word.not()),
            'h' => property("xdigit"),
            'H' => Ok(property("xdigit")?.not()),
            'x' | 'u' | 'U' => {
                let digits = if self.eat("{") {
                    let (digits, rest) = self.rest.split_once('}').ok_or("has a `\\x{` without its `}`")?;
                    self.rest = rest;
                    digits
                } else {
                    let most = match c {
                        'x' => 2,
                        'u' => 4,
                        _ => 8,
                    };
                    let n = self.rest.bytes().take(most).take_while(u8::is_ascii_hexdigit).count();
                    let (digits, rest) = self.rest.split_at(n);
                    self.rest = rest;
                    digits
                };
                let c = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
                c.map(|c| Set::Range(c, c)).ok_or_else(|| format!("has no character `\\{digits}`"))
            }
            'p' | 'P' => {
                let name = if self.eat("{") {
                    let (name, rest) = self.rest.split_once('}').ok_or("has a `\\p{` without its `}`")?;
                    self.rest = rest;
                    name
                } else {
                    let n = self.peek().map_or(0, char::len_utf8);
                    let (name, rest) = self.rest.split_at(n);
                    self.rest = rest;
                    name
                };
                let (name, not) = name.strip_prefix('^').map_or((name, false), |name| (name, true));
                let set = property(name)?;
                Ok(if not != (c == 'P') { set.not() } else { set })
            }
            c if c.is_alphanumeric() => Err(format!("has an unknown escape `\\{c}`")),
            c => Ok(Set::Range(c, c)),
        }
    }
}

/// A class by name; case, `_`, `-` and spaces do not count.
fn property(name: &str) -> Result<Set, String> {
    let plain =
        |s: &str| s.chars().filter(|c| !matches!(c, '_' | '-' | ' ')).flat_map(char::to_lowercase).collect::<String>();
    let wanted = plain(name.split_once('=').map_or(name, |(_, value)| value));
    let ascii = |ranges: &[(char, char)]| Set::Any(ranges.iter().map(|&(a, b)| Set::Range(a, b)).collect());
    let pair = |i: u32, j: u32| Set::Category(1 << i | 1 << j);
    Ok(match wanted.as_str() {
        "any" => Set::Range('\0', char::MAX),
        "l" | "letter" => Set::Category(LETTER),
        "l&" | "lc" | "casedletter" => Set::Category(0b1110),
        "m" | "mark" | "combiningmark" => Set::Category(MARK),
        "n" | "number" => Set::Category(NUMBER),
        "p" | "punctuation" => Set::Category(PUNCTUATION),
        "punct" => Set::Any(vec![
            Set::Category(PUNCTUATION),
            ascii(&[('$', '$'), ('+', '+'), ('<', '>'), ('^', '^'), ('`', '`'), ('|', '|'), ('~', '~')]),
        ]),
        "s" | "symbol" => Set::Category(SYMBOL),
        "z" | "separator" => Set::Category(0b111 << 23),
        "c" | "other" => Set::Category(CONTROL | 1),
        "digit" => Set::Category(1 << 9),
        "cntrl" => Set::Category(1 << 26),
        "alpha" | "alphabetic" => Set::Alphabetic,
        "alnum" => Set::Any(vec![Set::Alphabetic, Set::Category(1 << 9)]),
        "upper" | "uppercase" => Set::Upper,
        "lower" | "lowercase" => Set::Lower,
        "space" | "whitespace" => Set::White,
        "word" => Set::Word,
        "blank" => Set::Any(vec![Set::Category(1 << 23), Set::Range('\t', '\t')]),
        "xdigit" => ascii(&[('0', '9'), ('a', 'f'), ('A', 'F')]),
        "ascii" => Set::Range('\0', '\u{7f}'),
        "graph" => Set::Any(vec![Set::White, pair(0, 26), Set::Category(1 << 28)]).not(),
        "print" => Set::Any(vec![pair(0, 26), Set::Category(1 << 28)]).not(),
        _ => {
            let category = CATEGORIES.iter().position(|c| plain(c) == wanted).map(|i| Set::Category(1 << i));
            let script =
                || SCRIPTS.iter().position(|s| plain(s) == wanted).and_then(|i| u8::try_from(i).ok()).map(Set::Script);
            category.or_else(script).ok_or_else(|| format!("names an unknown class `{name}`"))?
        }
    })
}

/// Whether the node can match nothing.
pub(super) fn nullable(node: &Node) -> bool {
    match node {
        Node::One(_) => false,
        Node::Empty | Node::Look { .. } | Node::Assert(_) => true,
        Node::Sequence(nodes) => nodes.iter().all(nullable),
        Node::Choice(nodes) => nodes.iter().any(nullable),
        Node::Repeat { node, min, .. } => *min == 0 || nullable(node),
        Node::Atomic(node) => nullable(node),
    }
}

/// What a match of the node can begin with: ASCII characters, and 128 for all others; `None` if it can be empty.
pub(super) fn first(node: &Node) -> Option<Box<[bool; 129]>> {
    fn add(node: &Node, out: &mut [bool; 129]) -> bool {
        match node {
            Node::One(set) => {
                (0..128u8).for_each(|b| out[usize::from(b)] |= set.has(char::from(b)));
                out[128] = true;
                false
            }
            Node::Empty | Node::Look { .. } | Node::Assert(_) => true,
            Node::Sequence(nodes) => nodes.iter().all(|n| add(n, out)),
            Node::Choice(nodes) => nodes.iter().fold(false, |empty, n| add(n, out) | empty),
            Node::Repeat { node, min, .. } => add(node, out) | (*min == 0),
            Node::Atomic(node) => add(node, out),
        }
    }
    let mut out = Box::new([false; 129]);
    (!add(node, &mut out)).then_some(out)
}

/// How many characters the node matches, if that is always the same.
pub(super) fn width(node: &Node) -> Option<u32> {
    match node {
        Node::One(_) => Some(1),
        Node::Empty | Node::Look { .. } | Node::Assert(_) => Some(0),
        Node::Sequence(nodes) => nodes.iter().try_fold(0u32, |sum, n| sum.checked_add(width(n)?)),
        Node::Choice(nodes) => {
            let w = width(nodes.first()?)?;
            nodes.iter().all(|n| width(n) == Some(w)).then_some(w)
        }
        Node::Repeat { node, min, max, .. } if min == max => width(node)?.checked_mul(*min),
        Node::Repeat { .. } => None,
        Node::Atomic(node) => width(node),
    }
}
