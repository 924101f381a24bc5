"""Writes a checkpoint of the built-in model as GGUF, and reads such a file back for the checks in check.py."""

import json

import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader, GGUFWriter, LlamaFileType, quants
from gguf.constants import TokenType

from model import Decoder, Shape

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
DESCRIPTION = ("A tiny language model that shows that Alula works: short stories, and simple questions about computing and about Alula. "
               "For real work run a larger model.")


def write(checkpoint, tokenizer, out, kind="Q8_0"):
    """checkpoint (a path) and tokenizer (tokenizer.json) to `out`; matrices in `kind`, norms in F32."""
    state = torch.load(checkpoint, weights_only=False, map_location="cpu")
    s = Shape(**state["shape"])
    tok = json.loads(tokenizer.read_text(encoding="utf-8"))
    ids = sorted(tok["model"]["vocab"].items(), key=lambda kv: kv[1])
    special = {t["content"]: t["id"] for t in tok["added_tokens"]}
    merges = [m if isinstance(m, str) else " ".join(m) for m in tok["model"]["merges"]]

    w = GGUFWriter(str(out), "llama")
    w.add_name("builtin")
    w.add_description(DESCRIPTION)
    w.add_license("MIT OR Apache-2.0")
    w.add_author("The Alula project")
    w.add_size_label(f"{sum(t.numel() for t in state['model'].values()) / 1e6:.1f}M")
    w.add_context_length(s.context)
    w.add_embedding_length(s.width)
    w.add_block_count(s.layers)
    w.add_feed_forward_length(s.ffn)
    w.add_head_count(s.heads)
    w.add_head_count_kv(s.kv_heads)
    w.add_rope_dimension_count(s.head)
    w.add_rope_freq_base(s.theta)
    w.add_layer_norm_rms_eps(s.eps)
    w.add_vocab_size(s.vocab)
    w.add_file_type(getattr(LlamaFileType, f"MOSTLY_{kind}", LlamaFileType.ALL_F32))
    w.add_quantization_version(2)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list([t for t, _ in ids])
    w.add_token_types([int(TokenType.CONTROL if t in special else TokenType.NORMAL) for t, _ in ids])
    w.add_token_merges(merges)
    w.add_bos_token_id(special["<|startoftext|>"])
    w.add_eos_token_id(special["<|endoftext|>"])
    w.add_eot_token_id(special["<|im_end|>"])
    w.add_pad_token_id(special["<|endoftext|>"])
    w.add_add_bos_token(True)
    w.add_add_eos_token(False)
    w.add_chat_template(CHAT_TEMPLATE)
    for name, t in state["model"].items():
        data = t.float().numpy()
        if data.ndim == 2 and kind != "F32":
            w.add_tensor(name, quants.quantize(data, Type[kind]), raw_dtype=Type[kind])
        else:
            w.add_tensor(name, data)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def read(path, dtype=torch.float64):
    """The model that a file written by `write` holds, dequantised, and its tokens' texts: (Decoder, {id: text}, merges)."""
    r = GGUFReader(str(path))
    field = lambda k: r.fields[k].contents()
    s = Shape(vocab=field("llama.vocab_size"), width=field("llama.embedding_length"), layers=field("llama.block_count"),
              heads=field("llama.attention.head_count"), kv_heads=field("llama.attention.head_count_kv"),
              ffn=field("llama.feed_forward_length"), context=field("llama.context_length"), theta=field("llama.rope.freq_base"),
              eps=field("llama.attention.layer_norm_rms_epsilon"))
    model = Decoder(s)
    weights = {t.name: torch.tensor(np.array(quants.dequantize(t.data, t.tensor_type))) for t in r.tensors}
    model.load_state_dict(weights)
    return model.to(dtype), field("tokenizer.ggml.tokens"), field("tokenizer.ggml.merges")
