"""Writes crates/engine/tests/data/sampling.json: what transformers' logits processors keep, and with which probabilities.

Needs torch and transformers (written with 5.23): python tools/goldens_sampling.py
Everything is computed in float64 from logits that are exact in float32. Presence and frequency penalties,
which transformers does not have, are OpenAI's formula written out. `draws` are the tokens drawn with seeds 0, 1, ...
by numpy's Philox, the kept tokens in order of id.
"""

import json
import pathlib

import numpy as np
import torch
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

OUT = pathlib.Path(__file__).parent.parent / "crates/engine/tests/data/sampling.json"
f32 = lambda x: float(np.float32(x))

OFF = dict(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0, repeat_penalty=1.0,
           repeat_last_n=64, presence_penalty=0.0, frequency_penalty=0.0, logit_bias=[])
DEFAULT = OFF | dict(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)

# (vocabulary, spread of the logits, length of the sequence, arguments)
CASES = [
    (50, 2, 0, OFF),
    (50, 2, 0, DEFAULT),
    (700, 3, 0, DEFAULT),
    *[(60, 2, 0, OFF | dict(temperature=t)) for t in (0.1, 0.7, 1.5, 20.0)],
    *[(60, 2, 0, OFF | dict(top_k=k)) for k in (1, 2, 30, 59, 60)],
    *[(60, 2, 0, OFF | dict(top_p=p)) for p in (0.01, 0.3, 0.9, 0.999)],
    (700, 0.3, 0, OFF | dict(top_p=0.9)),
    (700, 0.3, 0, OFF | dict(typical_p=0.8)),
    *[(60, 2, 0, OFF | dict(min_p=p)) for p in (0.01, 0.2, 0.9, 1.0)],
    *[(60, s, 0, OFF | dict(typical_p=p)) for p in (0.05, 0.2, 0.6, 0.95) for s in (0.5, 4)],
    *[(60, 2, 40, OFF | dict(repeat_penalty=r)) for r in (0.7, 1.1, 2.0)],
    (60, 2, 40, OFF | dict(repeat_penalty=1.3, repeat_last_n=5)),
    (60, 2, 40, OFF | dict(repeat_penalty=1.3, repeat_last_n=0)),
    (12, 2, 90, OFF | dict(frequency_penalty=0.25, presence_penalty=0.5)),
    (12, 2, 90, OFF | dict(frequency_penalty=-0.1, presence_penalty=-0.5, repeat_penalty=1.2)),
    (60, 2, 0, OFF | dict(logit_bias=[[3, 4.5], [7, -2.0], [59, 0.25]])),
    (60, 2, 30, DEFAULT | dict(logit_bias=[[3, 3.0], [7, -9.0]], repeat_penalty=1.1)),
    (60, 3, 0, OFF | dict(typical_p=0.7, top_p=0.8)),
    (60, 1, 0, OFF | dict(top_k=20, typical_p=0.8, top_p=0.9, min_p=0.3, temperature=0.6)),
    (60, 1, 50, OFF | dict(top_k=25, typical_p=0.9, top_p=0.95, min_p=0.1, temperature=1.4, repeat_penalty=1.15,
                           presence_penalty=0.2, frequency_penalty=0.1, logit_bias=[[1, 1.5]])),
]


SEEDS = 12


def draw(probabilities: list[float], seed: int, position: int) -> int:
    """Index of the outcome at which the cumulative probability passes Philox-4x64's uniform number for (seed, position)."""
    generator = np.random.Generator(np.random.Philox(key=seed, counter=(position - 1) % 2**256))
    return int(np.searchsorted(np.cumsum(probabilities), generator.random() * sum(probabilities), side="right"))


def main() -> None:
    rng = np.random.default_rng(20)
    cases = []
    for vocab, spread, length, how in CASES:
        # Multiples of 1/128, all different: no two tokens tie, and the file stays small.
        logits = np.round(rng.normal(0, spread, vocab) * 128)
        while len(set(logits)) < vocab:
            values, first = np.unique(logits, return_index=True)
            again = np.setdiff1d(np.arange(vocab), first)
            logits[again] += rng.choice([-1, 1], len(again)) * rng.integers(1, 9, len(again))
        logits /= 128
        sequence = rng.integers(0, vocab, length)
        how = {k: f32(v) if isinstance(v, float) else v for k, v in how.items()}
        raw = scores = torch.tensor(logits, dtype=torch.float64)[None]
        if how["logit_bias"]:
            scores = SequenceBiasLogitsProcessor([[[i], b] for i, b in how["logit_bias"]])(
                torch.zeros(1, 1, dtype=torch.long), scores)
        window = sequence[max(0, length - how["repeat_last_n"]):]
        ids = torch.tensor(window, dtype=torch.long)[None]
        if len(window):
            if how["repeat_penalty"] != 1.0:
                scores = RepetitionPenaltyLogitsProcessor(how["repeat_penalty"])(ids, scores)
            count = np.bincount(window, minlength=vocab)
            scores = scores - torch.tensor(count * how["frequency_penalty"] + (count > 0) * how["presence_penalty"])
        for warper, name, off in [(TopKLogitsWarper, "top_k", 0), (TypicalLogitsWarper, "typical_p", 1.0),
                                  (TopPLogitsWarper, "top_p", 1.0), (MinPLogitsWarper, "min_p", 0.0),
                                  (TemperatureLogitsWarper, "temperature", 1.0)]:
            if how[name] != off:
                scores = warper(how[name])(ids, scores)
        probabilities = scores.softmax(-1)[0].numpy()
        kept = torch.isfinite(scores[0]).nonzero()[:, 0].tolist()
        logprobs = raw.log_softmax(-1)[0]
        best = logprobs.topk(5)
        cases.append(dict(
            logits=logits.tolist(), sequence=sequence.tolist(), how=how, kept=kept,
            probabilities=[float(f"{probabilities[i]:.12e}") for i in kept],
            draws=[kept[draw(probabilities[kept], seed, length)] for seed in range(SEEDS)],
            top=[[int(i), float(f"{v:.9g}")] for i, v in zip(best.indices, best.values)],
        ))
    text = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
    OUT.write_text(f"[\n{text}\n]\n")
    print(f"{len(cases)} cases, {OUT.stat().st_size} bytes")


main()
