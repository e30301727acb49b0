"""Reductions, over axes that may be computed when the model runs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from relaxc.frontend.operators.base import (
    Converter,
    NodeContext,
    constant,
    dims,
    dtype,
    runtime_sizes,
)
from relaxc.frontend.operators.vectors import product, vector, wrapped
from relaxc.frontend.shape_values import Element

Unary = Callable[[relax.Expr], relax.Expr]


def _reduction(kind: str, before: Unary | None = None, after: Unary | None = None) -> Converter:
    """A converter: map every element, reduce by sum, mean, max, min or prod, map the results."""

    def convert(ctx: NodeContext) -> relax.Expr:
        data = ctx.input(0)
        given = dtype(data)
        axes = _axes(ctx)
        if after is not None and "int" in given:
            return _through_double(ctx, kind, before, after)
        if given == "bool" and axes != []:
            data = ctx.bb.emit(relax.op.astype(data, "int8"))
        if axes == []:
            return (
                ctx.input(0) if before is None and after is None else _map(ctx, data, before, after)
            )
        data = _emit(ctx, before, data)
        keep = _keeps_axes(ctx)
        if axes is None:
            reduced = _over_runtime_axes(ctx, data, kind, keep)
        else:
            reduced = _over(ctx, data, kind, axes, keep)
        if given == "bool":
            # The maximum of nothing is int8's smallest number, which stands for False.
            reduced = ctx.bb.emit(relax.op.greater(reduced, constant(np.zeros((), np.int8))))
        return after(ctx.bb.normalize(reduced)) if after else reduced

    return convert


def _keeps_axes(ctx: NodeContext) -> bool:
    given = int(ctx.attrs.get("keepdims", 1))
    if given not in (0, 1):  # which runtimes read differently
        raise ValueError(f"`keepdims` is 0 or 1, not {given}")
    return bool(given)


def _through_double(ctx: NodeContext, kind: str, before: Unary | None, after: Unary) -> relax.Expr:
    """A root or a logarithm of integers: in double precision, then rounded toward zero."""
    exact = ctx.bb.emit(_reduction(kind, before)(ctx))
    wide = ctx.bb.emit(relax.op.astype(exact, "float64"))
    return relax.op.astype(ctx.bb.emit(after(wide)), dtype(ctx.input(0)))


def _emit(ctx: NodeContext, func: Unary | None, data: relax.Expr) -> relax.Expr:
    return data if func is None else ctx.bb.emit(func(data))


def _map(
    ctx: NodeContext, data: relax.Expr, before: Unary | None, after: Unary | None
) -> relax.Expr:
    data = _emit(ctx, before, data)
    return after(data) if after else data


def _axes(ctx: NodeContext) -> list[int] | None:
    """The axes reduced; [] means nothing is to do; None that only the run will tell."""
    rank = len(dims(ctx.input(0)))
    listed = ctx.static(1) if ctx.has(1) else ctx.attrs.get("axes")
    if ctx.has(1) and listed is None and dims(ctx.input(1))[0] != 0:
        return None
    if not listed:
        return [] if ctx.attrs.get("noop_with_empty_axes", 0) else list(range(rank)) or []
    for axis in listed:
        if not -rank <= axis < rank:
            raise ValueError(f"axis {axis} is out of range for {rank} dimensions")
    return sorted({int(a) % rank for a in listed})


_OPS: dict[str, Callable[..., relax.Expr]] = {
    "sum": relax.op.sum,
    "mean": relax.op.mean,
    "max": relax.op.max,
    "min": relax.op.min,
    "prod": relax.op.prod,
}


def _over(ctx: NodeContext, data: relax.Expr, kind: str, axes: list[int], keep: bool) -> relax.Expr:
    shape = dims(data)
    if any(isinstance(shape[a], tirx.IntImm) and int(shape[a]) == 0 for a in axes):
        one = tirx.IntImm("int64", 1)
        left = [one if a in axes else d for a, d in enumerate(shape) if keep or a not in axes]
        value = constant(np.array(_identity(kind, dtype(data)), dtype(data)))
        return relax.op.broadcast_to(value, relax.ShapeExpr(left))
    if kind == "mean" and "int" in dtype(data):
        total = ctx.bb.emit(relax.op.sum(data, axes, keep))
        count = product([shape[a] for a in axes])

        def share(x: te.Tensor, count: Any) -> te.Tensor:
            by = tirx.max(count, tirx.IntImm("int64", 1)).astype(str(x.dtype))
            # Toward zero, as everywhere else.
            return te.compute(x.shape, lambda *i: tirx.truncdiv(x(*i), by), name="mean")

        return ctx.emit_te(share, total, count, name="mean")
    return _OPS[kind](data, axes, keep)


def _identity(kind: str, name: str) -> Any:
    is_float = "float" in name
    limits = None if is_float else np.iinfo(name)
    return {
        "sum": 0,
        "mean": np.nan if is_float else 0,
        "prod": 1,
        "max": -np.inf if limits is None else limits.min,
        "min": np.inf if limits is None else limits.max,
    }[kind]


def _over_runtime_axes(ctx: NodeContext, data: relax.Expr, kind: str, keep: bool) -> relax.Expr:
    """Every dimension is either kept or reduced as a whole: the run decides by its extents."""
    shape, axes = dims(data), ctx.input(1)
    rank, count = len(shape), dims(axes)[0]
    if not isinstance(count, tirx.IntImm):
        raise ValueError("the number of axes is not known at compile time")
    is_noop = not int(count) and bool(ctx.attrs.get("noop_with_empty_axes", 0))

    def extents(listed: te.Tensor, *old: Any) -> te.Tensor:
        def is_reduced(i: int) -> Any:
            if not int(count):
                return tirx.const(not is_noop, "bool")
            hits = [wrapped(listed[k], rank) == i for k in range(int(count))]
            return functools.reduce(tirx.any, hits)

        kept = [tirx.Select(is_reduced(i), tirx.IntImm("int64", 1), d) for i, d in enumerate(old)]
        folded = [tirx.Select(is_reduced(i), d, tirx.IntImm("int64", 1)) for i, d in enumerate(old)]
        squeezed: list[Any] = []
        for j in range(rank - int(count)):
            dim: Any = tirx.IntImm("int64", 0)
            for i, size in enumerate(old):
                before = sum(
                    (tirx.Select(is_reduced(p), 0, 1) for p in range(i)), tirx.IntImm("int32", 0)
                )
                here = tirx.all(tirx.Not(is_reduced(i)), before == j)
                dim = tirx.Select(here, size, dim)
            squeezed.append(dim)
        return vector([*kept, *folded, *squeezed])

    found = runtime_sizes(ctx.bb, ctx.emit_te(extents, axes, *shape, name="reduced_shape"))
    kept, folded, squeezed = found[:rank], found[rank : 2 * rank], found[2 * rank :]

    given = dtype(data)

    def compute(x: te.Tensor, left: list[Any], extents: list[Any]) -> te.Tensor:
        # A loop of no steps would leave the result uninitialized: run once, over the identity.
        loops = [te.reduce_axis((0, tirx.max(n, 1)), name=f"r{i}") for i, n in enumerate(extents)]
        is_empty = functools.reduce(tirx.any, [n == 0 for n in extents])
        identity = tirx.const(_identity("sum" if kind == "mean" else kind, given), given)

        def element(*i: Any) -> Any:
            value = x(*(a + r.var for a, r in zip(i, loops)))
            return tirx.if_then_else(is_empty, identity, value)

        join = {
            "max": te.comm_reducer(lambda a, b: tirx.max(a, b), lambda _t: identity, name="max"),
            "min": te.comm_reducer(lambda a, b: tirx.min(a, b), lambda _t: identity, name="min"),
            "prod": te.comm_reducer(lambda a, b: a * b, lambda _t: identity, name="prod"),
            "sum": te.sum,
            "mean": te.sum,
        }
        return te.compute(
            left, lambda *i: join[kind](element(*i), axis=loops), name=f"reduce_{kind}"
        )

    result = ctx.emit_te(compute, data, kept, folded)
    if kind == "mean":
        sizes = ctx.bb.emit(relax.op.shape_to_tensor(relax.ShapeExpr(list(folded))))
        number = ctx.bb.emit(relax.op.astype(relax.op.prod(sizes), dtype(data)))
        result = ctx.bb.emit(relax.op.divide(result, number))
    return result if keep else relax.op.reshape(result, relax.ShapeExpr(list(squeezed)))


def _log_sum_exp(ctx: NodeContext) -> relax.Expr:
    """ReduceLogSumExp, without overflow: the maximum is taken out first."""
    data, axes = ctx.input(0), _axes(ctx)
    if "int" in dtype(data):
        return _log_sum_exp_of_integers(ctx)
    if axes == []:  # the logarithm of an exponential
        return data
    if any(not _is_positive(dims(data)[a]) for a in axes or ()):
        return _reduction("sum", relax.op.exp, relax.op.log)(ctx)
    if axes is None:
        return _log_sum_exp_of_runtime_axes(ctx)
    top = ctx.bb.emit(relax.op.max(data, axes, True))
    safe = _finite(ctx, top)
    powers = ctx.bb.emit(relax.op.exp(relax.op.subtract(data, safe)))
    keep = _keeps_axes(ctx)
    total = ctx.bb.emit(relax.op.log(relax.op.sum(powers, axes, keep)))
    return relax.op.add(total, safe if keep else relax.op.squeeze(safe, axes))


def _finite(ctx: NodeContext, top: relax.Expr) -> relax.Expr:
    """0 for infinities: they would give NaN when subtracted; their exponentials tell enough."""
    zero = constant(np.zeros((), dtype(top)))
    return ctx.bb.emit(relax.op.where(relax.op.isfinite(top), top, zero))


def _log_sum_exp_of_runtime_axes(ctx: NodeContext) -> relax.Expr:
    bb, data = ctx.bb, ctx.input(0)
    kept = dataclasses.replace(ctx, attrs={**ctx.attrs, "keepdims": 1})
    safe = _finite(ctx, bb.emit(_reduction("max")(kept)))

    def reduced(by: NodeContext, value: relax.Expr) -> relax.Expr:
        inputs = [value, *ctx.inputs[1:]]
        return bb.emit(_reduction("sum")(dataclasses.replace(by, inputs=inputs)))

    def lowered(x: te.Tensor, top: te.Tensor) -> te.Tensor:
        # Its sizes are symbols of their own: those of the data, or 1.
        def element(*i: Any) -> Any:
            return x(*i) - top(*(tirx.min(k, size - 1) for k, size in zip(i, top.shape)))

        return te.compute(x.shape, element, name="lowered")

    def raised(x: te.Tensor, top: te.Tensor) -> te.Tensor:
        return te.compute(x.shape, lambda *i: x(*i) + top(*i), name="raised")

    total = reduced(kept, bb.emit(relax.op.exp(ctx.emit_te(lowered, data, safe))))
    result = ctx.emit_te(raised, bb.emit(relax.op.log(total)), safe)
    # A sum over axes of one element leaves them out.
    return result if _keeps_axes(ctx) else reduced(ctx, result)


def _log_sum_exp_of_integers(ctx: NodeContext) -> relax.Expr:
    """As ONNX Runtime: exponentials are rounded toward zero, so the largest alone count."""
    bb, data, axes = ctx.bb, ctx.input(0), _axes(ctx)
    if axes is None or any(not _is_positive(dims(data)[a]) for a in axes):
        raise ValueError("of integers, the axes must be known and not empty; cast them to floats")
    if not axes:
        return data
    top = bb.emit(relax.op.max(data, axes, True))
    is_top = bb.emit(relax.op.astype(relax.op.equal(data, top), "float64"))
    more = bb.emit(relax.op.log(bb.emit(relax.op.sum(is_top, axes, True))))
    result = bb.emit(relax.op.add(bb.emit(relax.op.astype(top, "float64")), more))
    result = bb.emit(relax.op.astype(result, dtype(data)))
    return result if _keeps_axes(ctx) else relax.op.squeeze(result, axes)


def _is_positive(dim: Element) -> bool:
    return not isinstance(dim, tirx.IntImm) or int(dim) > 0


def _square(x: relax.Expr) -> relax.Expr:
    return relax.op.multiply(x, x)


CONVERTERS: dict[str, Converter] = {
    "ReduceL1": _reduction("sum", relax.op.abs),
    "ReduceL2": _reduction("sum", _square, relax.op.sqrt),
    "ReduceLogSum": _reduction("sum", None, relax.op.log),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": _reduction("max"),
    "ReduceMean": _reduction("mean"),
    "ReduceMin": _reduction("min"),
    "ReduceProd": _reduction("prod"),
    "ReduceSum": _reduction("sum"),
    "ReduceSumSquare": _reduction("sum", _square),
}
