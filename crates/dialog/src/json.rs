//! JSON, character by character.

/// What a character did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The value goes on.
    More,
    /// The value is complete with this character.
    Done,
    /// The character cannot stand here.
    Bad,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Value,
    /// Behind `[`.
    First,
    /// Behind `{`.
    FirstKey,
    Key,
    Colon,
    /// Behind a value in an array or object.
    Next,
    Text {
        key: bool,
        escape: u8,
    },
    Number(Digits),
    Word(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Digits {
    Sign,
    Zero,
    Int,
    Dot,
    Fraction,
    E,
    ESign,
    Exponent,
}

/// The deepest nesting that is read.
const DEPTH: usize = 128;

/// A reader of one object or array (RFC 8259). Line breaks and other control characters in strings are let through, as
/// models write them; whoever copies the text escapes them.
#[derive(Clone, Debug)]
pub(crate) struct Json {
    at: At,
    /// For each open bracket, whether it is an object's.
    open: Vec<bool>,
}

impl Json {
    pub(crate) fn new() -> Self {
        Json { at: At::Value, open: Vec::new() }
    }

    /// How many brackets are open.
    pub(crate) fn depth(&self) -> usize {
        self.open.len()
    }

    /// Whether what comes is a part of a string.
    pub(crate) fn in_text(&self) -> bool {
        matches!(self.at, At::Text { .. })
    }

    /// Whether a key, or a value, may begin with the next character.
    pub(crate) fn before_key(&self) -> bool {
        matches!(self.at, At::FirstKey | At::Key)
    }

    pub(crate) fn before_value(&self) -> bool {
        matches!(self.at, At::Value | At::First)
    }

    /// Whether a key has just ended, or a value.
    pub(crate) fn behind_key(&self) -> bool {
        self.at == At::Colon
    }

    pub(crate) fn behind_value(&self) -> bool {
        self.at == At::Next
    }

    pub(crate) fn step(&mut self, c: char) -> Step {
        let space = matches!(c, ' ' | '\t' | '\n' | '\r');
        match self.at {
            At::Text { key, escape } => {
                let next = match (escape, c) {
                    (0, '"') => return self.ended(key),
                    (0, '\\') => 1,
                    (0, _) => 0,
                    (1, 'u') => 2,
                    (1, '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't') => 0,
                    (2..=4, c) if c.is_ascii_hexdigit() => escape + 1,
                    (5, c) if c.is_ascii_hexdigit() => 0,
                    _ => return Step::Bad,
                };
                self.at = At::Text { key, escape: next };
                Step::More
            }
            At::Word(rest) => {
                let mut left = rest.chars();
                if left.next() != Some(c) {
                    return Step::Bad;
                }
                if left.as_str().is_empty() {
                    return self.ended(false);
                }
                self.at = At::Word(left.as_str());
                Step::More
            }
            At::Number(digits) => self.number(digits, c),
            _ if space => Step::More,
            At::First if c == ']' => self.close(false),
            At::Value | At::First => self.value(c),
            At::FirstKey if c == '}' => self.close(true),
            At::FirstKey | At::Key if c == '"' => self.go(At::Text { key: true, escape: 0 }),
            At::Colon if c == ':' => self.go(At::Value),
            At::Next => match (c, self.open.last()) {
                (',', Some(true)) => self.go(At::Key),
                (',', Some(false)) => self.go(At::Value),
                ('}', Some(true)) => self.close(true),
                (']', Some(false)) => self.close(false),
                _ => Step::Bad,
            },
            _ => Step::Bad,
        }
    }

    fn go(&mut self, at: At) -> Step {
        self.at = at;
        Step::More
    }

    fn ended(&mut self, key: bool) -> Step {
        self.at = if key { At::Colon } else { At::Next };
        if self.open.is_empty() { Step::Done } else { Step::More }
    }

    fn close(&mut self, object: bool) -> Step {
        if self.open.pop() == Some(object) { self.ended(false) } else { Step::Bad }
    }

    fn value(&mut self, c: char) -> Step {
        let at = match c {
            '{' | '[' => {
                if self.open.len() == DEPTH {
                    return Step::Bad;
                }
                self.open.push(c == '{');
                if c == '{' { At::FirstKey } else { At::First }
            }
            '"' => At::Text { key: false, escape: 0 },
            '-' => At::Number(Digits::Sign),
            '0' => At::Number(Digits::Zero),
            '1'..='9' => At::Number(Digits::Int),
            't' => At::Word("rue"),
            'f' => At::Word("alse"),
            'n' => At::Word("ull"),
            _ => return Step::Bad,
        };
        self.go(at)
    }

    fn number(&mut self, digits: Digits, c: char) -> Step {
        use Digits::*;
        let next = match (digits, c) {
            (Sign, '0') => Zero,
            (Sign, '1'..='9') | (Int, '0'..='9') => Int,
            (Zero | Int, '.') => Dot,
            (Dot | Fraction, '0'..='9') => Fraction,
            (Zero | Int | Fraction, 'e' | 'E') => E,
            (E, '+' | '-') => ESign,
            (E | ESign | Exponent, '0'..='9') => Exponent,
            (Zero | Int | Fraction | Exponent, _) => {
                // The number ended before this character.
                self.at = At::Next;
                return self.step(c);
            }
            _ => return Step::Bad,
        };
        self.go(At::Number(next))
    }
}

/// Appends a character of JSON, escaped if it stands in a string and may not stand there as it is.
pub(crate) fn copy(out: &mut String, c: char, in_text: bool) {
    match c {
        '\n' if in_text => out.push_str("\\n"),
        '\r' if in_text => out.push_str("\\r"),
        '\t' if in_text => out.push_str("\\t"),
        c if in_text && (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
        c => out.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_serde_json_reads() {
        let good = [
            "{}",
            "[]",
            r#"{"a": [1, -0.5e+3, true, false, null, "x\u00e9\"\\"], "b": {"c": {}}}"#,
            "[ 0 , 10 ]",
            "[[[]]]",
        ];
        for text in good {
            // Any change of one character must be judged alike.
            let mut texts = vec![text.to_string()];
            for (i, c) in text.char_indices() {
                for other in ['{', '}', '[', ']', '"', ',', ':', '0', '.', 'e', '-', ' ', '\\', 'u', 't'] {
                    texts.push(format!("{}{other}{}", &text[..i], &text[i + c.len_utf8()..]));
                }
                texts.push(format!("{}{}", &text[..i], &text[i + c.len_utf8()..]));
            }
            for text in texts.iter().filter(|text| text.trim_start().starts_with(['{', '['])) {
                let mut json = Json::new();
                let steps: Vec<Step> = text.chars().map(|c| json.step(c)).collect();
                let end = steps.iter().position(|step| *step != Step::More);
                let whole = end.is_some_and(|end| {
                    steps[end] == Step::Done && text.chars().skip(end + 1).all(|c| c.is_ascii_whitespace())
                });
                assert_eq!(whole, serde_json::from_str::<serde_json::Value>(text).is_ok(), "{text}");
            }
        }
    }
}
