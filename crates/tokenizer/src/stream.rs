//! Ids to text, one by one.

use crate::{Engine, Tokenizer};

/// Takes ids one by one and gives the text that is complete. All the text together is what
/// [`Tokenizer::decode`] gives for all the ids together, because that is how it is made.
/// Holds no borrow, so that a request can keep it; always give it the same tokenizer.
#[derive(Clone, Debug)]
pub struct StreamState {
    skip_special: bool,
    /// No text has come yet.
    first: bool,
    /// Bytes that are no complete character yet.
    bytes: Vec<u8>,
    /// Text that may still change.
    held: String,
    json: crate::json::decode::State,
}

impl StreamState {
    pub(crate) fn new(skip_special: bool) -> Self {
        StreamState { skip_special, first: true, bytes: Vec::new(), held: String::new(), json: Default::default() }
    }

    /// Takes the ids of a prompt, whose text is known, so that what follows comes out as it does behind that prompt.
    pub fn prime(&mut self, tokenizer: &Tokenizer, prompt: &[u32]) {
        for &id in prompt {
            self.push(tokenizer, id);
        }
    }

    /// Takes an id; the text that is complete now, which may be none.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        let mut out = String::new();
        if self.skip_special && tokenizer.is_special(id) {
            return out;
        }
        match &tokenizer.engine {
            Engine::Gguf(engine) => {
                let before = self.bytes.len();
                engine.piece(&tokenizer.parts.vocab, id, &mut self.bytes);
                if self.first && self.bytes.len() > before {
                    self.first = false;
                    if engine.strips_first_space() && self.bytes.first() == Some(&b' ') {
                        self.bytes.remove(0);
                    }
                }
                drain_utf8(&mut self.bytes, false, &mut out);
                if engine.clean_spaces {
                    self.held.push_str(&out);
                    out = self.take_clean(false);
                }
            }
            Engine::Json(engine) => engine.decode_push(&tokenizer.parts.vocab, &mut self.json, id, &mut out),
        }
        out
    }

    /// Ends the stream; the text that was still waiting for more.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> String {
        let mut out = String::new();
        match &tokenizer.engine {
            Engine::Gguf(engine) => {
                drain_utf8(&mut self.bytes, true, &mut out);
                if engine.clean_spaces {
                    self.held.push_str(&out);
                    out = self.take_clean(true);
                }
            }
            Engine::Json(engine) => engine.decode_finish(&mut self.json, &mut out),
        }
        out
    }

    /// Cleans what was held up to the last place where nothing that follows can matter: between a letter and a space.
    fn take_clean(&mut self, all: bool) -> String {
        let b = self.held.as_bytes();
        let cut = (1..b.len()).rev().find(|&i| b[i] == b' ' && b[i - 1].is_ascii_alphanumeric());
        let cut = if all { self.held.len() } else { cut.unwrap_or(0) };
        let rest = self.held.split_off(cut);
        clean_spaces(&std::mem::replace(&mut self.held, rest))
    }
}

/// A [`StreamState`] with its tokenizer.
#[derive(Clone, Debug)]
pub struct Stream<'a> {
    tokenizer: &'a Tokenizer,
    state: StreamState,
}

impl<'a> Stream<'a> {
    pub(crate) fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        Stream { tokenizer, state: StreamState::new(skip_special) }
    }

    /// See [`StreamState::prime`].
    pub fn prime(&mut self, prompt: &[u32]) {
        self.state.prime(self.tokenizer, prompt);
    }

    /// See [`StreamState::push`].
    pub fn push(&mut self, id: u32) -> String {
        self.state.push(self.tokenizer, id)
    }

    /// See [`StreamState::finish`].
    pub fn finish(&mut self) -> String {
        self.state.finish(self.tokenizer)
    }
}

/// Moves what is complete from `bytes` to `out`, U+FFFD for what is no UTF-8, as `String::from_utf8_lossy` does.
/// The beginning of a character stays, unless `all`.
pub(crate) fn drain_utf8(bytes: &mut Vec<u8>, all: bool, out: &mut String) {
    let mut from = 0;
    loop {
        match std::str::from_utf8(&bytes[from..]) {
            Ok(text) => {
                out.push_str(text);
                from = bytes.len();
                break;
            }
            Err(e) => {
                let valid = from + e.valid_up_to();
                out.push_str(std::str::from_utf8(&bytes[from..valid]).unwrap_or(""));
                from = valid;
                match e.error_len() {
                    Some(bad) => {
                        out.push('\u{fffd}');
                        from += bad;
                    }
                    None if all => {
                        out.push('\u{fffd}');
                        from = bytes.len();
                    }
                    None => break,
                }
            }
        }
    }
    bytes.drain(..from);
}

/// Removes the spaces of English text in tokens: before `?!.,`, around a lone apostrophe, before `'s 'm 're 've`.
fn clean_spaces(text: &str) -> String {
    let is = |b: &[u8], i: usize, what: u8| b.get(i) == Some(&what);
    // Each pass looks at its input only; `out` loses its last byte where that was the space.
    let pass = |input: Vec<u8>, drop: &dyn Fn(&[u8], usize) -> bool, skip_next: bool| {
        let mut out = Vec::with_capacity(input.len());
        let mut skipped = usize::MAX;
        let mut i = 0;
        while let Some(&b) = input.get(i) {
            if i > 0 && input[i - 1] == b' ' && skipped != i - 1 && drop(&input, i) {
                out.pop();
                if skip_next {
                    out.push(b);
                    i += 1;
                    skipped = i;
                    i += 1;
                    continue;
                }
            }
            out.push(b);
            i += 1;
        }
        out
    };
    let b = pass(text.as_bytes().to_vec(), &|b, i| matches!(b[i], b'?' | b'!' | b'.' | b','), false);
    let b = pass(b, &|b, i| b[i] == b'\'' && is(b, i + 1, b' '), true);
    let suffix = |b: &[u8], i: usize| {
        is(b, i + 1, b's') || is(b, i + 1, b'm') || matches!(b.get(i + 1), Some(b'r' | b'v')) && is(b, i + 2, b'e')
    };
    let b = pass(b, &|b, i| b[i] == b'\'' && suffix(b, i), false);
    String::from_utf8(b).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_of_english() {
        for (dirty, clean) in [
            ("hello , world !", "hello, world!"),
            ("it ' s he ' d", "it's he'd"),
            ("it 's i 'm we 're you 've he 'll can 't", "it's i'm we're you've he 'll can 't"),
            ("a ' b", "a'b"),
            (" ?", "?"),
            ("", ""),
        ] {
            assert_eq!(clean_spaces(dirty), clean, "{dirty}");
        }
    }

    #[test]
    fn utf8_in_pieces() {
        let text =
            "aé漢😀\u{fffd}".as_bytes().iter().copied().chain([0xff, 0xe6, 0x41, 0xf0, 0x9f]).collect::<Vec<u8>>();
        let (mut held, mut out) = (Vec::new(), String::new());
        for &b in &text {
            held.push(b);
            drain_utf8(&mut held, false, &mut out);
        }
        drain_utf8(&mut held, true, &mut out);
        assert_eq!(out, String::from_utf8_lossy(&text));
    }
}
