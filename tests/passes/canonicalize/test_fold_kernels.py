"""Loop nests that read constants only are run at compile time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from builders import onnx_model
from tvm import relax, te

from relaxc.frontend.importer import from_onnx
from relaxc.passes.canonicalize.fold_constant import FoldConstant
from relaxc.passes.canonicalize.fold_kernels import FoldKernels


def _module(is_folded: bool) -> tvm.IRModule:
    """Adds twice a constant, plus one, to the input."""
    x = relax.Var("x", relax.TensorType([4], "float32"))
    constant = relax.const(np.arange(4, dtype=np.float32))
    builder = relax.BlockBuilder()

    def twice(a: te.Tensor) -> te.Tensor:
        return te.compute(a.shape, lambda i: a[i] * 2)

    def more(a: te.Tensor) -> te.Tensor:
        return te.compute(a.shape, lambda i: a[i] + 1)

    with builder.function("main", [x]):
        with builder.dataflow():
            first = builder.emit_te(twice, constant)
            second = builder.emit_te(more, first)
            if is_folded:
                second = relax.const(np.arange(4, dtype=np.float32) * 2 + 1)
            result = builder.emit_output(relax.op.add(x, second))
        builder.emit_func_output(result)
    return builder.get()


def test_golden(golden: Callable[..., None]) -> None:
    after = FoldKernels().apply(_module(is_folded=False))
    expected = relax.transform.DeadCodeElimination()(_module(is_folded=True))
    tvm.ir.assert_structural_equal(after["main"], expected["main"])
    golden(FoldKernels(), after, after)


def test_large_results_are_left_alone() -> None:
    x = relax.Var("x", relax.TensorType([1], "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            spread = builder.emit_te(
                lambda a: te.compute((1 << 15,), lambda i: a[0]),
                relax.const(np.ones(1, np.float32)),
            )
            result = builder.emit_output(relax.op.add(x, spread))
        builder.emit_func_output(result)
    mod = builder.get()
    assert FoldKernels().apply(mod).same_as(mod)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_positions_of_resize(mode: str, execute: Callable[..., np.ndarray]) -> None:
    graph = (
        f"""g (float[1,2,3,3] x) => (float[1,2,5,7] y) {{ y = Resize<mode = "{mode}">(x, , s) }}"""
    )
    scales = np.array([1, 1, 1.7, 2.4], np.float32)
    before = FoldConstant().apply(from_onnx(onnx_model(graph, s=scales)).mod)
    after = relax.transform.DeadCodeElimination()(FoldKernels().apply(before))
    assert sum(isinstance(func, tvm.tirx.PrimFunc) for func in after.functions.values()) == 2
    x = np.random.default_rng(0).standard_normal((1, 2, 3, 3)).astype(np.float32)
    np.testing.assert_array_equal(execute(after, x), execute(before, x))
