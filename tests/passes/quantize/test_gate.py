"""How the speed gate's decision reaches what quantizes."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from builders import onnx_model
from quantized_graphs import Annotated, Float
from tvm import IRModule

from relaxc.frontend.importer import from_onnx
from relaxc.passes.quantize.annotate import AnnotateQuantization
from relaxc.passes.quantize.exclusion import FLOAT_NODES
from relaxc.passes.quantize.gate import GateQuantization
from relaxc.passes.quantize.quantize_weights import QuantizeWeights


def test_golden(golden: Callable[..., None]) -> None:
    expected = Float.clone()
    expected["main"] = Float["main"].with_attr(FLOAT_NODES, ["a", "b"])
    golden(GateQuantization(lambda _mod: ["b", "a"]), Float, expected)


def test_nothing_to_exclude() -> None:
    assert GateQuantization(lambda _mod: []).apply(Float).same_as(Float)


def test_nodes_that_stay_float_are_not_annotated() -> None:
    annotate = AnnotateQuantization()
    nodes = annotate.nodes(Float)
    assert nodes
    after = annotate.apply(GateQuantization(lambda _mod: nodes).apply(Float))
    tvm.ir.assert_structural_equal(after, Float)
    other = annotate.apply(GateQuantization(lambda _mod: ["other"]).apply(Float))
    tvm.ir.assert_structural_equal(other, Annotated)


def product() -> IRModule:
    graph = "g (float[2,8] x) => (float[2,8] y) { a = MatMul(x, w)  y = MatMul(a, w) }"
    return from_onnx(onnx_model(graph, w=np.eye(8, dtype=np.float32))).mod


def test_weights_of_nodes_that_stay_float() -> None:
    quantize = QuantizeWeights()
    first, second = quantize.nodes(product())
    after = quantize.apply(GateQuantization(lambda _mod: [first]).apply(product()))
    assert FLOAT_NODES not in (after["main"].attrs or {})
    assert quantize.nodes(after) == [first]
    assert second not in quantize.nodes(after)
