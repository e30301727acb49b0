"""Ifs that are decided before the model runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builders import onnx_model
from fuzz.judge import judge

import relaxc
from relaxc.errors import InputError

# As PyTorch's exporter writes `x.squeeze(-1)`, then computes on.
SQUEEZE = """g (float[n,3,k] x) => (float[a,b] y) {
    s = Shape(x)
    d = Gather<axis=0>(s, last)
    c = Equal(d, one)
    z = If(c) <
        then_branch = t () => (float[p,q] u) { u = Squeeze(x, last) },
        else_branch = e () => (float[p,q,r] v) { v = Identity(x) }
    >
    r = Shape(z)
    w = Size(r)
    y = Add(z, z)
}"""


def numbers(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def model() -> object:
    made = onnx_model(SQUEEZE, 18, last=np.array([-1]), one=np.array([1]))
    made.graph.output[0].type.tensor_type.ClearField("shape")
    return made


def test_a_squeeze_that_is_computed_on_is_taken() -> None:
    verdict = judge(model(), [{"x": numbers(2, 3, 1)}, {"x": numbers(5, 3, 1)}])
    assert verdict.status == "passed", verdict.detail


def test_a_size_that_the_squeeze_excludes_is_an_error(tmp_path: Path) -> None:
    relaxc.compile(model(), tmp_path / "a.rxc")
    compiled = relaxc.load(tmp_path / "a.rxc", threads=1)
    with pytest.raises(InputError, match="fails on inputs of these shapes"):
        compiled(numbers(2, 3, 2))


def test_a_known_size_beside_an_open_one_decides() -> None:
    graph = """g (float[n,2] x) => (float[a,b] y) {
        s = Shape(x) d = Gather<axis=0>(s, i) c = Equal(d, two)
        y = If(c) <
            then_branch = t () => (float[p,q] u) { u = Add(x, x) },
            else_branch = e () => (float[p,q,r] v) { v = Unsqueeze(x, i) }
        >
    }"""
    made = onnx_model(graph, 18, i=np.array([1]), two=np.array([2]))
    verdict = judge(made, [{"x": numbers(3, 2)}])
    assert verdict.status == "passed", verdict.detail
