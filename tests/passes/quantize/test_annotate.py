"""Which values are marked for quantization."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

import numpy as np
import pytest
import tvm
from builders import onnx_model
from quantized_graphs import Annotated, Float
from tvm import IRModule, relax

from relaxc.errors import OptionError
from relaxc.frontend.importer import from_onnx
from relaxc.passes.quantize.annotate import AnnotateQuantization
from relaxc.passes.quantize.marker import read_marker

WEIGHT = np.ones((4, 4, 1, 1), np.float32)


def marked(mod: IRModule) -> dict[str, int]:
    """Name of each marked activation -> number of its observer."""
    found = {}
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            marker = read_marker(binding)
            if marker is not None and marker.kind == "activation":
                found[str(marker.value.name)] = marker.number
    return found


def annotate(graph: str, options: AnnotateQuantization | None = None) -> dict[str, int]:
    mod = from_onnx(onnx_model(graph, w=WEIGHT)).mod
    after = (options or AnnotateQuantization()).apply(mod)
    relax.analysis.well_formed(after)
    return marked(after)


def test_golden() -> None:
    text = Float.script()
    after = AnnotateQuantization().apply(Float)
    relax.analysis.well_formed(after)
    tvm.ir.assert_structural_equal(after, Annotated)
    assert Float.script() == text


def test_a_model_without_products_is_left_alone() -> None:
    assert annotate("g (float[4] x) => (float[4] y) { y = Relu(x) }") == {}


def test_one_operand_of_a_residual_add_comes_straight_from_the_accumulators() -> None:
    found = annotate(
        """g (float[1,4,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w)  b = Conv(x, w)  c = Add(a, b)  y = Conv(c, w)
        }"""
    )
    assert set(found) == {"x", "a", "c"}


def test_what_a_concatenation_joins_shares_a_range() -> None:
    found = annotate(
        """g (float[1,2,4,4] x, float[1,2,4,4] z) => (float[1,4,4,4] y) {
            a = Relu(x)  c = Concat<axis=1>(a, z)  y = Conv(c, w)
        }"""
    )
    assert set(found) == {"a", "z", "c"}
    assert len(set(found.values())) == 1


def test_averages_have_ranges_of_their_own() -> None:
    found = annotate(
        """g (float[1,4,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w)  b = Relu(a)  c = AveragePool<kernel_shape = [2,2]>(b)  y = Conv(c, w)
        }"""
    )
    assert set(found) == {"x", "b", "c"} and len(set(found.values())) == 3


def test_what_is_averaged_and_read_as_it_was_stays_float() -> None:
    found = annotate(
        """g (float[1,4,4,4] x) => (float[1,4,4,4] y) {
            a = Conv(x, w)  b = Sigmoid(a)  c = GlobalAveragePool(b)  d = Conv(c, w)
            y = Mul(b, d)
        }"""
    )
    assert set(found) == {"x", "c"}


def test_excluded_nodes_stay_float() -> None:
    graph = """g (float[1,4,4,4] x) => (float[1,4,4,4] y) {
        a = Conv(x, w)  b = Relu(a)  y = Conv(b, w)
    }"""
    assert set(annotate(graph)) == {"x", "b"}
    assert set(annotate(graph, AnnotateQuantization(exclude=("a",)))) == {"b"}


def test_what_is_excluded_must_exist() -> None:
    graph = "g (float[1,4,4,4] x) => (float[1,4,4,4] y) { head = Conv(x, w)  y = Relu(head) }"
    assert annotate(graph, AnnotateQuantization(exclude=("he.*",))) == {}
    with pytest.raises(OptionError, match=r"`heat` .* \(did you mean `head`\?\)"):
        annotate(graph, AnnotateQuantization(exclude=("heat",)))


def test_products_of_two_activations_stay_float() -> None:
    assert annotate("g (float[4,4] x) => (float[4,4] y) { y = MatMul(x, x) }") == {}


def test_transposed_convolutions_without_groups() -> None:
    graph = "g (float[1,4,4,4] x) => (float[n,c,h,w] y) { y = ConvTranspose<group=%d>(x, w) }"
    assert annotate(graph % 1) == {"x": 0}
    assert annotate(graph % 2) == {}
