//! Tokens that are known by their texts, because models do not always say what they are for.

use crate::Fim;

/// Texts that end a generation (from llama.cpp's list).
const ENDS: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Fill-in-the-middle tokens in the order of [`Fim`]'s fields: the GGUF keys that name them, and their texts.
#[rustfmt::skip]
const FIM: [(&[&str], &[&str]); 6] = [
    (&["fim_pre_token_id", "prefix_token_id"], &["<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>", "<|prefix|>"]),
    (&["fim_suf_token_id", "suffix_token_id"], &["<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>", "<|suffix|>"]),
    (&["fim_mid_token_id", "middle_token_id"], &["<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>", "<|middle|>"]),
    (&["fim_pad_token_id"], &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"]),
    (&["fim_rep_token_id"], &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"]),
    (&["fim_sep_token_id"], &["<|file_sep|>"]),
];

/// What the known texts say about a vocabulary.
pub(crate) struct Known {
    pub(crate) fim: Fim,
    /// Tokens that end a generation, ascending.
    pub(crate) ends: Vec<u32>,
    /// Tokens that were found by their texts, and are for control.
    pub(crate) control: Vec<u32>,
    /// A token that looks like an end but is shown (`<|end|>` of gpt-oss), and one that is plain text (`</s>` of Gemma 4).
    pub(crate) shown: Option<u32>,
    pub(crate) plain: Option<u32>,
}

impl Known {
    /// `get` finds a token by its text, `named` by a GGUF key; `more` are ends that the model names.
    pub(crate) fn new<E>(
        get: impl Fn(&str) -> Option<u32>,
        named: impl Fn(&str) -> Result<Option<u32>, E>,
        more: impl IntoIterator<Item = u32>,
    ) -> Result<Known, E> {
        let mut control = Vec::new();
        let mut found = [None; 6];
        for (slot, (keys, texts)) in found.iter_mut().zip(FIM) {
            for key in keys {
                *slot = named(key)?.or(*slot);
            }
            if slot.is_none() {
                *slot = texts.iter().find_map(|t| get(t));
                control.extend(*slot);
            }
        }
        let [prefix, suffix, middle, pad, repo, separator] = found;
        let mut ends: Vec<u32> = [pad, repo, separator].into_iter().flatten().chain(more).collect();
        for id in ENDS.iter().filter_map(|t| get(t)) {
            ends.push(id);
            control.push(id);
        }
        let is_end = |text: &str| get(text).filter(|id| ends.contains(id));
        let call = is_end("<|call|>").or(is_end("<|calls|>"));
        let closed = is_end("<|return|>").or(is_end("<|flush|>"));
        let shown = is_end("<|end|>").filter(|_| call.is_some() && closed.is_some());
        let plain = is_end("</s>").filter(|_| is_end("<|tool_response>").or(is_end("<|plamo:eos|>")).is_some());
        ends.retain(|&id| Some(id) != shown && Some(id) != plain);
        ends.sort_unstable();
        ends.dedup();
        Ok(Known { fim: Fim { prefix, suffix, middle, pad, repo, separator }, ends, control, shown, plain })
    }
}
