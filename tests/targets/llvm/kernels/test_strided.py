"""Views of views: where their elements lie."""

from __future__ import annotations

from tvm import relax

from relaxc.targets.llvm.kernels.strided import resolve


def test_slices_without_steps_step_by_one() -> None:
    x = relax.Var("x", relax.TensorType([3, 4, 8], "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        plain = builder.emit(relax.op.strided_slice(x, [0, 2], [1, 2], [2, 8]))
        wide = builder.emit(relax.op.strided_slice(x, [0, 2], [1, 2], [2, 8], [1, 2]))
        builder.emit_func_output(relax.Tuple([plain, wide]))
    bindings = builder.get()["main"].body.blocks[0].bindings
    producers = {binding.var: binding.value for binding in bindings}
    views = [resolve(var, producers) for var in (plain, wide)]
    assert [v and (v.shape, v.strides, v.offset) for v in views] == [
        ((1, 4, 6), (32, 8, 1), 34),
        ((1, 4, 3), (32, 8, 2), 34),
    ]
