//! The tokens of a model as the parser walks them.

use std::sync::Arc;

use alula_tokenizer::Tokenizer;
use llguidance::ParserFactory;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};

use crate::error::brief;
use crate::{Constraint, Error, Grammar};

/// The first byte of tokens that are for control: it begins no UTF-8, so no text matches them.
pub(crate) const CONTROL: u8 = TokTrie::SPECIAL_TOKEN_MARKER;

/// The longest token that is kept, in bytes; longer ones are not allowed anywhere.
const LONGEST: usize = 1024;

/// The bytes of all tokens, as a trie, with what is shared by all grammars over it. Clones share it.
///
/// Building one takes as long as reading the vocabulary (`examples/masks.rs` prints it), so make it when somebody first
/// asks for a grammar.
#[derive(Clone)]
pub struct Vocabulary {
    factory: Arc<ParserFactory>,
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vocabulary").field("tokens", &self.len()).finish()
    }
}

impl Vocabulary {
    /// The vocabulary of a tokenizer. `ends`: the tokens that end a text; they are allowed where the text may end, and
    /// nowhere else. Control tokens are allowed only where a grammar names them.
    ///
    /// # Errors
    /// [`Error::Vocabulary`] if there is no token, or no end that is one of them.
    pub fn new(tokenizer: &Tokenizer, ends: &[u32]) -> Result<Self, Error> {
        let count = u32::try_from(tokenizer.vocab_size()).map_err(|_| Error::Vocabulary("too many tokens".into()))?;
        let ends: Vec<u32> = ends.iter().copied().filter(|&end| end < count).collect();
        let &[first, ..] = ends.as_slice() else {
            return Err(Error::Vocabulary("no token ends a text; name one that does".into()));
        };
        let words: Vec<Vec<u8>> = (0..count).map(|id| word(tokenizer, id, ends.contains(&id))).collect();
        let trie = TokTrie::from(&TokRxInfo::new(count, first), &words).with_eos_tokens(&ends);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let capabilities = InferenceCapabilities::default();
        let mut factory = ParserFactory::new(&env, capabilities, &SlicedBiasComputer::general_slices())
            .map_err(|error| Error::Vocabulary(brief(&error)))?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.verbose_errors = false;
        limits.max_lexer_states = 50_000;
        Ok(Vocabulary { factory: Arc::new(factory) })
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.factory.tok_env().tok_trie().vocab_size()
    }

    /// Never: a vocabulary has at least the token that ends a text.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes a constraint of a grammar, on a thread of its own whose stack is deep enough for all that the limits let in.
    ///
    /// # Errors
    /// Whatever is wrong with the grammar, [`Error::TooComplex`] if it is over the limits, [`Error::Stuck`] if no text
    /// of this vocabulary matches it.
    pub fn compile(&self, grammar: &Grammar) -> Result<Constraint, Error> {
        grammar.compile(&self.factory)
    }

    /// The tokens of some bytes, each as long as possible.
    pub(crate) fn greedy(factory: &ParserFactory, bytes: &[u8]) -> Vec<u32> {
        factory.tok_env().tok_trie().greedy_tokenize(bytes)
    }
}

/// The bytes of a token in the trie; none if no text has it.
fn word(tokenizer: &Tokenizer, id: u32, end: bool) -> Vec<u8> {
    if end || tokenizer.is_special(id) {
        // Two control tokens of one name can only be told by their numbers.
        let name = tokenizer.token(id).filter(|name| tokenizer.id(name) == Some(id));
        let name = name.map_or_else(|| format!("[{id}]"), String::from);
        return [&[CONTROL], name.as_bytes()].concat();
    }
    let bytes = tokenizer.token_bytes(id);
    if bytes.first() == Some(&CONTROL) || bytes.len() > LONGEST { Vec::new() } else { bytes }
}
