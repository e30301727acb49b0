"""Calls of fixed shapes are recorded as a whole, others piece by piece."""

from __future__ import annotations

import numpy as np
import tvm
from builders import dense_model, onnx_model
from tvm import relax

from relaxc.frontend.importer import from_onnx
from relaxc.passes.pipeline import default_passes
from relaxc.targets.cuda.plan_graphs import REPLAYABLE
from relaxc.targets.registry import backend_for

CHAIN = """g (float[{rows},8] x) => (float[{rows},8] y) {{
    a = MatMul(x, w)  b = Relu(a)  c = MatMul(b, w)  d = Tanh(c)  y = MatMul(d, w)
}}"""


def planned(model: object) -> relax.Function:
    backend = backend_for("cuda -arch=sm_90")
    mod = from_onnx(model).mod  # type: ignore[arg-type]
    for item in default_passes(backend.kernels):
        mod = item.apply(mod)
    with backend.target:
        for name, lowering in backend.lowering_passes():
            mod = lowering(mod)
            if name == "plan-graphs":
                break
    relax.analysis.well_formed(mod)
    return mod["main"]


def calls(main: relax.Function) -> set[str]:
    found: set[str] = set()

    def visit(expr: tvm.ir.RelaxExpr) -> None:
        if isinstance(expr, relax.ExternFunc):
            found.add(str(expr.global_symbol))

    relax.analysis.post_order_visit(main, visit)
    return {name.rpartition(".")[2] for name in found}


def test_fixed_shapes() -> None:
    main = planned(onnx_model(CHAIN.format(rows=40), w=np.eye(8, dtype=np.float32)))
    assert main.attrs[REPLAYABLE]
    assert calls(main) == {"get_cached_alloc"}  # memory stays, nothing is recorded in pieces


def test_open_shapes() -> None:
    assert REPLAYABLE not in planned(dense_model()).attrs


def test_one_kernel_allocates_its_result_only() -> None:
    main = planned(onnx_model("g (float[3] x) => (float[3] y) { y = Relu(x) }"))
    assert main.attrs[REPLAYABLE]
