"""Classes of loop nests, as fusion needs them."""

from __future__ import annotations

import numpy as np
from builders import onnx_model
from tvm import IRModule, relax, tirx

from relaxc.frontend.importer import from_onnx
from relaxc.passes.fuse.annotate_patterns import AnnotatePatterns

ELEMENTWISE, OPAQUE = 0, 8


def annotated(graph: str, **weights: np.ndarray) -> IRModule:
    mod = relax.transform.LegalizeOps()(from_onnx(onnx_model(graph, 18, **weights)).mod)
    return AnnotatePatterns().apply(mod)


def patterns(mod: IRModule) -> dict[str, int]:
    return {
        gvar.name_hint: int(func.attrs["op_pattern"])
        for gvar, func in mod.functions_items()
        if isinstance(func, tirx.PrimFunc)
    }


def test_elementwise_operators() -> None:
    found = patterns(annotated("g (float[n,3] x) => (float[n,3] y) { y = Relu(x) }"))
    assert set(found.values()) == {ELEMENTWISE}


def test_a_loop_nest_over_a_dimension_that_no_buffer_has_is_opaque() -> None:
    mod = annotated(
        """g (float[n] x) => (float[n] y) {
            s = Shape(x)  t = Cast<to=1>(s)  y = Mul(x, t) }"""
    )
    assert OPAQUE in patterns(mod).values()


def test_a_creation_of_computed_size_is_opaque() -> None:
    mod = annotated(
        """g (float[n] x) => (float[m] y) {
            s = Shape(x)  t = Sub(s, one)  y = ConstantOfShape(t) }""",
        one=np.array([1]),
    )
    assert OPAQUE in patterns(mod).values()


def test_the_input_is_not_changed() -> None:
    mod = relax.transform.LegalizeOps()(
        from_onnx(onnx_model("g (float[3] x) => (float[3] y) { y = Relu(x) }")).mod
    )
    text = mod.script()
    AnnotatePatterns().apply(mod)
    assert mod.script() == text
