"""Small integer vectors computed when the model runs: shapes, positions, counts."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax, te, tirx

from relaxc.frontend.operators.base import NodeContext, dims, runtime_sizes
from relaxc.frontend.shape_values import Element


def vector(elements: Sequence[Any]) -> te.Tensor:
    """A loop nest's result of a few int64 elements, each given as an expression."""

    def element(i: Any) -> Any:
        result: Any = tirx.IntImm("int64", 0)
        for k, value in enumerate(elements):
            result = tirx.Select(i == k, _wide(value), result)
        return result

    return te.compute((len(elements),), element, name="vector")


def _wide(value: Any) -> Any:
    return tirx.IntImm("int64", value) if isinstance(value, int) else value.astype("int64")


def runtime_vector(
    ctx: NodeContext, func: Callable[..., Sequence[Any]], *args: Any, name: str
) -> relax.Expr:
    """An int64 vector; `func` gets tensors as TE tensors, dimensions as expressions."""
    return ctx.emit_te(lambda *a: vector(func(*a)), *args, name=name)


def runtime_shape(
    ctx: NodeContext, func: Callable[..., Sequence[Any]], *args: Any, name: str = "shape"
) -> list[Element]:
    """Like `runtime_vector`, bound to fresh symbols; the elements must not be negative."""
    return runtime_sizes(ctx.bb, runtime_vector(ctx, func, *args, name=name))


def forbidden(
    ctx: NodeContext, data: relax.Expr, func: Callable[..., Any], *args: Any, name: str
) -> relax.Expr:
    """The data, after a check that fails when the model runs and `func(*args)` is true."""
    shape = dims(data)
    if not shape:
        raise ValueError(f"a scalar is not supported where `{name}` must be checked")

    def as_number(*args: Any) -> list[Any]:
        one, zero = tirx.IntImm("int64", 1), tirx.IntImm("int64", 0)
        return [tirx.Select(func(*args), one, zero)]

    (amount,) = runtime_shape(ctx, as_number, *args, name=name)
    # The first dimension equals this only where the amount is 0.
    pattern = [tirx.Add(shape[0], amount), *shape[1:]]
    return ctx.bb.match_cast(data, relax.TensorType(pattern, str(data.ty.dtype.dtype)))


def as_vector(ctx: NodeContext, index: int) -> relax.Expr:
    """An integer input as an int64 vector, known or not; a scalar becomes one element."""
    value = ctx.input(index)
    if str(value.ty.dtype.dtype) != "int64":
        value = ctx.bb.emit(relax.op.astype(value, "int64"))
    shape = dims(value)
    return value if len(shape) == 1 else ctx.bb.emit(relax.op.reshape(value, [1]))


def length(value: relax.Expr) -> int:
    """The number of elements of a vector, which must be known.

    Raises:
        ValueError: it is not.
    """
    (size,) = dims(value)
    if not isinstance(size, tirx.IntImm):
        raise ValueError("a vector of axes, sizes or positions must have a known length")
    return int(size)


def chosen(index: Any, items: Sequence[Any], default: Any) -> Any:
    """`items[index]` for an index that only the run knows."""
    result = default
    for k, item in enumerate(items):
        result = tirx.Select(index == k, _wide(item), result)
    return result


def wrapped(position: Any, size: Any) -> Any:
    """A position counted from the end when it is negative."""
    return tirx.Select(position < 0, position + size, position)


def product(factors: Sequence[Any]) -> Any:
    """The product of sizes, which may be symbolic."""
    return functools.reduce(operator.mul, factors, tirx.IntImm("int64", 1))


def axis_parts(
    ctx: NodeContext, axis: int | relax.Expr, shape: Sequence[Any], rank: int
) -> tuple[Any, Any, Any]:
    """The numbers of elements before, along and after an axis.

    Args:
        ctx: the node.
        axis: the axis, counted from the front; or a vector of one, computed by the model.
        shape: the dimensions.
        rank: what a negative axis is counted from.
    """
    if isinstance(axis, int):
        return product(shape[:axis]), shape[axis], product(shape[axis + 1 :])

    def parts(axis: Any, old: list[Any]) -> list[Any]:
        one = tirx.IntImm("int64", 1)
        at = wrapped(axis[0], rank)
        return [
            product([tirx.Select(at > i, d, one) for i, d in enumerate(old)]),
            product([tirx.Select(at == i, d, one) for i, d in enumerate(old)]),
            product([tirx.Select(at < i, d, one) for i, d in enumerate(old)]),
        ]

    outer, size, inner = runtime_shape(ctx, parts, axis, list(shape), name="axis_parts")
    return outer, size, inner


def prefix(ctx: NodeContext, data: relax.Expr, axis: int, start: Any, size: Any) -> relax.Expr:
    """`size` elements of an axis from `start` on; both may be symbolic."""

    def compute(x: te.Tensor, start: Any, size: Any) -> te.Tensor:
        shape = [*list(x.shape)[:axis], size, *list(x.shape)[axis + 1 :]]
        return te.compute(
            shape, lambda *i: x(*i[:axis], i[axis] + start, *i[axis + 1 :]), name="prefix"
        )

    return ctx.emit_te(compute, data, start, size, name="prefix")
