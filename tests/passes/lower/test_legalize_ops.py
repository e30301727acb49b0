"""Reshapes stay views, everything else becomes a loop nest."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

from tvm.script import ir as I
from tvm.script import relax as R

from relaxc.passes.lower.legalize_ops import LegalizeOps


@I.ir_module
class Before:
    @R.function
    def main(x: R.Tensor(("n", 1, 4), "float32")) -> R.Tensor(("n", 1, 1, 4), "float32"):
        with R.dataflow():
            lv = R.squeeze(x, axis=[1])
            lv1 = R.nn.relu(lv)
            gv = R.expand_dims(lv1, axis=[1, 2])
            R.output(gv)
        return gv


def test_views_become_reshapes() -> None:
    text = LegalizeOps().apply(Before)["main"].script()
    assert text.count("R.reshape") == 2
    assert "R.call_tir(relu" in text
    assert "squeeze" not in text and "expand_dims" not in text
