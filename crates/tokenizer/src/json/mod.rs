//! `tokenizer.json`: encoding by the `tokenizers` library, decoding by [`decode`].

mod charsmap_check;
pub(crate) mod decode;
mod outline;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde_json::Value;
use tokenizers as hf;

use crate::Parts;
use crate::error::{Error, clip};
use crate::framed::{Framed, shares};
use crate::known::Known;
use crate::vocab::Vocab;
use outline::Outline;

/// The library's model, shared by the two instances that an engine may need.
#[derive(Clone)]
struct Shared(Arc<hf::ModelWrapper>);

impl hf::Model for Shared {
    type Trainer = hf::models::TrainerWrapper;

    fn tokenize(&self, text: &str) -> hf::Result<Vec<hf::Token>> {
        self.0.tokenize(text)
    }
    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.token_to_id(token)
    }
    fn id_to_token(&self, id: u32) -> Option<String> {
        self.0.id_to_token(id)
    }
    fn get_vocab(&self) -> std::collections::HashMap<String, u32> {
        self.0.get_vocab()
    }
    fn get_vocab_size(&self) -> usize {
        self.0.get_vocab_size()
    }
    fn save(&self, folder: &Path, prefix: Option<&str>) -> hf::Result<Vec<PathBuf>> {
        self.0.save(folder, prefix)
    }
    fn get_trainer(&self) -> Self::Trainer {
        self.0.get_trainer()
    }
}

impl<'de> serde::Deserialize<'de> for Shared {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let mut model = hf::ModelWrapper::deserialize(d)?;
        if let hf::ModelWrapper::BPE(bpe) = &mut model {
            // Dropout is for training; with it no text would have ids of its own.
            bpe.dropout = None;
        }
        Ok(Shared(Arc::new(model)))
    }
}

type Library = hf::TokenizerImpl<
    Shared,
    hf::NormalizerWrapper,
    hf::PreTokenizerWrapper,
    hf::PostProcessorWrapper,
    hf::DecoderWrapper,
>;

/// A tokenizer out of a `tokenizer.json`.
#[derive(Clone)]
pub(crate) struct Engine {
    file: String,
    kind: &'static str,
    library: Library,
    /// The same, but special tokens in a text are plain text; made when first asked for.
    plain: OnceLock<Library>,
    /// BOS and EOS as `tokenizer_config.json` asks, instead of what the file's post-processor adds.
    frame: Option<(Option<u32>, Option<u32>)>,
    /// Ids of special tokens, sorted.
    special: Vec<u32>,
    decoder: decode::Decoder,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("file", &self.file).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// What `tokenizer_config.json` says about a token: its text, plain or in an object.
fn named<'a>(config: Option<&'a Value>, key: &str) -> Option<&'a str> {
    let value = config?.get(key)?;
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// Reads a `tokenizer.json`, and the `tokenizer_config.json` beside it.
pub(crate) fn load(bytes: &[u8], config: Option<&Value>, file: &str) -> Result<(Parts, Engine), Error> {
    let outline = Outline::read(bytes, file)?;
    let decoder = decode::Decoder::new(outline.decoder.as_ref(), file)?;
    let bad = |what: String| Error::Malformed { file: file.into(), field: "tokenizer.json".into(), what };
    let mut library: Library = guard(|| serde_json::from_slice(bytes))
        .ok_or_else(|| bad("makes the tokenizers library fail".into()))?
        .map_err(|e| bad(format!("is refused by the tokenizers library: {}", clip(&e.to_string()))))?;
    library.with_padding(None);
    // Without parameters it cannot fail.
    library.with_truncation(None).map_err(|e| bad(e.to_string()))?;

    let added: BTreeMap<u32, hf::AddedToken> = library.get_added_tokens_decoder().into_iter().collect();
    let mut tokens: Vec<(u32, String)> = library.get_vocab(true).into_iter().map(|(text, id)| (id, text)).collect();
    tokens.sort_unstable();
    let mut vocab = Vocab::with_capacity(tokens.len());
    let most = tokens.len().saturating_mul(4) + (1 << 16);
    for (id, text) in &tokens {
        if *id as usize >= most {
            return Err(bad(format!("gives {:?} the id {id}, far beyond its {} tokens", clip(text), tokens.len())));
        }
        let full = || bad("holds more than 4 GB of tokens".into());
        while vocab.len() < *id as usize {
            vocab.push_hole().ok_or_else(full)?;
        }
        if vocab.len() == *id as usize {
            // What the token stands for; for added ones that can be another text than the one it is written as.
            let shown = if added.contains_key(id) { library.id_to_token(*id) } else { None };
            vocab.push(shown.as_ref().unwrap_or(text).as_bytes()).ok_or_else(full)?;
        }
    }
    drop(tokens);

    let special_texts: std::collections::HashSet<&str> =
        added.values().filter(|t| t.special).map(|t| t.content.as_str()).collect();
    let is_special = |id: &u32| std::str::from_utf8(vocab.text(*id)).is_ok_and(|t| special_texts.contains(t));
    let mut special: Vec<u32> =
        special_texts.iter().filter_map(|t| vocab.get(t.as_bytes())).filter(is_special).collect();
    special.sort_unstable();
    let get = |text: &str| vocab.get(text.as_bytes()).filter(|id| special.binary_search(id).is_ok());
    let config_id = |key: &str| named(config, key).and_then(|t| library.token_to_id(t));
    let said_eos = config_id("eos_token");
    let known = Known::new(get, |_| Ok::<_, Error>(None), said_eos)?;
    let eos = said_eos.or_else(|| {
        let texts = ["</s>", "<|endoftext|>", "<eos>", "<|end_of_text|>", "<|eot_id|>", "<|im_end|>", "[SEP]"];
        texts.iter().find_map(|t| get(t)).or(known.ends.first().copied())
    });
    let flag = |key: &str| config.and_then(|c| c.get(key)).and_then(Value::as_bool);
    let said_bos = config_id("bos_token").or(config_id("cls_token"));
    let frame = match (flag("add_bos_token"), flag("add_eos_token")) {
        (None, None) => None,
        (bos, eos) => Some((said_bos.filter(|_| bos == Some(true)), said_eos.filter(|_| eos == Some(true)))),
    };

    let mut engine = Engine {
        file: file.into(),
        kind: match &*library.get_model().0 {
            hf::ModelWrapper::BPE(_) => "bpe",
            hf::ModelWrapper::WordPiece(_) => "wordpiece",
            hf::ModelWrapper::WordLevel(_) => "wordlevel",
            hf::ModelWrapper::Unigram(_) => "unigram",
        },
        library,
        plain: OnceLock::new(),
        frame,
        special,
        decoder,
    };
    let ends_of_nothing = engine.encode(&vocab, "", true, true)?;
    if let Some(id) = ends_of_nothing.iter().find(|&&id| id as usize >= vocab.len()) {
        return Err(bad(format!("adds the token {id} to texts, but has only {} tokens", vocab.len())));
    }
    let first = ends_of_nothing.first().copied().filter(|&id| Some(id) != eos);
    let well_known = || {
        ["<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>", "[CLS]"]
            .iter()
            .find_map(|t| vocab.get(t.as_bytes()).filter(|&id| engine.is_special(id)))
    };
    let bos = said_bos.or(first).or_else(well_known);
    let adds_bos = bos.is_some() && ends_of_nothing.first().copied() == bos;
    engine.special.shrink_to_fit();
    Ok((Parts { vocab, bos, eos, ends: known.ends, fim: known.fim, adds_bos }, engine))
}

impl Engine {
    pub(crate) fn kind(&self) -> &'static str {
        self.kind
    }

    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.special.binary_search(&id).is_ok()
    }

    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        self.library.token_to_id(token)
    }

    pub(crate) fn encode(
        &self,
        _vocab: &Vocab,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<u32>, Error> {
        let library = if parse_special {
            &self.library
        } else {
            self.plain.get_or_init(|| {
                let mut plain = self.library.clone();
                plain.set_encode_special_tokens(true);
                plain
            })
        };
        let by_library = add_special && self.frame.is_none();
        let encoding = self.ask(text, || library.encode_fast(text, by_library))?;
        let ids = encoding.get_ids();
        let (bos, eos) = self.frame.filter(|_| add_special).unwrap_or_default();
        Ok(bos.into_iter().chain(ids.iter().copied()).chain(eos).collect())
    }

    /// What the library makes of a text.
    fn ask<T>(&self, text: &str, f: impl FnOnce() -> hf::Result<T>) -> Result<T, Error> {
        let failed = |what: String| Error::Malformed { file: self.file.clone(), field: "tokenizer.json".into(), what };
        let made = guard(f).ok_or_else(|| failed("makes the tokenizers library fail".into()))?;
        made.map_err(|e| match e.to_string() {
            e if e.contains("nk") => Error::Unknown { file: self.file.clone(), text: clip(text) },
            e => failed(format!("cannot encode this text: {}", clip(&e))),
        })
    }

    pub(crate) fn frame(&self, first: &str, second: Option<&str>, longest: usize) -> Result<Framed, Error> {
        let own = self.frame.filter(|_| second.is_none());
        let around = match (own, self.library.get_post_processor()) {
            (Some((bos, eos)), _) => usize::from(bos.is_some()) + usize::from(eos.is_some()),
            (None, Some(processor)) => hf::PostProcessor::added_tokens(processor, second.is_some()),
            (None, None) => 0,
        };
        let bare = |text: &str| self.ask(text, || self.library.encode_fast(text, false));
        let (mut a, mut b) = (bare(first)?, second.map(bare).transpose()?);
        let (all, room) = (a.len() + b.as_ref().map_or(0, hf::Encoding::len), longest.saturating_sub(around));
        let (of_a, of_b) = shares(a.len(), all - a.len(), room);
        for (part, n) in [(Some(&mut a), of_a), (b.as_mut(), of_b)] {
            if let Some(part) = part {
                part.truncate(n, 0, hf::TruncationDirection::Right);
                part.take_overflowing();
            }
        }
        let cut = all - of_a - of_b;
        if let Some((bos, eos)) = own {
            let ids: Vec<u32> = bos.into_iter().chain(a.get_ids().iter().copied()).chain(eos).collect();
            return Ok(Framed { types: vec![0; ids.len()], ids, cut });
        }
        let whole = self.ask(first, || self.library.post_process(a, b, true))?;
        Ok(Framed { ids: whole.get_ids().to_vec(), types: whole.get_type_ids().to_vec(), cut })
    }

    /// Appends the bytes that a token stands for, taken alone.
    pub(crate) fn piece(&self, vocab: &Vocab, id: u32, out: &mut Vec<u8>) {
        match self.special.binary_search(&id) {
            Ok(_) => out.extend_from_slice(vocab.text(id)),
            Err(_) => self.decoder.piece(vocab.text(id), out),
        }
    }

    pub(crate) fn decode_push(&self, vocab: &Vocab, state: &mut decode::State, id: u32, out: &mut String) {
        if vocab.has(id)
            && let Ok(token) = std::str::from_utf8(vocab.text(id))
        {
            self.decoder.push(state, token, out);
        }
    }

    pub(crate) fn decode_finish(&self, state: &mut decode::State, out: &mut String) {
        self.decoder.finish(state, out);
    }
}

/// Runs the library; `None` if it panics. [`Outline`] refuses all files that are known to make it panic (it indexes
/// and unwraps what it reads from the file in places); this is for those that are not known.
fn guard<T>(f: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(f)).ok()
}
