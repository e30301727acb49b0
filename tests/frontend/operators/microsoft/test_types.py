"""Operators of this domain in half precision.

ONNX Runtime has few of them for halves on CPUs: the oracle is what it computes in float32 of the
same numbers. The results may differ by the rounding of what goes in, between and out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from one_node import Arrays, node_model

import relaxc

RNG = np.random.default_rng(0)
HALVES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
# Of the largest element.
TOLERANCE = {"float16": 4e-3, "bfloat16": 3e-2}
# Outputs that are no floats.
INDEX = {"index": np.dtype(np.int32)}
HEADS, SIZE = 2, 16


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def qkv(length: int = 3, keys: int = 5) -> dict[str, np.ndarray]:
    width = HEADS * SIZE
    names = {"q": length, "k": keys, "v": keys}
    return {name: floats(2, count, width) for name, count in names.items()}


def cached(length: int, past: int, **more: np.ndarray) -> dict[str, np.ndarray]:
    width = HEADS * SIZE
    return {
        "q": floats(2, length, 2 * width),
        "k": floats(2, length, width),
        "v": floats(2, length, width),
        "pk": floats(2, HEADS, past, SIZE),
        "pv": floats(2, HEADS, past, SIZE),
        "last": np.full(2, length + past - 1, np.int32),
        "total": np.array(length + past, np.int32),
        **more,
    }


ANGLES = np.outer(np.arange(16), 1 / 10 ** np.arange(SIZE // 2))
TABLES = {"cos": np.cos(ANGLES).astype(np.float32), "sin": np.sin(ANGLES).astype(np.float32)}
GROUPS = {"num_heads": 2 * HEADS, "kv_num_heads": HEADS}
ROW, VECTOR = floats(2, 3, 8), floats(8)
NBITS = {
    "b": RNG.integers(0, 256, (24, 4, 8), np.uint8),
    "s": RNG.uniform(0.1, 1, (24, 4)).astype(np.float32),
}
WORDS = {
    "ids": RNG.integers(0, 20, (2, 4)).astype(np.int32),
    "segments": RNG.integers(0, 2, (2, 4)).astype(np.int32),
    "word": floats(20, 8),
    "position": floats(6, 8),
    "segment": floats(2, 8),
    "gamma": VECTOR,
    "beta": floats(8),
}
ONE, THREE = ("y",), ("y", "k2", "v2")
SUM = ("y", None, None, "s")

CASES: dict[str, tuple[str, Arrays, tuple[str | None, ...], dict[str, Any]]] = {
    "Gelu": ("Gelu", {"x": ROW}, ONE, {}),
    "BiasGelu": ("BiasGelu", {"x": ROW, "b": VECTOR}, ONE, {}),
    "FastGelu": ("FastGelu", {"x": ROW, "b": VECTOR}, ONE, {}),
    "QuickGelu": ("QuickGelu", {"x": ROW}, ONE, {"alpha": 1.5}),
    "FusedMatMul": (
        "FusedMatMul",
        {"a": floats(2, 4, 5), "b": floats(2, 6, 5)},
        ONE,
        {"transB": 1, "alpha": 0.5},
    ),
    "MatMulNBits": (
        "MatMulNBits",
        {"x": floats(3, 64), **NBITS},
        ONE,
        {"K": 64, "N": 24, "bits": 4, "block_size": 16},
    ),
    "SimplifiedLayerNormalization": (
        "SimplifiedLayerNormalization",
        {"x": ROW, "g": VECTOR},
        ONE,
        {"domain": ""},
    ),
    "SkipLayerNormalization": (
        "SkipLayerNormalization",
        {"x": ROW, "skip": floats(2, 3, 8), "g": VECTOR, "b": floats(8), "c": floats(8)},
        SUM,
        {},
    ),
    "SkipSimplifiedLayerNormalization": (
        "SkipSimplifiedLayerNormalization",
        {"x": ROW, "skip": floats(2, 3, 8), "g": VECTOR, "c": floats(8)},
        SUM,
        {},
    ),
    "EmbedLayerNormalization": ("EmbedLayerNormalization", WORDS, ("y", "index"), {}),
    "MultiHeadAttention": (
        "MultiHeadAttention",
        {**qkv(), "bias": floats(3 * HEADS * SIZE), "mask": None, "added": floats(1, HEADS, 3, 5)},
        ONE,
        {"num_heads": HEADS},
    ),
    "MultiHeadAttention, cached": (
        "MultiHeadAttention",
        {
            **qkv(3, 3),
            **dict.fromkeys(("bias", "mask", "added")),
            "pk": floats(2, HEADS, 4, SIZE),
            "pv": floats(2, HEADS, 4, SIZE),
        },
        THREE,
        {"num_heads": HEADS, "unidirectional": 1},
    ),
    "GroupQueryAttention, first tokens": ("GroupQueryAttention", cached(3, 0), THREE, GROUPS),
    "GroupQueryAttention": (
        "GroupQueryAttention",
        cached(1, 4, **TABLES),
        THREE,
        {**GROUPS, "do_rotary": 1, "softcap": 5.0},
    ),
    "RotaryEmbedding": (
        "RotaryEmbedding",
        {"x": floats(2, 3, HEADS * SIZE), "p": np.array([2], np.int64), **TABLES},
        ONE,
        {"interleaved": 1},
    ),
}


@pytest.mark.parametrize("kind", [pytest.param("bfloat16", marks=pytest.mark.long), "float16"])
@pytest.mark.parametrize("case", CASES)
def test_halves(case: str, kind: str, tmp_path: Path) -> None:
    op_type, given, names, attrs = CASES[case]
    half = HALVES[kind]
    inputs = {n: None if a is None else _rounded(a, half) for n, a in given.items()}
    # Packed weights are constants, as exporters write them.
    stored = [n for n in ("b", "s") if op_type == "MatMulNBits"]
    model = node_model(op_type, inputs, _typed(names, half), constants=stored, **attrs)
    relaxc.compile(model, tmp_path / "a.rxc")
    fed = {n: a for n, a in inputs.items() if a is not None}
    ours = {n: a for n, a in fed.items() if n not in stored}
    found = relaxc.load(tmp_path / "a.rxc", threads=1).run(ours)

    wide = {n: _widened(a, half) for n, a in fed.items()}
    reference = node_model(
        op_type,
        {n: None if a is None else wide[n] for n, a in given.items()},
        _typed(names, np.dtype(np.float32)),
        **attrs,
    )
    session = onnxruntime.InferenceSession(reference.SerializeToString())
    for output, wanted in zip(session.get_outputs(), session.run(None, wide)):
        got = np.asarray(found[output.name])
        assert (got.dtype, got.shape) == (INDEX.get(output.name, half), wanted.shape)
        limit = TOLERANCE[kind] * float(np.abs(wanted).max())
        np.testing.assert_allclose(
            got.astype(np.float32), wanted, rtol=0, atol=limit, err_msg=output.name
        )


def _rounded(array: np.ndarray, half: np.dtype[Any]) -> np.ndarray:
    return array.astype(half) if array.dtype == np.float32 else array


def _widened(array: np.ndarray, half: np.dtype[Any]) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == half else array


def _typed(names: tuple[str | None, ...], kind: np.dtype[Any]) -> Mapping[str, Any]:
    types = {n or f"absent{i}": kind if n else None for i, n in enumerate(names)}
    return {n: INDEX.get(n, kind) for n, kind in types.items()}
