//! Patterns of ECMA-262 in the syntax of Rust's `regex`.
//!
//! The two differ in what `.`, `\d`, `\w`, `\s` and brackets mean, and JSON Schema's validators follow either ECMA-262 or
//! their language. Where those differ, what comes out is what all of them match. Look-around, back-references and word
//! boundaries are refused: no finite automaton without memory has them, or the library does not.

use std::iter::Peekable;
use std::str::Chars;

/// The highest count of a repetition, and of those inside each other, multiplied.
const REPEATS: u64 = 10_000;

/// White space for all, and for any.
const SPACE: &str = r" \t\n\v\f\r";
const SPACES: &str =
    r" \t\n\v\f\r\x{1c}-\x{1f}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}";

/// Rewrites a pattern, or says why not.
pub(super) fn rewrite(source: &str) -> Result<String, String> {
    if source.len() > crate::grammar::LONGEST_REGEX {
        return Err(format!("a pattern of more than {} bytes", crate::grammar::LONGEST_REGEX));
    }
    let mut parser = Parser { rest: source.chars().peekable(), out: String::new(), repeats: Vec::new(), most: 1 };
    parser.pattern()?;
    Ok(parser.out)
}

struct Parser<'a> {
    rest: Peekable<Chars<'a>>,
    out: String,
    /// For each open group, the product of repetitions inside it.
    repeats: Vec<u64>,
    /// The same for what is being read.
    most: u64,
}

/// What stands in brackets or after a backslash.
enum Item {
    Char(char),
    /// A class, as it is written in brackets: `0-9`; and what is written in brackets that begin with `^`.
    Class(String, String),
}

impl Parser<'_> {
    fn pattern(&mut self) -> Result<(), String> {
        // Where a repetition may stand, and the product of repetitions in what it repeats.
        let mut atom: Option<u64> = None;
        while let Some(c) = self.rest.next() {
            match c {
                '^' | '$' | '|' => {
                    self.out.push(c);
                    atom = None;
                }
                '.' => {
                    self.out.push_str(r"[^\n\r\x{85}\x{2028}\x{2029}]");
                    atom = Some(1);
                }
                '(' => {
                    self.group()?;
                    self.repeats.push(std::mem::replace(&mut self.most, 1));
                    atom = None;
                }
                ')' => {
                    let Some(outer) = self.repeats.pop() else { return Err("`)` closes nothing".into()) };
                    self.out.push(')');
                    atom = Some(self.most);
                    self.most = self.most.max(outer);
                }
                '[' => {
                    self.brackets()?;
                    atom = Some(1);
                }
                '\\' => {
                    match self.escape(false)? {
                        Item::Char(c) => self.literal(c),
                        Item::Class(class, _) => self.out.push_str(&format!("[{class}]")),
                    }
                    atom = Some(1);
                }
                '*' | '+' | '?' => {
                    self.repeated(atom.take(), 1)?;
                    self.out.push(c);
                    self.lazy()?;
                }
                '{' => match self.counts()? {
                    Some((text, most)) => {
                        self.repeated(atom.take(), most)?;
                        self.out.push_str(&text);
                        self.lazy()?;
                    }
                    None => {
                        self.literal('{');
                        atom = Some(1);
                    }
                },
                c => {
                    self.literal(c);
                    atom = Some(1);
                }
            }
        }
        if self.repeats.is_empty() { Ok(()) } else { Err("`(` is not closed".into()) }
    }

    fn repeated(&mut self, atom: Option<u64>, times: u64) -> Result<(), String> {
        let Some(inside) = atom else { return Err("a repetition repeats nothing".into()) };
        let product = inside.saturating_mul(times.max(1));
        if product > REPEATS {
            return Err(format!("repetitions of up to {product} times; at most {REPEATS} can be enforced"));
        }
        self.most = self.most.max(product);
        Ok(())
    }

    /// A `?` behind a repetition changes how a match is looked for, not what matches.
    fn lazy(&mut self) -> Result<(), String> {
        if self.rest.next_if_eq(&'?').is_none() && self.rest.peek().is_some_and(|c| matches!(c, '*' | '+')) {
            return Err("a repetition of a repetition".into());
        }
        Ok(())
    }

    /// What follows `(`.
    fn group(&mut self) -> Result<(), String> {
        self.out.push_str("(?:");
        if self.rest.next_if_eq(&'?').is_none() {
            return Ok(());
        }
        match self.rest.next() {
            Some(':') => Ok(()),
            Some('<' | 'P') if !matches!(self.rest.peek(), Some('=' | '!')) => {
                // A name.
                for c in self.rest.by_ref() {
                    match c {
                        '>' => return Ok(()),
                        '=' | ')' => break,
                        _ => {}
                    }
                }
                Err("a group's name is not closed".into())
            }
            Some('=' | '!' | '<' | 'P') => Err("look-around cannot be enforced; leave it out".into()),
            _ => Err("flags of groups are no part of ECMA-262; leave them out".into()),
        }
    }

    /// `{2}`, `{2,}`, `{2,5}` and the most of it; `None` if the brace stands for itself.
    fn counts(&mut self) -> Result<Option<(String, u64)>, String> {
        let ahead: String = self.rest.clone().take_while(|&c| c != '}').take(24).collect();
        if ahead.starts_with(',') {
            return Err("`{,` means a brace in ECMA-262 and a repetition elsewhere; write `{0,` or `\\{,`".into());
        }
        let (low, high) = ahead.split_once(',').unwrap_or((&ahead, &ahead));
        let number = |text: &str| text.chars().all(|c| c.is_ascii_digit()) && !text.is_empty();
        let closed = self.rest.clone().nth(ahead.chars().count()) == Some('}');
        if !closed || !number(low) || !(number(high) || high.is_empty()) {
            return Ok(None);
        }
        let most = low.parse::<u64>().unwrap_or(u64::MAX).max(high.parse().unwrap_or(if high.is_empty() {
            0
        } else {
            u64::MAX
        }));
        if number(high) && high.parse::<u64>().unwrap_or(0) < low.parse::<u64>().unwrap_or(0) {
            return Err("a repetition whose bounds are in the wrong order".into());
        }
        self.rest.nth(ahead.chars().count());
        Ok(Some((format!("{{{ahead}}}"), most)))
    }

    fn literal(&mut self, c: char) {
        push(&mut self.out, c);
    }

    /// What follows a backslash.
    fn escape(&mut self, brackets: bool) -> Result<Item, String> {
        let Some(c) = self.rest.next() else { return Err("ends with a backslash".into()) };
        let class = |class: &str| Ok(Item::Class(class.into(), class.into()));
        Ok(match c {
            'd' => return class("0-9"),
            'D' => return class("[^0-9]"),
            'w' => return class("0-9A-Za-z_"),
            'W' => return class("[^0-9A-Za-z_]"),
            's' => Item::Class(SPACE.into(), SPACES.into()),
            'S' => Item::Class(format!("[^{SPACES}]"), format!("[^{SPACE}]")),
            'p' | 'P' => {
                let name: String = self.rest.by_ref().take_while(|&c| c != '}').collect();
                let named =
                    name.strip_prefix('{').filter(|n| n.chars().all(|c| c.is_ascii_alphanumeric() || "_=".contains(c)));
                let Some(named) = named else { return Err(format!("`\\{c}` without a name in braces")) };
                return class(&format!("\\{c}{{{named}}}"));
            }
            't' => Item::Char('\t'),
            'n' => Item::Char('\n'),
            'r' => Item::Char('\r'),
            'v' => Item::Char('\x0b'),
            'f' => Item::Char('\x0c'),
            'b' if brackets => Item::Char('\x08'),
            '0' if !self.rest.peek().is_some_and(char::is_ascii_digit) => Item::Char('\0'),
            'c' => match self.rest.next() {
                Some(letter) if letter.is_ascii_alphabetic() => Item::Char((letter as u8 & 31) as char),
                _ => return Err("`\\c` without a letter".into()),
            },
            'x' => Item::Char(self.hex(2)?),
            'u' if self.rest.peek() == Some(&'{') => {
                self.rest.next();
                let digits: String = self.rest.by_ref().take_while(|&c| c != '}').take(9).collect();
                let code = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
                Item::Char(code.ok_or_else(|| format!("`\\u{{{digits}}}` is no character"))?)
            }
            'u' => Item::Char(self.hex(4)?),
            'b' | 'B' => return Err("word boundaries cannot be enforced; leave them out".into()),
            '1'..='9' | 'k' => return Err("back-references cannot be enforced; leave them out".into()),
            c if c.is_alphanumeric() => return Err(format!("`\\{c}` is no escape of ECMA-262")),
            c => Item::Char(c),
        })
    }

    fn hex(&mut self, digits: usize) -> Result<char, String> {
        let text: String = self.rest.by_ref().take(digits).collect();
        let code = (text.len() == digits).then(|| u32::from_str_radix(&text, 16).ok()).flatten();
        code.and_then(char::from_u32).ok_or_else(|| format!("`{text}` is no character of {digits} hexadecimal digits"))
    }

    /// What follows `[`.
    fn brackets(&mut self) -> Result<(), String> {
        let negated = self.rest.next_if_eq(&'^').is_some();
        self.out.push_str(if negated { "[^" } else { "[" });
        let mut first = true;
        loop {
            let item = match self.rest.next() {
                None => return Err("`[` is not closed".into()),
                Some(']') if first => return Err("`]` first in brackets means two things; write `\\]`".into()),
                Some(']') => break,
                Some('\\') => self.escape(true)?,
                Some(c) => Item::Char(c),
            };
            first = false;
            let low = match item {
                Item::Char(c) => c,
                Item::Class(class, broad) => {
                    self.out.push_str(if negated { &broad } else { &class });
                    continue;
                }
            };
            let mut ahead = self.rest.clone();
            if ahead.next() != Some('-') || matches!(ahead.peek(), Some(']') | None) {
                self.literal(low);
                continue;
            }
            self.rest.next();
            let high = match self.rest.next() {
                Some('\\') => self.escape(true)?,
                Some(c) => Item::Char(c),
                None => return Err("`[` is not closed".into()),
            };
            match high {
                Item::Char(high) if low <= high => {
                    self.literal(low);
                    self.out.push('-');
                    self.literal(high);
                }
                Item::Char(high) => return Err(format!("the range `{low}-{high}` is empty")),
                // `[a-\d]` is a, a dash and digits.
                Item::Class(class, broad) => {
                    self.literal(low);
                    self.literal('-');
                    self.out.push_str(if negated { &broad } else { &class });
                }
            }
        }
        self.out.push(']');
        Ok(())
    }
}

/// A character that stands for itself, also in brackets.
fn push(out: &mut String, c: char) {
    if c.is_alphanumeric() || " _%:;,=@<>\"'`".contains(c) {
        out.push(c);
    } else if c.is_ascii() && !c.is_ascii_control() {
        out.push('\\');
        out.push(c);
    } else {
        out.push_str(&format!("\\x{{{:x}}}", c as u32));
    }
}

#[cfg(test)]
mod tests {
    use super::rewrite;

    #[test]
    fn patterns_are_read_as_ecma_says() {
        for (source, written) in [
            (r"^\d+$", r"^[0-9]+$"),
            (r"a{2,3}?b", r"a{2,3}b"),
            (r"{a}{", r"\{a\}\{"),
            (r"[\w.-]", r"[0-9A-Za-z_\.\-]"),
            // From the second `&` to `-`: a range, and no operator.
            (r"[&&--~~[]", r"[\&\&-\-\~\~\[]"),
            (r"(?<year>\/)(x)", r"(?:\/)(?:x)"),
            (
                r"[^\s]",
                r"[^ \t\n\v\f\r\x{1c}-\x{1f}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}]",
            ),
            (r"\u0041\x42\cA", r"AB\x{1}"),
        ] {
            assert_eq!(rewrite(source).as_deref(), Ok(written), "{source}");
        }
    }

    #[test]
    fn what_no_automaton_has_is_refused() {
        for source in [
            r"(?=a)",
            r"(?!a)",
            r"(?<=a)",
            r"(?<!a)",
            r"(?i)a",
            r"\bword\b",
            r"(a)\1",
            r"\k<a>",
            r"[]a]",
            r"[^]",
            r"[z-a]",
            r"a{,3}",
            r"a**",
            r"*a",
            r"a{3,2}",
            r"(a",
            r"a)",
            r"[a",
            r"\",
            r"\z",
            r"\uD83D",
            r"((a{100}){100}){100}",
            r"a{100001}",
        ] {
            assert!(rewrite(source).is_err(), "{source}");
        }
    }
}
