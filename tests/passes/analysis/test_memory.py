"""Bytes of weights and of live intermediate results."""

from __future__ import annotations

import numpy as np
from builders import dense_model, onnx_model

from relaxc.frontend.importer import from_onnx
from relaxc.passes.analysis.memory import live_bytes, peak_activation_bytes, weight_bytes


def test_a_chain_keeps_two_tensors_alive() -> None:
    model = onnx_model(
        "g (float[100] x) => (float[100] y) { a = Exp(x) b = Neg(a) c = Abs(b) y = Relu(c) }"
    )
    assert peak_activation_bytes(from_onnx(model).mod) == 2 * 400


def test_a_skip_connection_keeps_three() -> None:
    model = onnx_model(
        "g (float[100] x) => (float[100] y) { a = Exp(x) b = Neg(a) c = Abs(b) y = Add(c, a) }"
    )
    assert peak_activation_bytes(from_onnx(model).mod) == 3 * 400


def test_the_timeline_names_operators() -> None:
    model = onnx_model(
        "g (float[100] x) => (float[100] y) { a = Exp(x) b = Neg(a) c = Abs(b) y = Add(c, a) }"
    )
    timeline = live_bytes(from_onnx(model).mod)
    assert [size for _name, size in timeline] == [400, 800, 1200, 1200]
    assert timeline[0][0] == "a"


def test_weights_are_counted_once() -> None:
    assert weight_bytes(from_onnx(dense_model(4, 300)).mod) == 4800
    twice = onnx_model(
        "g (float[300] x) => (float[300] y) { a = Add(x, w) y = Mul(a, w) }",
        w=np.ones(300, np.float32),
    )
    assert weight_bytes(from_onnx(twice).mod) == 1200
