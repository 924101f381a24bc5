//! Text to token ids and back: one [`Tokenizer`] for GGUF metadata, read as llama.cpp reads it, and for
//! `tokenizer.json`, read as the Hugging Face `tokenizers` library reads it.
//!
//! The first are models of a few hundred lines that load in milliseconds and equal llama.cpp's to the id. The second
//! encode through that library, behind checks that keep hostile files from making it panic; decoding is ours, because
//! the library cannot do it step by step.
#![forbid(unsafe_code)]

mod bpe;
mod charsmap;
mod error;
mod framed;
mod gguf;
mod hash;
mod json;
mod known;
mod regex;
mod stream;
mod unicode;
mod unigram;
mod vocab;

pub use error::Error;
pub use framed::Framed;
pub use stream::{Stream, StreamState};

use alula_format::gguf::Metadata;
use vocab::Vocab;

/// Longest text for one call, in bytes.
pub const MAX_TEXT: usize = 1 << 30;

/// Turns text into token ids and ids into text. Immutable once loaded; share it between threads.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    parts: Parts,
    engine: Engine,
}

#[derive(Clone, Debug)]
enum Engine {
    Gguf(Box<gguf::Engine>),
    Json(Box<json::Engine>),
}

/// What both worlds have.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    vocab: Vocab,
    bos: Option<u32>,
    eos: Option<u32>,
    /// Sorted.
    ends: Vec<u32>,
    fim: Fim,
    adds_bos: bool,
}

/// The tokens of fill-in-the-middle prompts, where a model has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fim {
    /// Before the text that comes before the gap.
    pub prefix: Option<u32>,
    /// Before the text that comes behind the gap.
    pub suffix: Option<u32>,
    /// Where the model fills the gap.
    pub middle: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// Before the name of a repository.
    pub repo: Option<u32>,
    /// Between files.
    pub separator: Option<u32>,
}

impl Tokenizer {
    /// The tokenizer of a GGUF file; `file` stands for it in messages.
    ///
    /// # Errors
    /// If the file has none, one of an unknown kind, or one that breaks its rules.
    pub fn from_gguf(meta: &Metadata, file: &str) -> Result<Self, Error> {
        let (parts, engine) = gguf::load(meta, file)?;
        Ok(Tokenizer { parts, engine: Engine::Gguf(Box::new(engine)) })
    }

    /// The tokenizer of a `tokenizer.json`, given as bytes, with the `tokenizer_config.json` beside it if there is
    /// one; `file` stands for the first in messages. Its truncation and padding are not applied.
    ///
    /// # Errors
    /// If the bytes are no such file or ask for something unknown.
    pub fn from_json(tokenizer_json: &[u8], config: Option<&serde_json::Value>, file: &str) -> Result<Self, Error> {
        let (parts, engine) = json::load(tokenizer_json, config, file)?;
        Ok(Tokenizer { parts, engine: Engine::Json(Box::new(engine)) })
    }

    /// The ids of a text. `add_special`: with the tokens that the model wants at its ends (BOS, EOS and so on);
    /// `parse_special`: special tokens that are written in the text become their ids.
    ///
    /// # Errors
    /// If the text is over [`MAX_TEXT`] bytes, holds something the vocabulary cannot express, or is so that a pattern
    /// of the file takes too long.
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>, Error> {
        if text.len() > MAX_TEXT {
            return Err(Error::TooLong { bytes: text.len(), max: MAX_TEXT });
        }
        match &self.engine {
            Engine::Gguf(engine) => engine.encode(&self.parts.vocab, text, add_special, parse_special),
            Engine::Json(engine) => engine.encode(&self.parts.vocab, text, add_special, parse_special),
        }
    }

    /// A text, or two, as an encoder reads them: with special tokens around them, special tokens that are written in
    /// them read, and tokens cut off the end of the longer one where there would be more than `longest` in all.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn frame(&self, first: &str, second: Option<&str>, longest: usize) -> Result<Framed, Error> {
        for text in [first].into_iter().chain(second) {
            if text.len() > MAX_TEXT {
                return Err(Error::TooLong { bytes: text.len(), max: MAX_TEXT });
            }
        }
        match &self.engine {
            Engine::Gguf(engine) => engine.frame(&self.parts.vocab, first, second, longest),
            Engine::Json(engine) => engine.frame(first, second, longest),
        }
    }

    /// The text of ids, U+FFFD for bytes that are no UTF-8; `skip_special` leaves out control tokens.
    /// Ids beyond the vocabulary are nothing. A space that encoding adds before a text is taken off again.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut state = StreamState::new(skip_special);
        let mut out: String = ids.iter().map(|&id| state.push(self, id)).collect();
        out.push_str(&state.finish(self));
        out
    }

    /// Decodes ids one by one.
    pub fn stream(&self, skip_special: bool) -> Stream<'_> {
        Stream::new(self, skip_special)
    }

    /// The same without a borrow of the tokenizer.
    pub fn stream_state(&self, skip_special: bool) -> StreamState {
        StreamState::new(skip_special)
    }

    /// How many ids there are: one more than the highest.
    pub fn vocab_size(&self) -> usize {
        self.parts.vocab.len()
    }

    /// The text of a token as the vocabulary writes it; `None` if there is no such token or its text is no UTF-8.
    pub fn token(&self, id: u32) -> Option<&str> {
        self.parts.vocab.has(id).then(|| std::str::from_utf8(self.parts.vocab.text(id)).ok())?
    }

    /// The bytes that a token stands for in a text.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        let mut out = Vec::new();
        match &self.engine {
            Engine::Gguf(engine) => engine.piece(&self.parts.vocab, id, &mut out),
            Engine::Json(engine) => engine.piece(&self.parts.vocab, id, &mut out),
        }
        out
    }

    /// The id of a token as the vocabulary writes it.
    pub fn id(&self, token: &str) -> Option<u32> {
        match &self.engine {
            Engine::Gguf(_) => self.parts.vocab.get(token.as_bytes()),
            Engine::Json(engine) => engine.id(token),
        }
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.parts.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.parts.eos
    }

    /// Whether a generation ends with this token.
    pub fn is_end(&self, id: u32) -> bool {
        self.parts.ends.binary_search(&id).is_ok()
    }

    /// All tokens with which a generation ends, ascending.
    pub fn end_ids(&self) -> &[u32] {
        &self.parts.ends
    }

    /// Whether a token is for control and not for text.
    pub fn is_special(&self, id: u32) -> bool {
        match &self.engine {
            Engine::Gguf(engine) => engine.is_special(id),
            Engine::Json(engine) => engine.is_special(id),
        }
    }

    /// The tokens of fill-in-the-middle prompts.
    pub fn fim(&self) -> Fim {
        self.parts.fim
    }

    /// `bpe`, `sentencepiece`, `wordpiece`, `unigram` or `wordlevel`.
    pub fn kind(&self) -> &'static str {
        match &self.engine {
            Engine::Gguf(engine) => engine.kind(),
            Engine::Json(engine) => engine.kind(),
        }
    }

    /// Whether encoding with `add_special` puts BOS first.
    pub fn adds_bos(&self) -> bool {
        self.parts.adds_bos
    }
}
