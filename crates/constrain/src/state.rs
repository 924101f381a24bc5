//! A text on its way through a grammar.

use std::sync::Arc;

use llguidance::api::StopReason;
use llguidance::{Matcher, ParserFactory};

use crate::vocabulary::CONTROL;
use crate::{Error, Vocabulary};

/// A grammar compiled for a vocabulary. Any number of texts can follow it, each with a [`State`]; clones share it.
#[derive(Clone)]
pub struct Constraint {
    /// A text follows one of these.
    pub(crate) firsts: Vec<Arc<std::sync::Mutex<Matcher>>>,
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
        let matchers = self.firsts.iter().map(|first| {
            let first = first.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            first.deep_clone()
        });
        State { matchers: matchers.collect(), factory: Arc::clone(&self.factory) }
    }

    /// What either of two allows, of the same vocabulary. Each is read by rules of its own: as alternatives of one grammar
    /// the longest word of the one could hide the words of the other.
    pub fn or(mut self, other: Constraint) -> Self {
        self.firsts.extend(other.firsts);
        self
    }
}

/// Where a text is in its grammar. Clone it to go on in two ways.
pub struct State {
    /// Those alternatives that the text follows so far, at least one.
    matchers: Vec<Matcher>,
    factory: Arc<ParserFactory>,
}

impl Clone for State {
    fn clone(&self) -> Self {
        let matchers = self.matchers.iter().map(Matcher::deep_clone).collect();
        State { matchers, factory: Arc::clone(&self.factory) }
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
        out.fill(0);
        let (mut stuck, alone) = (None, self.matchers.len() == 1);
        let mut result = Ok(());
        self.matchers.retain_mut(|matcher| match matcher.compute_mask_or_eos() {
            Ok(mask) => {
                out.iter_mut().zip(mask.as_slice()).for_each(|(out, bits)| *out |= bits);
                true
            }
            Err(error) => {
                match Error::of_state(&error) {
                    error @ Error::Stuck if !alone => stuck = Some(error),
                    error => result = Err(error),
                }
                false
            }
        });
        match stuck {
            Some(error) if self.matchers.is_empty() => Err(error),
            _ => result,
        }
    }

    /// Takes the token that came.
    ///
    /// # Errors
    /// [`Error::Token`] if the mask did not allow it, and nothing has changed; [`Error::TooComplex`] as for the mask.
    pub fn commit(&mut self, token: u32) -> Result<(), Error> {
        let trie = self.factory.tok_env().tok_trie();
        if token as usize >= trie.vocab_size() {
            return Err(Error::Token(token));
        }
        let end = trie.eos_tokens().contains(&token);
        let mut takes = Vec::with_capacity(self.matchers.len());
        for matcher in &mut self.matchers {
            takes.push(match complete(matcher) {
                true => end,
                false if end => matcher.is_accepting().map_err(|error| Error::of_state(&error))?,
                false => matcher.validate_tokens(&[token]).map_err(|error| Error::of_state(&error))? == 1,
            });
        }
        if !takes.contains(&true) {
            return Err(Error::Token(token));
        }
        let mut takes = takes.into_iter();
        self.matchers.retain(|_| takes.next() == Some(true));
        for matcher in self.matchers.iter_mut().filter(|m| !complete(m)) {
            matcher.consume_token(token).map_err(|error| Error::of_state(&error))?;
        }
        Ok(())
    }

    /// How many of these tokens may come, one after the other; nothing has changed then. For guessed tokens.
    ///
    /// # Errors
    /// As [`State::mask`].
    pub fn check(&mut self, tokens: &[u32]) -> Result<usize, Error> {
        let size = self.factory.tok_env().tok_trie().vocab_size();
        let known = tokens.iter().take_while(|&&token| (token as usize) < size).count();
        let mut most = 0;
        for matcher in self.matchers.iter_mut().filter(|m| !complete(m)) {
            most = most.max(matcher.validate_tokens(&tokens[..known]).map_err(|error| Error::of_state(&error))?);
        }
        Ok(most)
    }

    /// Whether the text is complete and nothing can follow but its end.
    pub fn is_complete(&self) -> bool {
        self.matchers.iter().all(complete)
    }

    /// Whether the text may end here.
    ///
    /// # Errors
    /// As [`State::mask`].
    pub fn may_end(&mut self) -> Result<bool, Error> {
        for matcher in &mut self.matchers {
            if complete(matcher) || matcher.is_accepting().map_err(|error| Error::of_state(&error))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The tokens that probably come next because the grammar leaves one text only, each as long as possible; none
    /// where there is a choice. The model may cut that text into other tokens, so they are guesses to be verified.
    pub fn forced(&mut self) -> Vec<u32> {
        let [matcher] = &mut self.matchers[..] else { return Vec::new() };
        if complete(matcher) {
            return Vec::new();
        }
        let bytes = matcher.compute_ff_bytes();
        // A control token that must follow is written as bytes that no text has.
        let text = bytes.split(|&byte| byte == CONTROL).next().unwrap_or_default();
        let mut tokens = Vocabulary::greedy(&self.factory, text);
        // The last one may well be longer, with what follows.
        tokens.pop();
        tokens
    }
}

/// Whether a text is complete and nothing can follow but its end.
fn complete(matcher: &Matcher) -> bool {
    matches!(matcher.stop_reason(), StopReason::NoExtension | StopReason::EndOfSentence)
}

/// The engine's thread takes them over from others.
const _: fn() = || {
    fn sent<T: Send>() {}
    fn shared<T: Send + Sync>() {}
    sent::<State>();
    shared::<Constraint>();
    shared::<Vocabulary>();
};
