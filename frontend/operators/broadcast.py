"""Broadcasting between dimensions that are equal for every input the model accepts.

A slice `table[:seq]` of 512 positions has `min(seq, 512)` of them, and is then added to `seq`
tokens. ONNX accepts that only where both numbers are equal, but TVM wants it proved; so the
equality is assumed here and checked when the model runs.
"""

from __future__ import annotations

import dataclasses

from tvm import relax, tirx

from relaxc.frontend.operators.base import NodeContext, dims
from relaxc.frontend.shape_values import Element

BROADCASTING = frozenset(
    {"Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater"}
    | {"GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or"}
    | {"Pow", "PRelu", "Sub", "Sum", "Where", "Xor"}
)


def with_equal_dimensions(ctx: NodeContext) -> NodeContext:
    """The context with each input cast, with a check, to the dimensions of the others."""
    tensors = [x for x in ctx.inputs if x is not None and _has_dims(x)]
    return dataclasses.replace(ctx, inputs=[_cast(ctx, x, tensors) for x in ctx.inputs])


def _has_dims(value: relax.Expr) -> bool:
    return isinstance(value.ty, relax.TensorType) and isinstance(value.ty.shape, relax.ShapeExpr)


def _cast(
    ctx: NodeContext, value: relax.Expr | None, others: list[relax.Expr]
) -> relax.Expr | None:
    if value is None or not _has_dims(value):
        return value
    shape = dims(value)
    wanted = list(shape)
    for axis, dim in enumerate(shape):
        from_right = len(shape) - axis
        for other in others:
            theirs = dims(other)
            if from_right <= len(theirs) and _bounds(dim, theirs[-from_right]):
                wanted[axis] = theirs[-from_right]
    if all(a is b for a, b in zip(shape, wanted)):
        return value
    # CanonicalizeBindings (TVM 0.27) takes a bare variable in a cast for its definition and
    # recurs without end on `n := min(n, 512)`; an expression it leaves alone.
    zero = tirx.IntImm("int64", 0)
    pattern = [a if a is b else tirx.Add(b, zero) for a, b in zip(shape, wanted)]
    return ctx.bb.match_cast(value, relax.TensorType(pattern, value.ty.dtype.dtype))


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
