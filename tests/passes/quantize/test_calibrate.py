"""Markers become quantization with the ranges that were seen."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

import numpy as np
import tvm
from quantized_graphs import Annotated, Float, Instrumented, Quantized
from tvm import IRModule, relax

from relaxc.passes.quantize.calibrate import CalibrateQuantization
from relaxc.passes.quantize.histogram import Histogram


def collect(instrumented: IRModule) -> dict[int, Histogram]:
    """What the observers of the golden graph see."""
    tvm.ir.assert_structural_equal(instrumented, Instrumented)
    seen = {0: Histogram(), 1: Histogram()}
    seen[0].add(np.array([-1, 2], np.float32))
    seen[1].add(np.array([0, 4], np.float32))
    return seen


def test_golden() -> None:
    text = Annotated.script()
    after = CalibrateQuantization(collect).apply(Annotated)
    relax.analysis.well_formed(after)
    tvm.ir.assert_structural_equal(after, Quantized)
    assert Annotated.script() == text


def test_nothing_marked_nothing_run() -> None:
    def never(_mod: IRModule) -> dict[int, Histogram]:
        raise AssertionError("there is nothing to observe")

    assert CalibrateQuantization(never).apply(Float).same_as(Float)
