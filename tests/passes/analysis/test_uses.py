"""How often values are read."""

from __future__ import annotations

from builders import onnx_model

from relaxc.frontend.importer import from_onnx
from relaxc.passes.analysis.uses import use_counts


def test_uses_are_counted_by_variable_and_by_value() -> None:
    model = onnx_model("g (float[3] x) => (float[3] y) { a = Exp(x) b = Mul(a, a) y = Add(b, a) }")
    func = from_onnx(model).mod["main"]
    bindings = {b.var.name: b for block in func.body.blocks for b in block.bindings}
    counts = use_counts(func)
    assert counts[bindings["a"].var] == 3
    assert counts[bindings["a"].value] == 3
    assert counts[bindings["b"].var] == 1
