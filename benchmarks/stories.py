"""Texts for a small language model, and its perplexity on them."""

from __future__ import annotations

import functools
import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnxruntime

import relaxc
from relaxc.runtime.model import Model

_LAYERS, _HEADS, _WIDTH = 5, 4, 8
_LENGTH = 160
_SIDE_BY_SIDE = 64
TEXT = (
    "Lily and Ben are friends. They like to play in the park. One day, they see a big tree with "
    "a swing. Lily wants to try the swing. She runs to the tree and climbs on the swing.\n"
    '"Push me, Ben!" she says. Ben pushes her gently. Lily feels happy. She swings higher and '
    "higher. She laughs and shouts.\nBen watches Lily. He thinks she is cute. He wants to swing "
    "too. He waits for Lily to stop. But Lily does not stop. She swings faster and faster. She is "
    "having too much fun."
)


def encoded(vocabulary: Path) -> list[int]:
    """`TEXT` as tokens: neighbours merge as long as that gives a token, the likeliest first."""
    data, tokens, position = vocabulary.read_bytes(), [], 4
    while position < len(data):
        score, size = struct.unpack_from("fi", data, position)
        tokens.append((data[position + 8 : position + 8 + size], score))
        position += 8 + size
    index = {token: i for i, (token, _) in enumerate(tokens)}
    ids: list[int] = []
    for char in " " + TEXT:
        raw = char.encode()
        ids += [index[raw]] if raw in index else [byte + 3 for byte in raw]
    while True:
        pairs = [(tokens[a][0] + tokens[b][0], i) for i, (a, b) in enumerate(zip(ids, ids[1:]))]
        known = [(tokens[index[t]][1], i, index[t]) for t, i in pairs if t in index]
        if not known:
            return [1, *ids]
        _, i, merged = max(known, key=lambda entry: (entry[0], -entry[1]))
        ids[i : i + 2] = [merged]


def feed(ids: list[int]) -> dict[str, np.ndarray]:
    """Tokens as the inputs of one call, with nothing remembered."""
    empty = np.zeros((1, _HEADS, 0, _WIDTH), np.float32)
    count = len(ids)
    return {
        "input_ids": np.array([ids], np.int64),
        "attention_mask": np.ones((1, count), np.int64),
        "position_ids": np.arange(count, dtype=np.int64)[None],
        **{f"past_{kind}{i}": empty for i in range(_LAYERS) for kind in "kv"},
    }


def told_together(model: Path, seed: int, count: int) -> list[list[int]]:
    """Many stories, told side by side by the compiled model, which remembers what it said."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        relaxc.compile(model, Path(folder) / "model.rxc")
        teller = relaxc.load(Path(folder) / "model.rxc")
        groups = [range(i, min(i + _SIDE_BY_SIDE, count)) for i in range(0, count, _SIDE_BY_SIDE)]
        return [story for group in groups for story in _told_by(teller, rng, len(group))]


def _told_by(teller: Model, rng: np.random.Generator, count: int) -> list[list[int]]:
    ids = np.ones((count, 1), np.int64)
    empty = np.zeros((count, _HEADS, 0, _WIDTH), np.float32)
    names = [f"{kind}{i}" for i in range(_LAYERS) for kind in "kv"]
    past = {f"past_{name}": empty for name in names}
    while ids.shape[1] < _LENGTH:
        position = np.full((count, 1), ids.shape[1] - 1)
        mask = np.ones_like(ids)
        tokens = {"input_ids": ids[:, -1:], "attention_mask": mask, "position_ids": position}
        results = teller.run({**tokens, **past})
        past = {f"past_{name}": results[f"present_{name}"] for name in names}
        # The largest of scores with Gumbel noise is drawn by their softmax.
        scores = results["logits"][:, -1] + rng.gumbel(size=(count, results["logits"].shape[-1]))
        ids = np.concatenate([ids, scores.argmax(1)[:, None]], axis=1)
    told: list[list[int]] = ids.tolist()
    return told


def told(model: Path, seeds: Iterable[int]) -> list[list[int]]:
    """Stories that the model tells itself: drawn by its own probabilities."""
    return [_told(model, seed) for seed in seeds]


@functools.lru_cache
def _session(model: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])


def _told(model: Path, seed: int) -> list[int]:
    rng, ids = np.random.default_rng(seed), [1]
    while len(ids) < _LENGTH:
        logits = _session(model).run(None, feed(ids))[0][0, -1].astype(np.float64)
        weights = np.exp(logits - logits.max())
        ids.append(int(rng.choice(len(weights), p=weights / weights.sum())))
    return ids


def perplexity(outputs: list[np.ndarray], texts: list[list[int]]) -> float:
    """How many tokens are equally likely to come next, in the geometric mean over all tokens."""
    losses = []
    for logits, ids in zip(outputs, texts):
        shifted = logits[0, :-1].astype(np.float64)
        shifted -= shifted.max(1, keepdims=True)
        losses.append(np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(ids) - 1), ids[1:]])
    return float(np.exp(np.concatenate(losses).mean()))
