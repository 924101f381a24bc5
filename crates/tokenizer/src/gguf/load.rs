//! From `tokenizer.ggml.*` keys to a tokenizer, with llama.cpp's defaults and repairs.

use alula_format::gguf::{Array, Metadata, Value};

use super::pre::{Cutter, Pre};
use super::{Bpe, Engine, Loaded, Model, Unigram, attr, ranks};
use crate::bpe::{Merges, NONE, Neighbours};
use crate::charsmap::Charsmap;
use crate::error::{Error, clip};
use crate::known::Known;
use crate::unicode::{byte_char, char_byte};
use crate::vocab::{Prefixes, Vocab};
use crate::{Fim, Parts};

const MODELS: &str = "llama, gpt2, bert, t5, gemma4, whitespace";

/// What a kind of tokenizer presumes: ids of BOS, EOS, unknown and separator; whether BOS and EOS are added and a
/// space is put before the text.
struct Defaults {
    ids: [Option<u32>; 4],
    add_bos: bool,
    add_eos: bool,
    space: bool,
}

/// The keys of one file.
struct Keys<'a> {
    meta: &'a Metadata,
    file: &'a str,
}

impl<'a> Keys<'a> {
    fn get(&self, key: &str) -> Option<Value<'a>> {
        self.meta.get(&format!("tokenizer.ggml.{key}"))
    }

    fn bad(&self, key: &str, what: impl Into<String>) -> Error {
        Error::Malformed { file: self.file.into(), field: format!("tokenizer.ggml.{key}"), what: what.into() }
    }

    fn str(&self, key: &str) -> Result<Option<&'a str>, Error> {
        Ok(self.meta.find(&format!("tokenizer.ggml.{key}"))?)
    }

    fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        Ok(self.meta.find(&format!("tokenizer.ggml.{key}"))?)
    }

    fn array(&self, key: &str) -> Result<Option<Array<'a>>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(array)) => Ok(Some(array)),
            Some(other) => Err(self.bad(key, format!("is {other}, not an array"))),
        }
    }

    fn strings(&self, key: &str) -> Result<Option<Array<'a>>, Error> {
        let array = self.array(key)?;
        if let Some(array) = array.as_ref().filter(|a| a.item_type() != "string" && !a.is_empty()) {
            return Err(self.bad(key, format!("is {array}, not an array of strings")));
        }
        Ok(array)
    }

    /// An array of numbers, at least one for each of `n` tokens.
    fn numbers<T: alula_format::gguf::FromValue<'a>>(&self, key: &str, n: usize) -> Result<Option<Vec<T>>, Error> {
        let Some(array) = self.array(key)? else { return Ok(None) };
        if array.len() < n {
            return Err(self.bad(key, format!("has {} items for {n} tokens", array.len())));
        }
        let items: Vec<T> = array.iter().take(n).collect();
        if items.len() < n {
            Err(self.bad(key, format!("is {array}, not an array of numbers")))
        } else {
            Ok(Some(items))
        }
    }

    /// The id that a key names; a key that names none of the `n` tokens does not count.
    fn id(&self, key: &str, n: usize, default: Option<u32>) -> Result<Option<u32>, Error> {
        let named: Option<u32> = self.meta.find(&format!("tokenizer.ggml.{key}"))?;
        Ok(named.filter(|&id| (id as usize) < n).or(default.filter(|&id| (id as usize) < n)))
    }
}

/// Reads the tokenizer of a model.
pub(crate) fn load(meta: &Metadata, file: &str) -> Result<Loaded, Error> {
    let keys = Keys { meta, file };
    let none =
        |found: &str| Error::None { file: file.into(), field: "tokenizer.ggml.model".into(), found: found.into() };
    let name = keys.str("model")?.ok_or_else(|| none("missing"))?;
    let pre_name = if name == "gemma4" { "gemma4" } else { keys.str("pre")?.unwrap_or("") };
    let pre = match name {
        "gpt2" | "gemma4" | "whitespace" => Some(Pre::named(pre_name).ok_or_else(|| Error::Unsupported {
            file: file.into(),
            field: "tokenizer.ggml.pre".into(),
            what: format!("names an unknown pre-tokenizer {:?}", clip(pre_name)),
            known: Pre::names(),
        })?),
        _ => None,
    };
    let defaults = match (name, pre) {
        ("llama", _) => Defaults { ids: [Some(1), Some(2), Some(0), None], add_bos: true, add_eos: false, space: true },
        ("bert", _) => {
            Defaults { ids: [Some(101), None, Some(100), Some(102)], add_bos: true, add_eos: false, space: false }
        }
        ("t5", _) => Defaults { ids: [None, Some(1), Some(2), None], add_bos: false, add_eos: true, space: false },
        ("gemma4", _) => Defaults { ids: [None; 4], add_bos: true, add_eos: false, space: false },
        (_, Some(pre)) => {
            let bos = (!pre.no_bos).then_some(11);
            Defaults { ids: [bos, Some(11), None, None], add_bos: pre.add_bos, add_eos: false, space: false }
        }
        ("none" | "no_vocab", _) => return Err(none(&format!("{name:?}"))),
        _ => {
            return Err(Error::Unsupported {
                file: file.into(),
                field: "tokenizer.ggml.model".into(),
                what: format!("names an unknown kind of tokenizer {:?}", clip(name)),
                known: MODELS.into(),
            });
        }
    };

    let tokens = keys.strings("tokens")?.ok_or_else(|| keys.bad("tokens", "is missing"))?;
    let n = tokens.len();
    let mut vocab = Vocab::with_capacity(n);
    for i in 0..n {
        let text = tokens.bytes(i).unwrap_or(&[]);
        let pushed = if text.is_empty() { vocab.push(format!("[EMPTY_{i}]").as_bytes()) } else { vocab.push(text) };
        pushed.ok_or_else(|| keys.bad("tokens", "holds more than 4 GB"))?;
    }
    let scores = match keys.numbers::<f32>("scores", n)? {
        Some(scores) => scores,
        None => vec![0.0; n],
    };
    let mut attrs: Vec<u8> = match keys.numbers::<i32>("token_type", n)? {
        None => vec![attr::NORMAL; n],
        Some(types) => types
            .iter()
            .map(|t| match t {
                1 => attr::NORMAL,
                2 => attr::UNKNOWN,
                3 => attr::CONTROL,
                4 => attr::USER,
                5 => attr::UNUSED,
                6 => attr::BYTE,
                _ => 0,
            })
            .collect(),
    };

    let bos = keys.id("bos_token_id", n, defaults.ids[0])?;
    let eos = keys.id("eos_token_id", n, defaults.ids[1])?;
    let unk = keys.id("unknown_token_id", n, defaults.ids[2])?;
    let sep = keys.id("seperator_token_id", n, keys.id("separator_token_id", n, defaults.ids[3])?)?;
    let more_ends = [keys.id("eot_token_id", n, None)?, keys.id("eom_token_id", n, None)?];
    let add_space_prefix = keys.bool("add_space_prefix")?.unwrap_or(defaults.space);
    let add_bos = keys.bool("add_bos_token")?.unwrap_or(defaults.add_bos) || pre.is_some_and(|p| p.force_bos);
    let add_eos = keys.bool("add_eos_token")?.unwrap_or(defaults.add_eos);
    let escape = pre.is_none_or(|p| p.escape);

    let (fim, ends) = repair(&keys, &vocab, &mut attrs, [eos, more_ends[0], more_ends[1]].into_iter().flatten())?;
    strips(meta, pre_name, &vocab, &mut attrs);
    let mut specials: Vec<u32> =
        (0..n as u32).filter(|&i| attrs[i as usize] & (attr::CONTROL | attr::USER | attr::UNKNOWN) != 0).collect();
    specials.sort_by_key(|&id| std::cmp::Reverse(vocab.text(id).len()));

    let model = match (name, pre) {
        ("llama", _) => Model::SentencePiece { ranks: ranks(&scores), neighbours: neighbours(&vocab) },
        ("bert", _) => {
            let lowercase = keys.bool("normalizer.lowercase")?.unwrap_or(true);
            let strip_accents = keys.bool("normalizer.strip_accents")?.unwrap_or(lowercase);
            Model::WordPiece { pieces: Prefixes::new(&vocab, 0..n as u32), lowercase, strip_accents }
        }
        (_, Some(pre)) => Model::Bpe(Box::new(bpe(&keys, pre, name == "whitespace", &vocab)?)),
        _ => Model::Unigram(Box::new(unigram(&keys, &vocab, &attrs, scores)?)),
    };
    let engine = Engine {
        file: file.into(),
        model,
        special_index: Prefixes::new(&vocab, specials.iter().copied()),
        attrs,
        specials,
        add_space_prefix,
        escape,
        add_bos,
        add_eos,
        bos,
        eos,
        sep,
        unk,
        two_ends: name == "t5" || pre_name == "roberta-bpe",
        clean_spaces: name == "bert",
    };
    let adds_bos = bos.is_some() && (add_bos || name == "bert");
    Ok((Parts { vocab, bos, eos, ends, fim, adds_bos }, engine))
}

/// So many pairs are read at a time.
const BATCH: usize = 32;

fn bpe(keys: &Keys<'_>, pre: &'static Pre, between_spaces: bool, vocab: &Vocab) -> Result<Bpe, Error> {
    let cutter = Cutter::new(pre).map_err(|what| keys.bad("pre", what))?;
    let lines = match keys.strings("merges")? {
        Some(lines) => Some(lines),
        None if pre.no_merges() => None,
        None => return Err(keys.bad("merges", "is missing")),
    };
    let count = lines.as_ref().map_or(0, Array::len);
    let mut symbols = vocab.clone();
    let mut merges = Merges::with_capacity(count);
    // The byte of a symbol of GPT-2's alphabet.
    let byte = |text: &[u8]| match text.len() {
        1 | 2 if !pre.plain => char_byte(std::str::from_utf8(text).ok()?.parse().ok()?),
        _ => None,
    };
    let halves = |rank: usize| {
        let line = lines.as_ref()?.bytes(rank)?;
        // A space cannot be the first character of the left half.
        let space = line.iter().skip(1).position(|&b| b == b' ')?;
        Some((rank as u32, &line[..space + 1], &line[space + 2..]))
    };
    let (mut text, mut last) = (Vec::new(), 0);
    let (mut batch, mut pairs) = (Vec::new(), Vec::new());
    for start in (0..count).step_by(BATCH) {
        batch.clear();
        batch.extend((start..count.min(start + BATCH)).filter_map(halves));
        pairs.clear();
        for &(rank, left, right) in &batch {
            text.clear();
            text.extend_from_slice(left);
            text.extend_from_slice(right);
            let ids = symbols.intern(left).zip(symbols.intern(right)).zip(symbols.intern_near(&text, last));
            let ((left_id, right_id), joined) = ids.ok_or_else(|| keys.bad("merges", "holds more than 4 GB"))?;
            last = joined;
            pairs.push([left_id, right_id, rank, joined]);
            if let (Some(left), Some(right)) = (byte(left), byte(right)) {
                merges.add_bytes(left, right, rank, joined);
            }
        }
        merges.add(&pairs);
    }
    let of_byte = |b: u8| symbols.get(byte_char(b).encode_utf8(&mut [0; 4]).as_bytes()).unwrap_or(NONE);
    let bytes = (0..=255).map(of_byte).collect();
    let fallback = |b: u8| match pre.plain {
        true => vocab.get(format!("<0x{b:02X}>").as_bytes()),
        false if (b'!'..=b'~').contains(&b) => vocab.get(&[b]),
        false => None,
    };
    let fallback = (0..=255).map(fallback).collect();
    let lower = keys.bool("normalizer.lowercase")?.unwrap_or(false);
    let neighbours = pre.plain.then(|| neighbours(&symbols));
    let between_spaces = between_spaces.then_some(lower);
    Ok(Bpe { pre, cutter, merges, symbols, bytes, neighbours, fallback, between_spaces })
}

/// Of all texts.
fn neighbours(vocab: &Vocab) -> Neighbours {
    Neighbours::new((0..vocab.len() as u32).map(|id| vocab.text(id)))
}

fn unigram(keys: &Keys<'_>, vocab: &Vocab, attrs: &[u8], scores: Vec<f32>) -> Result<Unigram, Error> {
    let with = |mask: u8| (0..vocab.len() as u32).filter(move |&id| attrs[id as usize] & mask != 0);
    let lowest = with(attr::NORMAL).map(|id| scores[id as usize]).fold(f32::MAX, f32::min);
    let charsmap = match keys.array("precompiled_charsmap")? {
        None => None,
        Some(array) => {
            let bytes: Vec<u8> = match array.item_type() {
                "u8" => array.iter::<u16>().map(|b| b as u8).collect(),
                "i8" => array.iter::<i32>().map(|b| b as u8).collect(),
                _ => return Err(keys.bad("precompiled_charsmap", format!("is {array}, not an array of bytes"))),
            };
            Some(Charsmap::new(&bytes).map_err(|what| keys.bad("precompiled_charsmap", what))?)
        }
    };
    Ok(Unigram {
        pieces: Prefixes::new(vocab, with(attr::NORMAL | attr::USER | attr::UNUSED)),
        user_defined: Prefixes::new(vocab, with(attr::USER)),
        scores,
        unknown: f64::from(lowest - 10.0),
        charsmap,
        merge_spaces: keys.bool("remove_extra_whitespaces")?.unwrap_or(false),
    })
}

/// Finds the tokens that end a generation and those of fill-in-the-middle, and repairs the kinds of known tokens.
fn repair(
    keys: &Keys<'_>,
    vocab: &Vocab,
    attrs: &mut [u8],
    ends: impl IntoIterator<Item = u32>,
) -> Result<(Fim, Vec<u32>), Error> {
    let get = |text: &str| vocab.get(text.as_bytes());
    let known = Known::new(get, |key| keys.id(key, vocab.len(), None), ends)?;
    for &id in &known.control {
        attrs[id as usize] |= attr::CONTROL;
    }
    // gpt-oss: these are shown.
    let shown = ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"].iter().filter_map(|t| get(t));
    for id in shown.chain(known.shown) {
        attrs[id as usize] = attr::USER;
    }
    if let Some(id) = known.plain {
        attrs[id as usize] = attr::NORMAL;
    }
    Ok((known.fim, known.ends))
}

/// Which special tokens take the white space around them, by the model's name, as no key says it.
fn strips(meta: &Metadata, pre: &str, vocab: &Vocab, attrs: &mut [u8]) {
    let general = |key: &str| meta.find::<&str>(key).ok().flatten().unwrap_or("").to_owned();
    let (arch, name) = (general("general.architecture"), general("general.name").to_lowercase());
    let mut set = |text: &str, bit: u8, on: bool| {
        if let Some(a) = vocab.get(text.as_bytes()).and_then(|id| attrs.get_mut(id as usize)) {
            *a = if on { *a | bit } else { *a & !bit };
        }
    };
    let any = |text: &str, of: &[&str]| of.iter().any(|o| text.contains(o));
    if any(pre, &["jina-v2-de", "jina-v2-es", "jina-v2-code"]) || any(&arch, &["nomic-bert-moe", "jina-bert-v3"]) {
        set("<mask>", attr::LSTRIP, true);
    } else if any(&name, &["phi-3", "phi3"]) {
        set("</s>", attr::RSTRIP, true);
        attrs
            .iter_mut()
            .filter(|a| **a & (attr::CONTROL | attr::USER | attr::UNKNOWN) != 0)
            .for_each(|a| *a |= attr::RSTRIP);
        for text in ["<unk>", "<s>", "<|endoftext|>"] {
            if let Some(a) = vocab.get(text.as_bytes()).and_then(|id| attrs.get_mut(id as usize)) {
                *a &= !attr::RSTRIP;
            }
        }
    } else if name.contains("modern-bert") {
        set("[MASK]", attr::LSTRIP, true);
    }
}
