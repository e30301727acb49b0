"""Reshapes stay views, everything else becomes a loop nest."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

from tvm import relax, tirx
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


def test_slices_keep_the_extents_that_they_are_known_by() -> None:
    """Else what joins a slice with another tensor of that extent would lose its shape."""
    n = tirx.Var("n", "int64")
    extent = tirx.max(n - 2, 0)
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([n, 4], "float32"))
    other = relax.Var("other", relax.TensorType([extent, 4], "float32"))
    with bb.function("main", [x, other]):
        with bb.dataflow():
            end = tirx.max(tirx.min(tirx.IntImm("int64", 2), n), 0)
            part = bb.emit(relax.op.strided_slice(x, [0], [end], [n], assume_inbound=True))
            result = bb.emit_output(relax.op.concat([part, other], 1))
        bb.emit_func_output(result)
    text = LegalizeOps().apply(bb.get())["main"].script()
    assert "R.concat" not in text and "R.strided_slice" not in text
