//! The decoders of `tokenizer.json`, one token at a time: each stage takes tokens and gives tokens, keeps what it must,
//! and gives the rest when the text ends. The `tokenizers` library, which these equal, needs all tokens at once.

use serde_json::Value;
use tokenizers::Decoder as _;
use tokenizers::normalizers::replace::{Replace, ReplacePattern};

use crate::error::{Error, clip};
use crate::stream::drain_utf8;
use crate::unicode::{byte_token, char_byte};

/// A chain of stages.
#[derive(Clone, Debug)]
pub(crate) struct Decoder(Vec<Stage>);

#[derive(Clone, Debug)]
enum Stage {
    /// All tokens with a space between.
    Spaced,
    Bpe {
        suffix: String,
    },
    ByteFallback,
    Ctc {
        pad: String,
        space: String,
        clean: bool,
    },
    /// All tokens as one. With `bytes`, GPT-2's alphabet becomes bytes first. `strip` (character, at most how often at
    /// the start, at the end) is done at once; anything else that follows must wait for the whole text (`wait`).
    Join {
        bytes: bool,
        strip: Option<(char, usize, usize)>,
        wait: bool,
    },
    Metaspace {
        mark: char,
        drop_first: bool,
    },
    Replace {
        from: String,
        to: String,
    },
    ReplaceRegex(Replace),
    Strip(char, usize, usize),
    WordPiece {
        prefix: String,
        clean: bool,
    },
}

/// What the stages keep from token to token.
#[derive(Clone, Debug, Default)]
pub(crate) struct State(Vec<Kept>);

#[derive(Clone, Debug, Default)]
struct Kept {
    /// A token has come.
    begun: bool,
    bytes: Vec<u8>,
    text: String,
    /// How many characters were stripped from the start; `usize::MAX` when that is over.
    stripped: usize,
}

impl Decoder {
    /// Of the `decoder` of the file.
    pub(super) fn new(value: Option<&Value>, file: &str) -> Result<Decoder, Error> {
        let mut stages = Vec::new();
        match value {
            None | Some(Value::Null) => stages.push(Stage::Spaced),
            Some(value) => collect(value, file, &mut stages, 0)?,
        }
        // What follows a join sees one token.
        if let Some(i) = stages.iter().position(|s| matches!(s, Stage::Join { .. })) {
            stages = [
                &stages[..=i],
                &stages[i + 1..]
                    .iter()
                    .filter(|s| !matches!(s, Stage::Join { bytes: false, .. }))
                    .cloned()
                    .collect::<Vec<_>>(),
            ]
            .concat();
            let after = stages.split_off(i + 1);
            if let Some(Stage::Join { strip, wait, .. }) = stages.last_mut() {
                match after[..] {
                    [] => {}
                    [Stage::Strip(c, start, stop)] => *strip = Some((c, start, stop)),
                    _ => {
                        *wait = true;
                        stages.extend(after);
                    }
                }
            }
        }
        Ok(Decoder(stages))
    }

    /// Takes a token; appends the text that is complete.
    pub(crate) fn push(&self, state: &mut State, token: &str, out: &mut String) {
        state.0.resize_with(self.0.len(), Kept::default);
        self.feed(0, &mut state.0, token.to_owned(), out);
    }

    /// Ends the text; appends what is left.
    pub(crate) fn finish(&self, state: &mut State, out: &mut String) {
        state.0.resize_with(self.0.len(), Kept::default);
        for i in 0..self.0.len() {
            for token in self.0[i].end(&mut state.0[i]) {
                self.feed(i + 1, &mut state.0, token, out);
            }
        }
    }

    /// The bytes of a token taken alone, in the middle of a text.
    pub(crate) fn piece(&self, token: &[u8], out: &mut Vec<u8>) {
        let text = String::from_utf8_lossy(token);
        if self.0.iter().any(|s| matches!(s, Stage::Join { bytes: true, .. })) {
            return out.extend(level_bytes(&text));
        }
        if let Some(byte) = byte_token(token).filter(|_| self.0.iter().any(|s| matches!(s, Stage::ByteFallback))) {
            return out.push(byte);
        }
        let mut state = State(vec![Kept { begun: true, stripped: usize::MAX, ..Kept::default() }; self.0.len()]);
        let mut shown = String::new();
        self.push(&mut state, &text, &mut shown);
        self.finish(&mut state, &mut shown);
        out.extend_from_slice(shown.as_bytes());
    }

    fn feed(&self, i: usize, kept: &mut [Kept], token: String, out: &mut String) {
        match (self.0.get(i), kept.get_mut(i)) {
            (Some(stage), Some(keep)) => {
                for token in stage.take(keep, token) {
                    self.feed(i + 1, kept, token, out);
                }
            }
            _ => out.push_str(&token),
        }
    }
}

impl Stage {
    /// Takes a token, gives those that are ready.
    fn take(&self, kept: &mut Kept, token: String) -> Vec<String> {
        let first = !std::mem::replace(&mut kept.begun, true);
        match self {
            Stage::Spaced if first => vec![token],
            Stage::Spaced => vec![format!(" {token}")],
            Stage::Bpe { suffix } => {
                // Only the last token loses its suffix without a space for it.
                let before = std::mem::replace(&mut kept.text, token);
                if first { Vec::new() } else { vec![before.replace(suffix.as_str(), " ")] }
            }
            Stage::ByteFallback => match byte_token(token.as_bytes()) {
                Some(byte) => {
                    kept.bytes.push(byte);
                    Vec::new()
                }
                None => {
                    let mut out = self.end(kept);
                    out.push(token);
                    out
                }
            },
            Stage::Ctc { pad, space, clean } => {
                if !first && kept.text == token {
                    return Vec::new();
                }
                let mut shown = token.replace(pad.as_str(), "");
                kept.text = token;
                if *clean {
                    shown = clean_up(&shown).replace(space.as_str(), " ");
                }
                if shown.is_empty() { Vec::new() } else { vec![shown] }
            }
            Stage::Join { bytes, strip, wait } => {
                if *bytes {
                    kept.bytes.extend(level_bytes(&token));
                    drain_utf8(&mut kept.bytes, false, &mut kept.text);
                } else {
                    kept.text.push_str(&token);
                }
                if *wait { Vec::new() } else { vec![cut(strip, kept, false)] }
            }
            Stage::Metaspace { mark, drop_first } if first && *drop_first => vec![token.replace(*mark, "")],
            Stage::Metaspace { mark, .. } => vec![token.replace(*mark, " ")],
            Stage::Replace { from, to } => vec![token.replace(from.as_str(), to)],
            Stage::ReplaceRegex(replace) => replace.decode_chain(vec![token]).unwrap_or_default(),
            &Stage::Strip(c, start, stop) => {
                let mut once = Kept { text: token, ..Kept::default() };
                vec![cut(&Some((c, start, stop)), &mut once, true)]
            }
            Stage::WordPiece { prefix, clean } => {
                let token = match token.strip_prefix(prefix.as_str()) {
                    _ if first => token,
                    Some(rest) => rest.to_owned(),
                    None => format!(" {token}"),
                };
                vec![if *clean { clean_up(&token) } else { token }]
            }
        }
    }

    /// The tokens that were kept, when the text ends.
    fn end(&self, kept: &mut Kept) -> Vec<String> {
        match self {
            Stage::Bpe { suffix } if kept.begun => vec![std::mem::take(&mut kept.text).replace(suffix.as_str(), "")],
            Stage::ByteFallback if !kept.bytes.is_empty() => {
                let n = kept.bytes.len();
                String::from_utf8(std::mem::take(&mut kept.bytes))
                    .map_or_else(|_| vec!["\u{fffd}".to_owned(); n], |text| vec![text])
            }
            Stage::Join { strip, .. } => {
                drain_utf8(&mut kept.bytes, true, &mut kept.text);
                vec![cut(strip, kept, true)]
            }
            _ => Vec::new(),
        }
    }
}

/// What is ready of the kept text; the characters to strip are taken off its ends.
fn cut(strip: &Option<(char, usize, usize)>, kept: &mut Kept, all: bool) -> String {
    let Some((c, start, stop)) = *strip else { return std::mem::take(&mut kept.text) };
    let mut text = kept.text.as_str();
    while kept.stripped < start
        && let Some(rest) = text.strip_prefix(c)
    {
        text = rest;
        kept.stripped += 1;
    }
    if !text.is_empty() {
        kept.stripped = usize::MAX;
    }
    let mut end = text;
    for _ in 0..stop {
        end = end.strip_suffix(c).unwrap_or(end);
    }
    let (ready, rest) = (end.to_owned(), text[end.len()..].to_owned());
    kept.text = if all { String::new() } else { rest };
    ready
}

/// The bytes of a token in GPT-2's alphabet; of one that is not, its own.
fn level_bytes(token: &str) -> Vec<u8> {
    token.chars().map(char_byte).collect::<Option<_>>().unwrap_or_else(|| token.as_bytes().to_vec())
}

/// The library's English clean-up of a token.
fn clean_up(text: &str) -> String {
    const RULES: [(&str, &str); 11] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" do not", " don't"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    RULES.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Appends the stages of a decoder.
fn collect(value: &Value, file: &str, stages: &mut Vec<Stage>, depth: usize) -> Result<(), Error> {
    let text = |key: &str, or: &str| value.get(key).and_then(Value::as_str).unwrap_or(or).to_owned();
    let flag = |key: &str| value.get(key).and_then(Value::as_bool);
    let letter = |key: &str| text(key, "").chars().next();
    let count = |key: &str| value.get(key).and_then(Value::as_u64).unwrap_or(0) as usize;
    let kind = value.get("type").and_then(Value::as_str).unwrap_or("");
    let missing = |key: &str| Error::Malformed {
        file: file.into(),
        field: format!("decoder.{key}"),
        what: format!("is missing in {kind}"),
    };
    stages.push(match kind {
        "Sequence" if depth < 32 => {
            let parts = value.get("decoders").and_then(Value::as_array).ok_or_else(|| missing("decoders"))?;
            return parts.iter().try_for_each(|part| collect(part, file, stages, depth + 1));
        }
        "BPEDecoder" => Stage::Bpe { suffix: text("suffix", "</w>") },
        "ByteFallback" => Stage::ByteFallback,
        "ByteLevel" => Stage::Join { bytes: true, strip: None, wait: false },
        "CTC" => Stage::Ctc {
            pad: text("pad_token", "<pad>"),
            space: text("word_delimiter_token", "|"),
            clean: flag("cleanup").unwrap_or(true),
        },
        "Fuse" => Stage::Join { bytes: false, strip: None, wait: false },
        "Metaspace" => Stage::Metaspace {
            mark: letter("replacement").ok_or_else(|| missing("replacement"))?,
            drop_first: text("prepend_scheme", "always") != "never" && flag("add_prefix_space") != Some(false),
        },
        "Replace" => {
            let pattern = value.get("pattern").ok_or_else(|| missing("pattern"))?;
            let of = |key: &str| pattern.get(key).and_then(Value::as_str).map(str::to_owned);
            match (of("String"), of("Regex")) {
                (Some(from), _) if !from.is_empty() => Stage::Replace { from, to: text("content", "") },
                (Some(from), _) => regex(ReplacePattern::String(from), text("content", ""), file)?,
                (None, Some(from)) => regex(ReplacePattern::Regex(from), text("content", ""), file)?,
                (None, None) => return Err(missing("pattern")),
            }
        }
        "Strip" => Stage::Strip(letter("content").ok_or_else(|| missing("content"))?, count("start"), count("stop")),
        "WordPiece" => Stage::WordPiece { prefix: text("prefix", "##"), clean: flag("cleanup").unwrap_or(true) },
        other => {
            return Err(Error::Unsupported {
                file: file.into(),
                field: "decoder".into(),
                what: format!("has the unknown type {:?}", clip(other)),
                known: "BPEDecoder, ByteFallback, ByteLevel, CTC, Fuse, Metaspace, Replace, Sequence, Strip, WordPiece"
                    .into(),
            });
        }
    });
    Ok(())
}

fn regex(pattern: ReplacePattern, content: String, file: &str) -> Result<Stage, Error> {
    let bad = |what: String| Error::Malformed { file: file.into(), field: "decoder.pattern".into(), what };
    Replace::new(pattern, content)
        .map(Stage::ReplaceRegex)
        .map_err(|e| bad(format!("is no pattern: {}", clip(&e.to_string()))))
}
