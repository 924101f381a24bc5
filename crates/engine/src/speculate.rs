//! Guesses of the next tokens: where they come from, and how many are worth it.
//!
//! A token is drawn by its seed and position from the model's logits, so it is the same however it was computed: a guess is right
//! exactly if it equals the token that is drawn, and then the row after it has been computed already. Whatever is
//! guessed, the output is the same; only the number of steps differs (Leviathan et al. 2023, arXiv:2211.17192, with the
//! acceptance test replaced by equality of draws from a common random number). Guesses from a model's logits are drawn as
//! the token will be, with its seed and position, so that two models that think alike draw alike, at any temperature.

use crate::runner::Runner;
use std::collections::HashMap;
use thiserror::Error;

/// How much is guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speculation {
    /// Tokens guessed at a time at most by looking for the last tokens of a sequence earlier in it, 0 for none.
    pub lookup: usize,
    /// Tokens guessed at a time at most by a draft model, if there is one.
    pub draft: usize,
    /// Rows of a step with guesses: only where fewer are computed are guesses added to them.
    pub rows: usize,
    /// Fewer tokens are guessed for a request whose guesses are wrong; without, always as many as may be.
    pub adapt: bool,
}

impl Default for Speculation {
    /// No look-up; 4 tokens by a draft model; 8 rows, as many as a CPU's products take for little more than one; fewer
    /// where they are wrong.
    fn default() -> Self {
        Self { lookup: 0, draft: 4, rows: 8, adapt: true }
    }
}

/// A model that cannot guess for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DraftError {
    /// It has other tokens.
    #[error("the draft model has {draft} tokens in its vocabulary and the model {model}: use one of the same family")]
    Vocabulary {
        /// Its tokens.
        draft: usize,
        /// The model's.
        model: usize,
    },
    /// It has less room.
    #[error(
        "the draft model has {pages} cache pages and a context of {context} tokens, and the model {model_pages} and \
         {model_context}: load it with as many"
    )]
    Room {
        /// Its pages.
        pages: usize,
        /// The model's.
        model_pages: usize,
        /// Its context.
        context: usize,
        /// The model's.
        model_context: usize,
    },
    /// It keeps states of fixed size, or its positions depend on the length of the sequence.
    #[error(
        "the draft model must keep all it knows of a sequence in pages that depend on its tokens alone: use another one"
    )]
    States,
    /// The model does.
    #[error("the model keeps states of fixed size, or guesses by itself: use it without a draft model")]
    Model,
}

/// Whether `draft` can guess for `model` in sequences of up to `context` tokens.
pub(crate) fn check(model: &impl Runner, draft: &impl Runner, context: usize) -> Result<(), DraftError> {
    if model.checkpoints().is_some() || model.guesses() {
        return Err(DraftError::Model);
    }
    if draft.checkpoints().is_some() || draft.regime(1) != draft.regime(context) {
        return Err(DraftError::States);
    }
    if draft.vocab() != model.vocab() {
        return Err(DraftError::Vocabulary { draft: draft.vocab(), model: model.vocab() });
    }
    let (pages, model_pages) = (draft.pages(), model.pages());
    if pages < model_pages || draft.context() < context {
        return Err(DraftError::Room { pages, model_pages, context: draft.context(), model_context: context });
    }
    Ok(())
}

/// Tokens that must be the same for what followed them to be guessed.
const GRAM: usize = 3;

/// Where a sequence has had its last tokens before.
#[derive(Debug, Default)]
pub(crate) struct Lookup {
    /// What came after each run of so many tokens, by its position, the last time.
    after: HashMap<[u32; GRAM], u32>,
    /// Tokens that have been read.
    read: usize,
}

impl Lookup {
    /// What followed the last tokens of `sequence`, which has only grown since the last call, up to `most` tokens.
    pub(crate) fn guess(&mut self, sequence: &[u32], most: usize, guesses: &mut Vec<u32>) {
        for at in self.read.max(GRAM)..sequence.len() {
            if let Some(gram) = sequence[..at].last_chunk() {
                self.after.insert(*gram, at as u32);
            }
        }
        self.read = sequence.len();
        let Some(&from) = sequence.last_chunk().and_then(|gram| self.after.get(gram)) else { return };
        // What follows may be the end of the sequence itself, which then goes on like that.
        for at in from as usize..from as usize + most {
            guesses.push(sequence.get(at).copied().unwrap_or_else(|| guesses[at - sequence.len()]));
        }
    }
}

/// How many tokens are worth guessing for a request: twice as many as were right if all were, else one more; none for a
/// while after several in a row were all wrong, each time longer.
#[derive(Debug)]
pub(crate) struct Pace {
    reach: usize,
    misses: u32,
    pause: usize,
}

/// Guesses in a row that may be wrong before there is a pause.
const MISSES: u32 = 4;

impl Pace {
    pub(crate) fn new() -> Self {
        Self { reach: 4, misses: 0, pause: 0 }
    }

    /// How many to guess.
    pub(crate) fn next(&mut self, most: usize) -> usize {
        if self.pause > 0 {
            self.pause -= 1;
            return 0;
        }
        self.reach.min(most)
    }

    /// So many were computed, and so many of them were right.
    pub(crate) fn learn(&mut self, tried: usize, right: usize) {
        if tried == 0 {
            return;
        }
        self.reach = if right == tried { self.reach.max(2 * right).min(64) } else { right + 1 };
        self.misses = if right > 0 { 0 } else { self.misses + 1 };
        if self.misses >= MISSES {
            self.pause = 8 << (self.misses - MISSES).min(4);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_up_what_followed() {
        let mut lookup = Lookup::default();
        let mut guess = |sequence: &[u32], most| {
            let mut guesses = Vec::new();
            lookup.guess(sequence, most, &mut guesses);
            guesses
        };
        let mut sequence = vec![1, 2];
        assert!(guess(&sequence, 4).is_empty());
        sequence.extend([3, 4, 5, 1, 2]);
        assert!(guess(&sequence, 4).is_empty());
        sequence.push(3);
        assert_eq!(guess(&sequence, 4), [4, 5, 1, 2]);
        assert_eq!(guess(&sequence, 9), [4, 5, 1, 2, 3, 4, 5, 1, 2], "goes round");
        sequence.extend([9, 1, 2, 3]);
        assert_eq!(guess(&sequence, 2), [9, 1], "the last time counts");
        sequence.extend([7; 4]);
        assert_eq!(guess(&sequence, 5), [7; 5]);
    }

    #[test]
    fn pauses_where_nothing_is_right() {
        let mut pace = Pace::new();
        let tried = (0..1000).filter(|_| {
            let n = pace.next(8);
            pace.learn(n, 0);
            n > 0
        });
        assert!(tried.count() < 20);
        let mut pace = Pace::new();
        assert_eq!(pace.next(2), 2);
        pace.learn(4, 4);
        assert_eq!(pace.next(64), 8);
        pace.learn(8, 2);
        assert_eq!(pace.next(64), 3);
        pace.learn(1, 1);
        assert_eq!(pace.next(64), 3, "fewer than wanted were computed, and all were right");
    }
}
