//! A text on its way through a grammar.

use std::sync::Arc;

use llguidance::api::StopReason;
use llguidance::{Matcher, ParserFactory};

use crate::vocabulary::CONTROL;
use crate::{Error, Vocabulary};

/// A grammar compiled for a vocabulary. Any number of texts can follow it, each with a [`State`]; clones share it.
#[derive(Clone)]
pub struct Constraint {
    pub(crate) first: Arc<std::sync::Mutex<Matcher>>,
    pub(crate) factory: Arc<ParserFactory>,
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Constraint").finish_non_exhaustive()
    }
}

impl Constraint {
    /// The state before the first token. States share nothing that one of them could slow down for the others.
    pub fn start(&self) -> State {
        let first = self.first.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        State { matcher: first.deep_clone(), factory: Arc::clone(&self.factory) }
    }
}

/// Where a text is in its grammar. Clone it to go on in two ways.
pub struct State {
    matcher: Matcher,
    factory: Arc<ParserFactory>,
}

impl Clone for State {
    fn clone(&self) -> Self {
        State { matcher: self.matcher.deep_clone(), factory: Arc::clone(&self.factory) }
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("complete", &self.is_complete()).finish_non_exhaustive()
    }
}

impl State {
    /// Which tokens may come: bit `i % 32` of `out[i / 32]` for token `i`. Bits beyond the vocabulary are cleared. A
    /// text that is complete allows its ends alone; one that may end or go on allows both.
    ///
    /// # Errors
    /// [`Error::TooComplex`] if finding out takes too much work, [`Error::Stuck`] if no token may come. Either way this
    /// state is of no use after it.
    pub fn mask(&mut self, out: &mut [u32]) -> Result<(), Error> {
        let mask = self.matcher.compute_mask_or_eos().map_err(|error| Error::of_state(&error))?;
        let bits = mask.as_slice();
        let common = bits.len().min(out.len());
        let (head, tail) = out.split_at_mut(common);
        head.copy_from_slice(&bits[..common]);
        tail.fill(0);
        Ok(())
    }

    /// Takes the token that came.
    ///
    /// # Errors
    /// [`Error::Token`] if the mask did not allow it, and nothing has changed; [`Error::TooComplex`] as for the mask.
    pub fn commit(&mut self, token: u32) -> Result<(), Error> {
        let trie = self.factory.tok_env().tok_trie();
        let end = trie.eos_tokens().contains(&token);
        if self.is_complete() {
            return if end { Ok(()) } else { Err(Error::Token(token)) };
        }
        if token as usize >= trie.vocab_size() {
            return Err(Error::Token(token));
        }
        let allowed = if end { self.may_end()? } else { self.check(&[token])? == 1 };
        if !allowed {
            return Err(Error::Token(token));
        }
        self.matcher.consume_token(token).map_err(|error| Error::of_state(&error))
    }

    /// How many of these tokens may come, one after the other; nothing has changed then. For guessed tokens.
    ///
    /// # Errors
    /// As [`State::mask`].
    pub fn check(&mut self, tokens: &[u32]) -> Result<usize, Error> {
        if self.is_complete() {
            return Ok(0);
        }
        let size = self.factory.tok_env().tok_trie().vocab_size();
        let known = tokens.iter().take_while(|&&token| (token as usize) < size).count();
        self.matcher.validate_tokens(&tokens[..known]).map_err(|error| Error::of_state(&error))
    }

    /// Whether the text is complete and nothing can follow but its end.
    pub fn is_complete(&self) -> bool {
        matches!(self.matcher.stop_reason(), StopReason::NoExtension | StopReason::EndOfSentence)
    }

    /// Whether the text may end here.
    ///
    /// # Errors
    /// As [`State::mask`].
    pub fn may_end(&mut self) -> Result<bool, Error> {
        if self.is_complete() {
            return Ok(true);
        }
        self.matcher.is_accepting().map_err(|error| Error::of_state(&error))
    }

    /// The tokens that probably come next because the grammar leaves one text only, each as long as possible; none
    /// where there is a choice. The model may cut that text into other tokens, so they are guesses to be verified.
    pub fn forced(&mut self) -> Vec<u32> {
        if self.is_complete() {
            return Vec::new();
        }
        let bytes = self.matcher.compute_ff_bytes();
        // A control token that must follow is written as bytes that no text has.
        let text = bytes.split(|&byte| byte == CONTROL).next().unwrap_or_default();
        let mut tokens = Vocabulary::greedy(&self.factory, text);
        // The last one may well be longer, with what follows.
        tokens.pop();
        tokens
    }
}

/// The engine's thread takes them over from others.
const _: fn() = || {
    fn sent<T: Send>() {}
    fn shared<T: Send + Sync>() {}
    sent::<State>();
    shared::<Constraint>();
    shared::<Vocabulary>();
};
