#!/usr/bin/env python3
"""Tiny encoders with their tokenizers, and the vectors and scores that transformers makes of texts with them.

usage: encoders.py OUT [LLAMA_CPP]     (the project keeps them in testdata/encoders)

Writes OUT/NAME/ as sentence-transformers lays models out, with golden.json: texts (or a query and documents), their ids and
types as the tokenizers library makes them, and vectors (or logits) in float64. With llama.cpp's source, mean/model.gguf is
written by its converter, tokenizer and all. Needs torch, transformers 5, tokenizers.
"""
import json, shutil, sys
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, decoders
from transformers import (BertConfig, BertForSequenceClassification, BertModel, Qwen3Config, Qwen3ForCausalLM, XLMRobertaConfig,
                          XLMRobertaForSequenceClassification)

from cases import Case
from make import randomise

TEXTS = ["the bird flies over the sea", "a feather", "", "  White   space, and (punctuation)!  ", "über Größe 3.14 naïve",
         "birds " * 40, "鳥が飛ぶ 🪶 wings", "[SEP] written out [CLS]", "x", "The heavy bird lands exactly where it wants to land on the small wing of the sea."]
QUERY = "where does the bird land?"
DOCUMENTS = ["the heavy bird lands on the sea", "", "a wing", "feathers carry a bird " * 12, "Größe [SEP] naïve 鳥", "x y z"]
WORDS = ["the", "a", "bird", "feather", "wing", "sea", "land", "fl", "over", "heavy", "small", "where", "it", "on", "of", "and"]


def wordpiece():
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789.,!?()[]-鳥飛")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + letters + WORDS + ["##" + c for c in letters[:36]] + ["##ies", "##s", "##ly"]
    tokens = list(dict.fromkeys(tokens))
    t = Tokenizer(models.WordPiece({x: i for i, x in enumerate(tokens)}, unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    t.decoder = decoders.WordPiece()
    t.add_special_tokens(tokens[:5])
    return t, dict(tokenizer_class="BertTokenizer", do_lower_case=True, model_max_length=512, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]", mask_token="[MASK]")


def bytelevel(specials, processor):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("b", "i"), ("r", "d"), ("bi", "rd"), ("Ġ", "the"), ("Ġ", "bird")]
    tokens = specials + alphabet + ["".join(m) for m in merges]
    t = Tokenizer(models.BPE({x: i for i, x in enumerate(tokens)}, merges))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.post_processor = processor(t)
    t.add_special_tokens(specials)
    return t


def roberta():
    t = bytelevel(["<s>", "<pad>", "</s>", "<unk>"], lambda _: processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False))
    return t, dict(tokenizer_class="XLMRobertaTokenizer", bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>", pad_token="<pad>", unk_token="<unk>")


def qwen():
    end = "<|endoftext|>"
    t = bytelevel([end], lambda t: processors.TemplateProcessing(single=f"$A {end}", pair=f"$A $B {end}", special_tokens=[(end, 0)]))
    return t, dict(tokenizer_class="Qwen2Tokenizer", eos_token=end, pad_token=end, bos_token=None)


def write(folder, model, tokenizer, config, modules):
    shutil.rmtree(folder, ignore_errors=True)
    model.float().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    for name, content in modules.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=1) + "\n")


def modules(mode, longest, normalize=True):
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")] + [("2_Normalize", "Normalize")] * normalize
    flags = {f"pooling_mode_{m}": m == mode for m in ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "lasttoken")}
    return {"modules.json": [dict(idx=i, name=str(i), path=p, type=f"sentence_transformers.models.{k}") for i, (p, k) in enumerate(kinds)],
            "1_Pooling/config.json": dict(word_embedding_dimension=32, **flags), "sentence_bert_config.json": dict(max_seq_length=longest, do_lower_case=False)}


@torch.no_grad()
def vectors(model, tokenizer, mode, longest, normalize=True):
    """sentence-transformers' pipeline: strip, tokenise, cut, pool, normalise."""
    tokenizer.enable_truncation(longest)
    out = []
    for text in TEXTS:
        e = tokenizer.encode(text.strip())
        h = getattr(model, "model", model)(torch.tensor([e.ids])).last_hidden_state[0]
        v = h.mean(0) if mode == "mean_tokens" else h[0] if mode == "cls_token" else h[-1]
        v = torch.nn.functional.normalize(v, dim=0) if normalize else v
        out.append(dict(text=text, ids=e.ids, types=e.type_ids, vector=v.tolist()))
    tokenizer.no_truncation()
    return dict(longest=longest, texts=out)


@torch.no_grad()
def scores(model, tokenizer, longest, typed):
    tokenizer.enable_truncation(longest)
    out = []
    for document in DOCUMENTS:
        e = tokenizer.encode(QUERY, document)
        more = dict(token_type_ids=torch.tensor([e.type_ids])) if typed else {}
        out.append(dict(text=document, ids=e.ids, types=e.type_ids, score=model(torch.tensor([e.ids]), **more).logits[0, 0].item()))
    tokenizer.no_truncation()
    return dict(longest=longest, query=QUERY, documents=out)


def twin(root, folder):
    from convert import converter
    package, gguf = converter(root)
    hparams = __import__("conversion.base", fromlist=["ModelBase"]).ModelBase.load_hparams(folder, False)
    found = package.get_model_class(package.get_model_architecture(hparams, package.ModelType.TEXT))

    class Twin(found):
        model_arch = found.model_arch

        def get_vocab_base_pre(self, tokenizer):        # it knows published tokenizers by their digests
            return "jina-v2-en"

    with torch.inference_mode():
        Twin(folder, gguf.LlamaFileType.ALL_F32, folder / "model.gguf", model_name=folder.name).write()


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    out = Path(sys.argv[1])
    base = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40, max_position_embeddings=64)
    for name, make, config_class, model_class, more, mode, longest in (
            ("mean", wordpiece, BertConfig, BertModel, {}, "mean_tokens", 24),
            ("cls", wordpiece, BertConfig, BertModel, {}, "cls_token", 64),
            ("last", qwen, Qwen3Config, Qwen3ForCausalLM, dict(num_key_value_heads=2, head_dim=8, tie_word_embeddings=True), "lasttoken", 48),
            ("cross_bert", wordpiece, BertConfig, BertForSequenceClassification, dict(num_labels=1), None, 48),
            ("cross_roberta", roberta, XLMRobertaConfig, XLMRobertaForSequenceClassification, dict(num_labels=1, pad_token_id=1, type_vocab_size=1), None, 62)):
        tokenizer, tokenizer_config = make()
        torch.manual_seed(0)
        model = model_class(config_class(**base, **more, vocab_size=tokenizer.get_vocab_size())).eval()
        model.config._attn_implementation = "eager"
        randomise(model, Case("bert"), 11)
        normalize = name != "cls"
        write(out / name, model, tokenizer, tokenizer_config, modules(mode, longest, normalize) if mode else {})
        model = model.double()
        golden = vectors(model, tokenizer, mode, longest, normalize) if mode else scores(model, tokenizer, longest, name == "cross_bert")
        (out / name / "golden.json").write_text(json.dumps(golden) + "\n")
        if name == "mean" and len(sys.argv) > 2:
            twin(Path(sys.argv[2]), out / name)
        print(f"{name:16s} {sum(f.stat().st_size for f in (out / name).rglob('*') if f.is_file()) / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
