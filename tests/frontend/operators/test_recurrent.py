"""Recurrent layers in every form against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from builders import onnx_model
from kernels import check_model

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def draw(*shape: int) -> np.ndarray:
    return (np.random.default_rng(sum(shape)).standard_normal(shape) * 0.5).astype(np.float32)


def check_layer(
    op: str, attrs: str = "", directions: int = 1, lengths: bool = False, extra: str = ""
) -> None:
    gates, hidden, steps, batch, width = GATES[op], 3, 5, 2, 4
    states = 2 if op == "LSTM" else 1
    outputs = "y, h, c" if op == "LSTM" else "y, h"
    shapes = ", ".join(f"float {name}" for name in outputs.split(", "))
    arguments = ["x", "w", "r", "b", "lengths" if lengths else "", "h0"]
    arguments += ["c0"] if op == "LSTM" else []
    inputs = "float[s,n,4] x" + (", int32[n] lengths" if lengths else "")
    graph = f"""g ({inputs}) => ({shapes}) {{
        {outputs} = {op}<hidden_size = {hidden}{attrs}>({", ".join(arguments)}{extra})
    }}"""
    d = directions
    weights = {
        "w": draw(d, gates * hidden, width),
        "r": draw(d, gates * hidden, hidden),
        "b": draw(d, 2 * gates * hidden),
        "h0": draw(d, batch, hidden),
        "p": draw(d, 3 * hidden),
    }
    if states == 2:
        weights["c0"] = draw(d, batch, hidden)
    feed = {"x": draw(steps, batch, width)}
    if lengths:
        feed["lengths"] = np.array([3, 5], np.int32)
    if not extra:
        del weights["p"]
    check_model(onnx_model(graph, 18, **weights), feed)


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("lengths", [False, True])
def test_directions_and_lengths(op: str, direction: str, lengths: bool) -> None:
    attrs = f', direction = "{direction}"'
    check_layer(op, attrs, 2 if direction == "bidirectional" else 1, lengths)


@pytest.mark.parametrize("op", GATES)
def test_clipping(op: str) -> None:
    check_layer(op, ", clip = 0.3")


def test_reset_after_the_product() -> None:
    check_layer("GRU", ", linear_before_reset = 1")


def test_coupled_gates() -> None:
    check_layer("LSTM", ", input_forget = 1")


def test_peepholes() -> None:
    check_layer("LSTM", extra=", p")


@pytest.mark.parametrize(
    "names", ["Relu", "LeakyRelu", "Affine", "Elu", "HardSigmoid", "Softsign", "ScaledTanh"]
)
def test_activations(names: str) -> None:
    parameters = ", activation_alpha = [0.4], activation_beta = [0.6]"
    given = parameters if names in ("Affine", "HardSigmoid", "ScaledTanh") else ""
    check_layer("RNN", f', activations = ["{names}"]{given}')
