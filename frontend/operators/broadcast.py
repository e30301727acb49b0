"""Broadcasting between dimensions of which only the run tells whether they are equal, or one 1.

A slice `table[:seq]` of 512 positions has `min(seq, 512)` of them, and is then added to `seq`
tokens. ONNX accepts that only where both numbers are equal, but TVM wants it proved; so the
equality is assumed here and checked when the model runs.

Of two independent dimensions `n` and `m`, either may be 1. The size that both are broadcast to is
computed when the model runs, together with whether they are compatible at all.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from tvm import relax, te, tirx
from tvm.sym import Analyzer

from relaxc.frontend.operators.base import NodeContext, dims
from relaxc.frontend.operators.vectors import runtime_vector
from relaxc.frontend.shape_values import Element

BROADCASTING = frozenset(
    {"Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater"}
    | {"GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or"}
    | {"Pow", "PRelu", "Sub", "Sum", "Where", "Xor"}
)


def with_equal_dimensions(ctx: NodeContext) -> NodeContext:
    """The context with inputs whose dimensions TVM can tell to be equal, or 1."""
    tensors = [x for x in ctx.inputs if x is not None and _has_dims(x)]
    ctx = dataclasses.replace(ctx, inputs=[_cast(ctx, x, tensors) for x in ctx.inputs])
    if ctx.node.op_type == "PRelu":  # whose slope alone may be broadcast
        return ctx
    return _with_common_sizes(ctx)


def _with_common_sizes(ctx: NodeContext) -> NodeContext:
    """The context with inputs expanded along every axis where the run decides who broadcasts."""
    tensors = [x for x in ctx.inputs if x is not None and _has_dims(x)]
    rank = max((len(dims(x)) for x in tensors), default=0)
    by_axis = {
        axis: [dims(x)[-axis] for x in tensors if axis <= len(dims(x))]
        for axis in range(1, rank + 1)
    }
    open_axes = {axis: sizes for axis, sizes in by_axis.items() if is_open(sizes)}
    if not open_axes:
        return ctx
    common = dict(zip(open_axes, common_sizes(ctx, list(open_axes.values()))))
    inputs = [
        x if x is None or not _has_dims(x) else expand_axes(ctx, x, common) for x in ctx.inputs
    ]
    return dataclasses.replace(ctx, inputs=inputs)


def with_sizes(ctx: NodeContext, value: relax.Expr, wanted: dict[int, Element]) -> relax.Expr:
    """A tensor whose axes have given sizes: what cannot be proved is checked when it runs.

    Raises:
        ValueError: a size is known to be another.
    """
    shape, analyzer = dims(value), Analyzer()
    open_axes = {
        a: size for a, size in wanted.items() if not analyzer.can_prove_equal(shape[a], size)
    }
    for axis, size in open_axes.items():
        if isinstance(size, tirx.IntImm) and isinstance(shape[axis], tirx.IntImm):
            raise ValueError(f"dimension {axis} is {int(shape[axis])}, but must be {int(size)}")
    if not open_axes:
        return value
    # CanonicalizeBindings (TVM 0.27) takes a bare variable in a cast for its definition and
    # recurs without end on `n := min(n, 512)`; an expression it leaves alone.
    zero = tirx.IntImm("int64", 0)
    pattern = list(shape)
    for axis, size in open_axes.items():
        pattern[axis] = tirx.Add(size, zero) if not isinstance(size, tirx.IntImm) else size
    return ctx.bb.match_cast(value, relax.TensorType(pattern, value.ty.dtype.dtype))


def is_open(sizes: Sequence[Element]) -> bool:
    """Whether two sizes may differ, though neither is known to be 1."""
    larger = [s for s in sizes if not (isinstance(s, tirx.IntImm) and int(s) == 1)]
    if all(isinstance(s, tirx.IntImm) for s in larger):
        return False
    return any(not Analyzer().can_prove_equal(larger[0], s) for s in larger[1:])


def common_sizes(ctx: NodeContext, axes: list[list[Element]]) -> list[Element]:
    """A size per axis, bound to a symbol where it is not known, and checked when the model runs."""

    def find(axes: list[list[Any]]) -> list[Any]:
        found = []
        for sizes in axes:
            size = functools.reduce(lambda a, b: tirx.Select(a == 1, b, a), sizes)
            clashes = [tirx.all(s != 1, s != size) for s in sizes]
            found += [size, tirx.Select(functools.reduce(tirx.any, clashes), 1, 0)]
        return found

    table = runtime_vector(ctx, find, axes, name="common_sizes")
    call = relax.op.call_pure_packed(
        "vm.builtin.tensor_to_shape", table, ty_args=[relax.ShapeType(ndim=2 * len(axes))]
    )
    pattern, common = [], []
    for k, sizes in enumerate(axes):
        known = [s for s in sizes if isinstance(s, tirx.IntImm) and int(s) != 1]
        common.append(known[0] if known else tirx.Var(f"{ctx.node.output[0]}_common{k}", "int64"))
        pattern += [common[-1], tirx.IntImm("int64", 0)]
    # A cast that fails is the check.
    ctx.bb.match_cast(ctx.bb.emit(call, f"{ctx.node.op_type}_broadcasts"), relax.ShapeType(pattern))
    return common


def expand_axes(ctx: NodeContext, value: relax.Expr, common: dict[int, Element]) -> relax.Expr:
    """Broadcast a tensor along some axes, counted from the right starting with 1."""
    rank = len(dims(value))
    wanted = {rank - axis: size for axis, size in common.items() if axis <= rank}
    wanted = {
        a: s
        for a, s in wanted.items()
        if not (isinstance(dims(value)[a], tirx.IntImm) and int(dims(value)[a]) in (1, _value(s)))
    }
    if not wanted:
        return value

    def compute(x: te.Tensor, sizes: list[Any]) -> te.Tensor:
        new = dict(zip(wanted, sizes))
        shape = [new.get(a, n) for a, n in enumerate(x.shape)]

        def element(*i: Any) -> Any:
            at = [
                tirx.Select(n == 1, tirx.IntImm("int64", 0), k) if a in new else k
                for a, (k, n) in enumerate(zip(i, x.shape))
            ]
            return x(*at)

        return te.compute(shape, element, name="broadcast")

    return ctx.emit_te(compute, value, list(wanted.values()), name="broadcast")


def _value(size: Element) -> int | None:
    return int(size) if isinstance(size, tirx.IntImm) else None


def _has_dims(value: relax.Expr) -> bool:
    return isinstance(value.ty, relax.TensorType) and isinstance(value.ty.shape, relax.ShapeExpr)


def _cast(
    ctx: NodeContext, value: relax.Expr | None, others: list[relax.Expr]
) -> relax.Expr | None:
    if value is None or not _has_dims(value):
        return value
    shape, wanted = dims(value), {}
    for axis, dim in enumerate(shape):
        from_right = len(shape) - axis
        for other in others:
            theirs = dims(other)
            if from_right <= len(theirs) and _bounds(dim, theirs[-from_right]):
                wanted[axis] = theirs[-from_right]
    return with_sizes(ctx, value, wanted)


def _bounds(dim: Element, other: Element) -> bool:
    """Whether `dim` is `min(other, n)` with n > 1: if they differ, neither can be 1."""
    if not isinstance(dim, tirx.Min):
        return False
    return any(
        _same(free, other) and _is_large(limit) for free, limit in ((dim.a, dim.b), (dim.b, dim.a))
    )


def _is_large(limit: Element) -> bool:
    return isinstance(limit, tirx.IntImm) and int(limit) > 1


def _same(a: Element, b: Element) -> bool:
    return not isinstance(b, tirx.IntImm) and bool(a.same_as(b))
