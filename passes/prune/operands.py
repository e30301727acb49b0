"""The tensors that a call takes, in one flat list, and the call with others in their place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax, tirx


def tensor_operands(call: relax.Call) -> list[relax.Expr]:
    """Tensors among the arguments; those in tuples count one by one."""
    flat: list[relax.Expr] = []
    for arg in call.args:
        flat.extend(arg.fields if isinstance(arg, relax.Tuple) else [arg])
    return [a for a in flat if isinstance(a.ty, relax.TensorType)]


def with_operands(call: relax.Call, operands: Sequence[relax.Expr]) -> list[relax.Expr]:
    """The arguments of a call with other tensors, in the order of `tensor_operands`."""
    waiting = iter(operands)

    def replace(arg: relax.Expr) -> relax.Expr:
        return next(waiting) if isinstance(arg.ty, relax.TensorType) else arg

    return [
        relax.Tuple([replace(f) for f in a.fields]) if isinstance(a, relax.Tuple) else replace(a)
        for a in call.args
    ]


def shape_of(expr: relax.Expr) -> list[Any]:
    """Dimensions of a tensor; nothing where they are unknown."""
    shape = getattr(expr.ty, "shape", None)
    return list(shape.values) if isinstance(shape, relax.ShapeExpr) else []


def static_dim(dim: object) -> int | None:
    """A dimension as a number, if it is one."""
    return int(dim) if isinstance(dim, tirx.IntImm | int) else None


def prims(arg: relax.Expr) -> list[int] | None:
    """Numbers of a tuple argument; None unless all are known."""
    numbers = [static_dim(field) for field in getattr(arg, "fields", [None])]
    return None if None in numbers else [n for n in numbers if n is not None]
