"""Normalizations of sums and embeddings, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from one_node import check_node, node_model

import relaxc
from relaxc.errors import UnsupportedOpError

RNG = np.random.default_rng(0)
OUT = {"y": np.float32}
ALL = {"y": np.float32, "m": None, "i": None, "s": np.float32}
BATCH = {"x": {0: "n", 1: "m"}, "skip": {0: "n", 1: "m"}}


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("beta", [None, floats(8)])
@pytest.mark.parametrize("bias", [None, floats(8)])
def test_skip_layer_normalization(beta: np.ndarray | None, bias: np.ndarray | None) -> None:
    inputs = {"x": floats(2, 3, 8), "skip": floats(2, 3, 8), "g": floats(8), "b": beta, "c": bias}
    check_node("SkipLayerNormalization", inputs, ALL, symbols=BATCH, epsilon=1e-3)


def test_a_skip_for_all_rows_of_a_batch() -> None:
    inputs = {"x": floats(2, 3, 8), "skip": floats(1, 3, 8), "g": floats(8), "b": floats(8)}
    check_node("SkipLayerNormalization", inputs, OUT)


@pytest.mark.parametrize("bias", [None, floats(8)])
def test_skip_simplified_layer_normalization(bias: np.ndarray | None) -> None:
    inputs = {"x": floats(2, 3, 8), "skip": floats(2, 3, 8), "g": floats(8), "c": bias}
    check_node("SkipSimplifiedLayerNormalization", inputs, ALL, symbols=BATCH, epsilon=1e-3)


def test_simplified_layer_normalization_of_the_default_domain() -> None:
    inputs = {"x": floats(2, 3, 8), "g": floats(8)}
    check_node("SimplifiedLayerNormalization", inputs, OUT, domain="", symbols={"x": {0: "n"}})


def test_results_for_training_are_refused(tmp_path: Path) -> None:
    inputs = {"x": floats(2, 3, 8), "skip": floats(2, 3, 8), "g": floats(8)}
    model = node_model("SkipLayerNormalization", inputs, {"y": np.float32, "mean": np.float32})
    with pytest.raises(UnsupportedOpError, match="output `mean` is not supported"):
        relaxc.compile(model, tmp_path / "a.rxc")


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("positions", [False, True])
def test_embed_layer_normalization(segments: bool, positions: bool) -> None:
    def ids(limit: int) -> np.ndarray:
        return RNG.integers(0, limit, (2, 4)).astype(np.int32)

    inputs = {
        "ids": ids(20),
        "segments": ids(2) if segments else None,
        "word": floats(20, 8),
        "position": floats(6, 8),
        "segment": floats(2, 8) if segments else None,
        "gamma": floats(8),
        "beta": floats(8),
        "mask": np.array([[1, 1, 1, 0], [1, 1, 1, 1]], np.int32),
        "places": ids(6) if positions else None,
    }
    outputs = {"y": np.float32, "index": np.int32, "sum": np.float32}
    named = {0: "n", 1: "m"}
    symbols = {"ids": named, "segments": named, "mask": named, "places": named}
    check_node("EmbedLayerNormalization", inputs, outputs, symbols=symbols)
