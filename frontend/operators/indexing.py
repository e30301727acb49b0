"""Gather and Scatter: negative indices count from the end, others are checked.

An index outside of its axis would read or write foreign memory. Constant indices are checked at
compile time; others by a small loop nest of their own, whose assertion becomes a clean error of the
model when it runs.
"""

# TVMScript's annotations are values, which mypy cannot read.
# mypy: disable-error-code="valid-type, no-untyped-def"

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax, te, tirx
from tvm.ir import GenericConst
from tvm.script import tirx as T

from relaxc.frontend.operators.base import Converter, NodeContext, constant, dims, dtype
from relaxc.frontend.shape_values import Element
from relaxc.layout import CHECKS_INDICES


def gather(ctx: NodeContext) -> relax.Expr:
    """Gather slices along an axis."""
    data, shape = ctx.input(0), dims(ctx.input(0))
    axis = int(ctx.attrs.get("axis", 0))
    axis += len(shape) if axis < 0 else 0
    indices = valid_indices(ctx, ctx.input(1), [shape[axis]], axis)
    return relax.op.take(data, indices, axis, mode="clip")


def gather_elements(ctx: NodeContext) -> relax.Expr:
    """GatherElements along an axis."""
    data, shape = ctx.input(0), dims(ctx.input(0))
    axis = int(ctx.attrs.get("axis", 0))
    axis += len(shape) if axis < 0 else 0
    indices = valid_indices(ctx, ctx.input(1), [shape[axis]], axis)

    def compute(x: te.Tensor, at: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> Any:
            return x(*i[:axis], at(*i), *i[axis + 1 :])

        return te.compute(at.shape, element, name="gather_elements")

    return ctx.emit_te(compute, data, indices)


def gather_nd(ctx: NodeContext) -> relax.Expr:
    """GatherND with batch dimensions."""
    data, batch = ctx.input(0), int(ctx.attrs.get("batch_dims", 0))
    shape, positions = dims(data), dims(ctx.input(1))
    if not isinstance(positions[-1], tirx.IntImm):
        raise ValueError("the last dimension of the indices must be known")
    depth = int(positions[-1])
    indices = valid_indices(ctx, ctx.input(1), shape[batch : batch + depth], batch)
    outer = len(positions) - 1

    def compute(x: te.Tensor, at: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> Any:
            where = [at(*i[:outer], k) for k in range(depth)]
            return x(*i[:batch], *where, *i[outer:])

        result = [*list(at.shape)[:-1], *list(x.shape)[batch + depth :]]
        return te.compute(result, element, name="gather_nd")

    return ctx.emit_te(compute, data, indices)


def valid_indices(
    ctx: NodeContext, indices: relax.Expr, limits: Sequence[Element], axis: int
) -> relax.Expr:
    """Indices as non-negative int64.

    Args:
        ctx: the node that indexes.
        indices: integers of any shape.
        limits: the dimensions indexed: one for all, or one per position in the last dimension.
        axis: the first axis indexed, for the message.

    Raises:
        ValueError: a constant index lies outside; others raise an error when the model runs.
    """
    if isinstance(indices, GenericConst) and all(isinstance(n, tirx.IntImm) for n in limits):
        return _checked_constant(indices.value.numpy(), [int(n) for n in limits], axis)
    shape = dims(indices)
    if any(isinstance(n, tirx.IntImm) and int(n) == 0 for n in shape):
        # Nothing to check; and a reshape would take the 0 for "the old dimension".
        return ctx.bb.emit(relax.op.zeros(relax.ShapeExpr(shape), "int64"))
    if dtype(indices) != "int64":
        indices = ctx.bb.emit(relax.op.astype(indices, "int64"))
    period = len(limits)
    total = functools.reduce(operator.mul, shape, tirx.IntImm("int64", 1))
    count = tirx.floordiv(total, tirx.IntImm("int64", max(period, 1)))
    flat = ctx.bb.emit(relax.op.reshape(indices, relax.ShapeExpr([count, period])))
    sizes = _vector(ctx, limits)
    func = _check(count, period, f"an index is out of range of axis {axis}{_of(limits)}")
    gvar = ctx.bb.add_func(func, "check_indices")
    result = relax.TensorType([count, period], "int64")
    checked = ctx.bb.emit(relax.call_tir(gvar, [flat, sizes], result))
    return ctx.bb.emit(relax.op.reshape(checked, relax.ShapeExpr(shape)))


def _of(limits: Sequence[Element]) -> str:
    if len(limits) == 1 and isinstance(limits[0], tirx.IntImm):
        return f", which has {int(limits[0])} elements"
    return ""


def _vector(ctx: NodeContext, elements: Sequence[Element]) -> relax.Expr:
    if all(isinstance(e, tirx.IntImm) for e in elements):
        return constant(np.array([int(e) for e in elements], np.int64))
    return ctx.bb.emit(relax.op.shape_to_tensor(relax.ShapeExpr(list(elements))))


def _checked_constant(array: np.ndarray, limits: list[int], axis: int) -> relax.Expr:
    # A single limit is a number, lest an index of no dimensions should gain one.
    sizes = np.array(limits[0] if len(limits) == 1 else limits, np.int64)
    wide = array.astype(np.int64)
    if array.size and ((wide < -sizes) | (wide >= sizes)).any():
        raise ValueError(f"an index is out of range of axis {axis}, which has {limits[0]} elements")
    return constant(np.where(wide < 0, wide + sizes, wide))


def _check(count: Any, period: int, message: str) -> tirx.PrimFunc:
    """Wrap negative indices around, and stop at the first that lies outside."""
    if not isinstance(count, tirx.IntImm):
        # A dimension of its own: the symbols of an expression are no arguments of the loops.
        count = tirx.Var("count", "int64")

    @T.prim_func(private=True)
    def check(
        indices: T.Buffer((count, period), "int64"),
        sizes: T.Buffer((period,), "int64"),
        valid: T.Buffer((count, period), "int64"),
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        for i in range(count):
            for k in range(period):
                assert -sizes[k] <= indices[i, k] and indices[i, k] < sizes[k], message
                valid[i, k] = indices[i, k] + T.Select(
                    indices[i, k] < T.int64(0), sizes[k], T.int64(0)
                )

    # GPUs do the same in code of their own.
    return check.with_attr(CHECKS_INDICES, message)


def scatter_elements(ctx: NodeContext) -> relax.Expr:
    """ScatterElements; its indices may cover a part of the data only, along every axis.

    TVM's operator of that name takes them to have the data's shape along the other axes, and writes
    elsewhere if they do not. So every index becomes a full position, as ScatterND has them.
    """
    data, shape = ctx.input(0), dims(ctx.input(0))
    if _is_empty(dims(ctx.input(1))):
        return data
    axis = int(ctx.attrs.get("axis", 0))
    axis += len(shape) if axis < 0 else 0
    indices = valid_indices(ctx, ctx.input(1), [shape[axis]], axis)

    def positions(at: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> Any:
            result = at(*i[:-1])
            for k, place in enumerate(i[:-1]):
                result = tirx.Select(i[-1] == k, place, result) if k != axis else result
            return result

        return te.compute([*at.shape, len(shape)], element, name="positions")

    where = ctx.emit_te(positions, indices, name="positions")
    return relax.op.scatter_nd(data, where, ctx.input(2), _reduction(ctx))


def scatter_nd(ctx: NodeContext) -> relax.Expr:
    """ScatterND: slices written to positions, in order."""
    data, places = ctx.input(0), dims(ctx.input(1))
    if _is_empty(places[:-1]):
        return data
    if not isinstance(places[-1], tirx.IntImm):
        raise ValueError("the last dimension of the indices must be known")
    indices = valid_indices(ctx, ctx.input(1), dims(data)[: int(places[-1])], 0)
    return relax.op.scatter_nd(data, indices, ctx.input(2), _reduction(ctx))


def _is_empty(shape: Sequence[Element]) -> bool:
    """Whether there is nothing to write, where TVM would divide by zero."""
    return any(isinstance(d, tirx.IntImm) and int(d) == 0 for d in shape)


def _reduction(ctx: NodeContext) -> str:
    name = ctx.text("reduction", "none")
    return "update" if name == "none" else name


CONVERTERS: dict[str, Converter] = {
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
}
