"""Layers that integers make too inexact stay float."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

import numpy as np
import pytest
from quantized_graphs import Annotated, Float, Quantized
from tvm import relax

from relaxc.passes.quantize.annotate import AnnotateQuantization
from relaxc.passes.quantize.calibrate import CalibrateQuantization
from relaxc.passes.quantize.histogram import Histogram
from relaxc.passes.quantize.instrument import instrument, observed
from relaxc.passes.quantize.layer_errors import LayerError
from relaxc.passes.quantize.limits import Limits
from relaxc.passes.quantize.ranges_by_name import RangesByName
from relaxc.passes.quantize.restore_float import RestoreFloat

# The ranges of `quantized_graphs`.
RANGES = {"x": (-1.0, 2.0), "b": (0.0, 4.0), "c": (0.0, 4.0)}


def collect(instrumented):
    found = {}
    for name, number in observed(instrumented):
        found.setdefault(number, Histogram()).add(np.array(RANGES[name], np.float32))
    return found


def errors(_mod):
    shift = np.zeros(4, np.float32)
    return [LayerError("a", "a", 21.0, 0.99, shift), LayerError("d", "d", 40.0, 0.999, shift)]


@pytest.fixture
def quantize():
    """What quantizes the float module again, with the ranges that are known."""
    ranges = RangesByName(collect)
    ranges(instrument(Annotated))

    def again(nodes):
        annotated = AnnotateQuantization(exclude=tuple(nodes)).apply(Float)
        return CalibrateQuantization(ranges.again).apply(annotated)

    return again


def test_golden(golden, quantize) -> None:
    """The first layer reads what was never rounded; the second one's data are as before."""
    pass_ = RestoreFloat(errors, quantize, Limits(22.0))
    after = pass_.apply(Quantized)
    golden(pass_, Quantized, after)
    operators = [b.value.op.name for b in after["main"].body.blocks[0].bindings]
    assert operators == [
        *("relax.nn.conv2d", "relax.nn.relu", "relax.quantize", "relax.dequantize"),
        *("relax.nn.max_pool2d", "relax.quantize", "relax.dequantize"),
        *("relax.dequantize", "relax.nn.conv2d", "relax.sigmoid"),
    ]
    first = after["main"].body.blocks[0].bindings[0].value
    assert first.args[0].same_as(after["main"].params[0])
    assert not isinstance(first.args[1], relax.Var)


@pytest.mark.parametrize("least", [None, 20.0])
def test_layers_that_are_exact_enough_stay(golden, quantize, least: float | None) -> None:
    golden(RestoreFloat(errors, quantize, Limits(least)), Quantized, Quantized)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits(), set()),
        (Limits(22.0), {"a"}),
        (Limits(None, 0.01), set()),  # 21 and 40 dB: 0.8 and 0.01 %
        (Limits(None, 0.005), {"a"}),
        (Limits(None, 1e-5), {"a", "d"}),
    ],
)
def test_noise_adds_up(limits: Limits, expected: set[str]) -> None:
    assert limits.inexact(errors(None)) == expected
