//! When a request ends: stop strings over streamed text, stop tokens, lengths.

use thiserror::Error;

/// Stop conditions that make no sense.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StopError {
    /// An empty stop string would end everything at once.
    #[error("stop string {0} (counted from 0) is empty: leave it out")]
    Empty(usize),
    /// A stop token that the model does not have.
    #[error("stop token {id} is not in the vocabulary of {vocab} tokens")]
    Token {
        /// The token.
        id: u32,
        /// Tokens in the vocabulary.
        vocab: usize,
    },
}

/// One stop string and how much of it the text so far ends with.
#[derive(Clone, Debug)]
struct Pattern {
    bytes: Box<[u8]>,
    /// `shorter[n]`: the longest proper prefix that is also a suffix of the first n + 1 bytes.
    shorter: Box<[usize]>,
    /// Length of the longest prefix that the text so far ends with.
    matched: usize,
}

impl Pattern {
    fn new(stop: &str) -> Self {
        let bytes: Box<[u8]> = stop.as_bytes().into();
        let mut shorter = vec![0; bytes.len()];
        let mut n = 0;
        for i in 1..bytes.len() {
            while n > 0 && bytes[n] != bytes[i] {
                n = shorter[n - 1];
            }
            n += usize::from(bytes[n] == bytes[i]);
            shorter[i] = n;
        }
        Self { bytes, shorter: shorter.into(), matched: 0 }
    }

    /// Reads one byte; true if the text now ends with the whole string. Not to be called again after that.
    fn ends_with(&mut self, byte: u8) -> bool {
        while self.matched > 0 && self.bytes[self.matched] != byte {
            self.matched = self.shorter[self.matched - 1];
        }
        self.matched += usize::from(self.bytes[self.matched] == byte);
        self.matched == self.bytes.len()
    }
}

/// Looks for stop strings in a text that comes in pieces. What could be the beginning of one is held back until it is decided.
///
/// The text ends where the first stop string is complete, and before its first character; of two that are complete at the
/// same character the longer counts. So the result does not depend on where the pieces are cut.
/// Time per byte is constant for each stop string (Knuth, Morris, Pratt 1977).
#[derive(Clone, Debug, Default)]
pub struct StopText {
    patterns: Vec<Pattern>,
    held: String,
    found: Option<usize>,
}

impl StopText {
    /// A search for any of `stops`; none of them may be empty.
    pub fn new<S: AsRef<str>>(stops: &[S]) -> Result<Self, StopError> {
        if let Some(empty) = stops.iter().position(|s| s.as_ref().is_empty()) {
            return Err(StopError::Empty(empty));
        }
        let patterns = stops.iter().map(|s| Pattern::new(s.as_ref())).collect();
        Ok(Self { patterns, held: String::new(), found: None })
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Which stop string is complete, counted from 0.
    pub fn found(&self) -> Option<usize> {
        self.found
    }

    /// Reads `piece` and appends to `out` what is certain to be before any stop string. True if a stop string is complete:
    /// then the text is over, and later pieces are ignored.
    pub fn push(&mut self, piece: &str, out: &mut String) -> bool {
        if self.found.is_some() {
            return true;
        }
        let before = self.held.len();
        self.held.push_str(piece);
        for (i, byte) in piece.bytes().enumerate() {
            // Of the same text twice, the first counts.
            let complete = self.patterns.iter_mut().enumerate().rev();
            let complete = complete.filter_map(|(at, p)| p.ends_with(byte).then_some((p.bytes.len(), at)));
            if let Some((len, at)) = complete.max_by_key(|(len, _)| *len) {
                out.push_str(&self.held[..before + i + 1 - len]);
                self.held.clear();
                self.found = Some(at);
                return true;
            }
        }
        let open = self.patterns.iter().map(|p| p.matched).max().unwrap_or(0);
        let certain = self.held.len() - open;
        out.push_str(&self.held[..certain]);
        self.held.drain(..certain);
        false
    }

    /// The text is over: appends what was held back, which no stop string completed.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }
}

/// The conditions on tokens and lengths.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Tokens to generate at most.
    pub max_tokens: usize,
    /// Length of prompt and generated tokens together at most.
    pub context: usize,
    /// Tokens that end the text wherever they come.
    pub stop_tokens: Vec<u32>,
}

/// Why a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The model ended its text, or chose one of the request's stop tokens, or its [constraint](crate::Constraint) was complete.
    Stop,
    /// This stop string was complete, counted from 0.
    StopString(usize),
    /// As many tokens as asked for.
    Length,
    /// The sequence is as long as the context.
    Context,
    /// The caller cancelled it.
    Cancelled,
    /// No token could be chosen: the logits are broken.
    Failed(crate::sample::NoCandidate),
    /// Its [constraint](crate::Constraint) could not go on, and why.
    Constraint(String),
}

impl Limits {
    /// Whether a sequence of `prompt` and `generated` tokens that ends with `token` is over. `ends`: the model ends its text with it.
    pub fn reached(&self, token: u32, ends: bool, prompt: usize, generated: usize) -> Option<Reason> {
        if ends || self.stop_tokens.contains(&token) {
            Some(Reason::Stop)
        } else if generated >= self.max_tokens {
            Some(Reason::Length)
        } else if prompt + generated >= self.context {
            Some(Reason::Context)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What each piece lets out, `|` between, `!` when stopped, then what is left at the end.
    fn stream(stops: &[&str], pieces: &[&str]) -> String {
        let mut stop = StopText::new(stops).unwrap();
        let mut log = String::new();
        for piece in pieces {
            if stop.push(piece, &mut log) {
                log.push('!');
                break;
            }
            log.push('|');
        }
        stop.finish(&mut log);
        log
    }

    #[test]
    fn holds_back_no_more_than_it_must() {
        assert_eq!(stream(&[], &["a", "", "b"]), "a||b|");
        assert_eq!(stream(&["END"], &["xE", "N", "x", "END", "y"]), "x||ENx|!");
        assert_eq!(stream(&["END"], &["xE", "N"]), "x||EN");
        assert_eq!(stream(&["\n\n"], &["a\n", "b\n", "\nc"]), "a|\nb|!");
        assert_eq!(stream(&["aab"], &["aaa", "a", "b"]), "a|a|!");
        assert_eq!(stream(&["aabaaac"], &["aabaaabaaac"]), "aaba!");
        assert_eq!(stream(&["abcd", "bc"], &["xabcd"]), "xa!");
        assert_eq!(stream(&["abcd", "bc"], &["xa", "b", "c"]), "x||a!");
        assert_eq!(stream(&["bc", "abc"], &["xabc"]), "x!", "the longer of two that end together");
        assert_eq!(stream(&["🙂!"], &["a🙂", "?🙂", "!"]), "a|🙂?|!");
    }

    #[test]
    fn stays_stopped() {
        let mut stop = StopText::new(&["x"]).unwrap();
        let mut out = String::new();
        assert!(stop.push("ax", &mut out) && stop.push("b", &mut out));
        stop.finish(&mut out);
        assert_eq!(out, "a");
        assert_eq!(StopText::new(&["a", ""]).unwrap_err(), StopError::Empty(1));
    }

    #[test]
    fn reasons_in_order() {
        let limits = Limits { max_tokens: 3, context: 10, stop_tokens: vec![5] };
        for (token, ends, prompt, generated, reason) in [
            (1, false, 4, 2, None),
            (5, false, 4, 2, Some(Reason::Stop)),
            (1, true, 4, 3, Some(Reason::Stop)),
            (1, false, 4, 3, Some(Reason::Length)),
            (1, false, 7, 3, Some(Reason::Length)),
            (1, false, 8, 2, Some(Reason::Context)),
            (1, false, 7, 2, None),
        ] {
            assert_eq!(limits.reached(token, ends, prompt, generated), reason, "{token} {ends} {prompt} {generated}");
        }
    }

    /// By definition: the shortest beginning of the text that ends with a stop string, less the longest such stop string.
    fn naive(stops: &[String], text: &str) -> (String, bool) {
        for end in text.char_indices().map(|(i, c)| i + c.len_utf8()) {
            let longest = stops.iter().filter(|s| text[..end].ends_with(s.as_str())).map(String::len).max();
            if let Some(len) = longest {
                return (text[..end - len].into(), true);
            }
        }
        (text.into(), false)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn as_the_naive_search(
            stops in prop::collection::vec("[abé]{1,5}|[ab]{6,9}", 0..4),
            pieces in prop::collection::vec("[abcé]{0,4}", 0..12),
        ) {
            let mut stop = StopText::new(&stops).unwrap();
            let (mut out, mut read, mut found) = (String::new(), String::new(), false);
            for piece in &pieces {
                read += piece;
                found = stop.push(piece, &mut out);
                let (text, stopped) = naive(&stops, &read);
                prop_assert_eq!(found, stopped);
                if found {
                    prop_assert_eq!(&out, &text);
                    break;
                }
                // What is held back is the longest end of the text that begins a stop string.
                let open = read.char_indices().map(|(i, _)| &read[i..]).find(|end| stops.iter().any(|s| s.starts_with(end)));
                prop_assert_eq!(out.len() + open.map_or(0, str::len), read.len());
            }
            stop.finish(&mut out);
            prop_assert_eq!((out, found), naive(&stops, &read));
        }
    }
}
