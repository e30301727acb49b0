"""Observers see what was marked."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

import tvm
from quantized_graphs import Annotated, Instrumented
from tvm import relax

from relaxc.passes.quantize.instrument import instrument


def test_golden() -> None:
    text = Annotated.script()
    after = instrument(Annotated)
    relax.analysis.well_formed(after)
    tvm.ir.assert_structural_equal(after, Instrumented)
    assert Annotated.script() == text
