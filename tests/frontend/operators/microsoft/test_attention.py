"""Attention with and without a cache, and rotary embeddings, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from one_node import check_node, node_model

import relaxc
from relaxc.errors import UnsupportedOpError

RNG = np.random.default_rng(0)
OUT = {"y": np.float32}
CACHE = {"y": np.float32, "k2": np.float32, "v2": np.float32}
HEADS, SIZE = 2, 16


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def inputs(length: int = 3, keys: int = 5, **more: np.ndarray | None) -> dict[str, Any]:
    width = HEADS * SIZE
    given: dict[str, np.ndarray | None] = {
        "q": floats(2, length, width),
        "k": floats(2, keys, width),
        "v": floats(2, keys, width),
    }
    names = ("bias", "mask", "added", "pk", "pv")
    return {**given, **{n: more.get(n) for n in names}}


SYMBOLS = {"q": {0: "b", 1: "s"}, "k": {0: "b", 1: "t"}, "v": {0: "b", 1: "t"}}


@pytest.mark.parametrize(
    ("more", "attrs"),
    [
        ({}, {}),
        ({}, {"scale": 0.3}),
        ({"bias": floats(3 * HEADS * SIZE)}, {}),
        ({"mask": np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)}, {}),
        ({"added": floats(1, HEADS, 3, 5)}, {}),
        ({"added": floats(2, 1, 3, 5)}, {"mask_filter_value": -5.0}),
    ],
)
def test_multi_head_attention(more: dict[str, Any], attrs: dict[str, Any]) -> None:
    check_node("MultiHeadAttention", inputs(**more), OUT, num_heads=HEADS, **attrs)


def test_multi_head_attention_of_symbolic_lengths() -> None:
    check_node("MultiHeadAttention", inputs(), OUT, symbols=SYMBOLS, num_heads=HEADS)


def test_multi_head_attention_with_a_cache() -> None:
    past = {"pk": floats(2, HEADS, 4, SIZE), "pv": floats(2, HEADS, 4, SIZE)}
    given = inputs(3, 3, **past)
    check_node("MultiHeadAttention", given, CACHE, num_heads=HEADS, unidirectional=1)


def test_multi_head_attention_of_packed_tensors(tmp_path: Path) -> None:
    """ONNX Runtime takes them on GPUs only: the same tensors apart are the oracle."""
    parts = {name: floats(2, 3, HEADS, SIZE) for name in ("q", "k", "v")}
    apart = {name: array.reshape(2, 3, HEADS * SIZE) for name, array in parts.items()}
    model = node_model("MultiHeadAttention", apart, OUT, num_heads=HEADS)
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, apart)
    pairs: list[dict[str, np.ndarray]] = [
        {"q": np.stack(list(parts.values()), axis=3)},
        {"q": apart["q"], "k": np.stack([parts["k"], parts["v"]], axis=3)},
    ]
    for given in pairs:
        packed = node_model("MultiHeadAttention", given, OUT, num_heads=HEADS)
        relaxc.compile(packed, tmp_path / "a.rxc")
        actual = relaxc.load(tmp_path / "a.rxc").run(given)["y"]
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_what_attention_lacks_is_named(tmp_path: Path) -> None:
    given = inputs(mask=np.array([3, 5], np.int32))
    model = node_model("MultiHeadAttention", given, OUT, num_heads=HEADS)
    with pytest.raises(UnsupportedOpError, match="`key_padding_mask` of 1 dimensions"):
        relaxc.compile(model, tmp_path / "a.rxc")


def rotary_tables(positions: int = 16, half: int = SIZE // 2) -> dict[str, np.ndarray]:
    angles = np.outer(np.arange(positions), 1 / 10 ** np.arange(half))
    return {"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32)}


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize(
    "positions", [np.array([2], np.int64), np.array([[0, 3, 1], [4, 5, 9]], np.int64)]
)
def test_rotary_embedding(interleaved: int, positions: np.ndarray) -> None:
    for x in (floats(2, 3, HEADS * SIZE), floats(2, HEADS, 3, SIZE)):
        given = {"x": x, "p": positions, **rotary_tables()}
        check_node("RotaryEmbedding", given, OUT, interleaved=interleaved)


def test_rotary_embedding_of_some_columns() -> None:
    x = floats(2, 3, HEADS * SIZE)
    given = {"x": x, "p": np.array([0], np.int64), **rotary_tables(half=2)}
    check_node("RotaryEmbedding", given, OUT, num_heads=HEADS, rotary_embedding_dim=4)


def grouped(length: int, past: int, lengths: list[int], total: int) -> dict[str, Any]:
    batch, width = len(lengths), HEADS * SIZE
    return {
        "q": floats(batch, length, 2 * width),
        "k": floats(batch, length, width),
        "v": floats(batch, length, width),
        "pk": floats(batch, HEADS, past, SIZE),
        "pv": floats(batch, HEADS, past, SIZE),
        "last": np.array(lengths, np.int32) - 1,
        "total": np.array(total, np.int32),
    }


@pytest.mark.parametrize(
    "attrs",
    [
        {},
        {"scale": 0.3},
        {"softcap": 5.0},
        {"local_window_size": 2},
        {"do_rotary": 1},
        {"do_rotary": 1, "rotary_interleaved": 1},
    ],
)
@pytest.mark.parametrize(("length", "past"), [(3, 0), (1, 4), (2, 3)])
def test_group_query_attention(attrs: dict[str, Any], length: int, past: int) -> None:
    # ONNX Runtime takes several tokens on top of a cache from one row only.
    rows = 1 if length > 1 and past else 2
    given = grouped(length, past, [length + past] * rows, length + past)
    if "do_rotary" in attrs:
        given |= rotary_tables()
    heads = {"num_heads": 2 * HEADS, "kv_num_heads": HEADS}
    check_node("GroupQueryAttention", given, CACHE, **heads, **attrs)


def test_group_query_attention_of_packed_tensors_and_symbolic_lengths() -> None:
    given = grouped(1, 4, [5, 5], 5)
    packed = np.concatenate([given["q"], given["k"], given["v"]], axis=2)
    given |= {"q": packed, "k": None, "v": None}
    symbols = {
        "q": {0: "b", 1: "s"},
        "pk": {0: "b", 2: "p"},
        "pv": {0: "b", 2: "p"},
        "last": {0: "b"},
    }
    heads = {"num_heads": 2 * HEADS, "kv_num_heads": HEADS}
    check_node("GroupQueryAttention", given, CACHE, symbols=symbols, **heads)


def test_rows_of_the_cache_may_be_filled_to_different_lengths() -> None:
    given = grouped(1, 4, [3, 5], 5)
    # Beyond what a row has filled, nothing is promised: zeros here and there.
    given["pk"][0, :, 2:] = given["pv"][0, :, 2:] = 0
    heads = {"num_heads": 2 * HEADS, "kv_num_heads": HEADS}
    check_node("GroupQueryAttention", given, CACHE, **heads)


def test_a_sink_is_refused(tmp_path: Path) -> None:
    given = grouped(1, 4, [5, 5], 5)
    given |= dict.fromkeys(("cos", "sin", "p", "b"))
    given["sink"] = floats(2 * HEADS)
    heads: dict[str, Any] = {"num_heads": 2 * HEADS, "kv_num_heads": HEADS}
    model = node_model("GroupQueryAttention", given, CACHE, **heads)
    with pytest.raises(UnsupportedOpError, match="input `head_sink` is not supported"):
        relaxc.compile(model, tmp_path / "a.rxc")
