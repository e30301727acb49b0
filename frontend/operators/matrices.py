"""Det and Trilu, and TensorScatter, which writes slices of a cache."""

# TVMScript's annotations are values, which mypy cannot read.
# mypy: disable-error-code="valid-type, no-untyped-def"

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx
from tvm.script import tirx as T

from relaxc.frontend.operators.base import Converter, NodeContext, dims, dtype
from relaxc.frontend.operators.vectors import as_vector, product


def det(ctx: NodeContext) -> relax.Expr:
    """Det, by elimination with pivots."""
    x = ctx.input(0)
    *outer, size, _ = dims(x)
    count, kind = product(outer), dtype(x)
    flat = ctx.bb.emit(relax.op.reshape(x, relax.ShapeExpr([count, size, size])))
    gvar = ctx.bb.add_func(_eliminate(count, size, kind), "det")
    done = ctx.bb.emit(relax.call_tir(gvar, [flat], relax.TensorType([count], kind)))
    return relax.op.reshape(done, relax.ShapeExpr(outer))


def _eliminate(count: Any, size: Any, kind: str) -> tirx.PrimFunc:
    @T.prim_func(private=True)
    def eliminate(x: T.Buffer((count, size, size), kind), y: T.Buffer((count,), kind)):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        a = T.alloc_buffer((size, size), kind)
        pivot = T.alloc_buffer((1,), "int64")
        moved = T.alloc_buffer((1,), kind)
        for n in range(count):
            y[n] = T.Cast(kind, 1)
            for i in range(size):
                for j in range(size):
                    a[i, j] = x[n, i, j]
            for k in range(size):
                pivot[0] = T.Cast("int64", k)
                for i in range(size - k):
                    if T.abs(a[k + i, k]) > T.abs(a[pivot[0], k]):
                        pivot[0] = T.Cast("int64", k + i)
                if pivot[0] != T.Cast("int64", k):
                    y[n] = T.Cast(kind, 0) - y[n]
                    for j in range(size):
                        moved[0] = a[k, j]
                        a[k, j] = a[pivot[0], j]
                        a[pivot[0], j] = moved[0]
                y[n] = y[n] * a[k, k]
                if a[k, k] != T.Cast(kind, 0):
                    for i in range(size - k - 1):
                        moved[0] = a[k + 1 + i, k] / a[k, k]
                        for j in range(size):
                            a[k + 1 + i, j] = a[k + 1 + i, j] - moved[0] * a[k, j]

    return eliminate


def trilu(ctx: NodeContext) -> relax.Expr:
    """Trilu of any diagonal; what is cut is 0."""
    is_upper = bool(ctx.attrs.get("upper", 1))
    diagonal = [as_vector(ctx, 1)] if ctx.has(1) else []

    def compute(x: te.Tensor, *diagonal: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> Any:
            shift = diagonal[0](0) if diagonal else tirx.IntImm("int64", 0)
            kept = i[-1] - i[-2] >= shift if is_upper else i[-1] - i[-2] <= shift
            return tirx.Select(kept, x(*i), tirx.const(0, str(x.dtype)))

        return te.compute(x.shape, element, name="trilu")

    return ctx.emit_te(compute, ctx.input(0), *diagonal)


def tensor_scatter(ctx: NodeContext) -> relax.Expr:
    """TensorScatter: a cache with new positions written into it, linear or around its end."""
    past, update = ctx.input(0), ctx.input(1)
    axis = int(ctx.attrs.get("axis", -2)) % len(dims(past))
    is_circular = ctx.text("mode", "linear") == "circular"
    starts = [as_vector(ctx, 2)] if ctx.has(2) else []

    def compute(past: te.Tensor, update: te.Tensor, *starts: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> Any:
            start = starts[0](i[0]) if starts else tirx.IntImm("int64", 0)
            at = i[axis] - start
            if is_circular:
                at = tirx.floormod(at, past.shape[axis])
            written = tirx.all(at >= 0, at < update.shape[axis])
            new = update(*i[:axis], at, *i[axis + 1 :])
            return tirx.if_then_else(written, new, past(*i))

        return te.compute(past.shape, element, name="tensor_scatter")

    return ctx.emit_te(compute, past, update, *starts)


CONVERTERS: dict[str, Converter] = {
    "Det": det,
    "TensorScatter": tensor_scatter,
    "Trilu": trilu,
}
