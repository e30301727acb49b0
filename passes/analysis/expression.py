"""Integer expressions of symbolic dimensions as text, for whoever learns the sizes later."""

from __future__ import annotations

from tvm import tirx
from tvm.sym import Analyzer

_SIGNS: dict[type, str] = {
    tirx.Add: "+",
    tirx.Sub: "-",
    tirx.Mul: "*",
    tirx.FloorDiv: "//",
    tirx.FloorMod: "%",
}
_CALLS: dict[type, str] = {tirx.Min: "min", tirx.Max: "max"}


def as_text(expr: tirx.PrimExpr | int) -> int | str | None:
    """Write an expression in Python's syntax: `2 * (n * 384)`.

    Returns:
        A number where there are no symbols, and None for operators other than + - * // % min max.
    """
    if isinstance(expr, int):
        return expr
    expr = Analyzer().simplify(expr)
    return int(expr) if isinstance(expr, tirx.IntImm) else _text(expr)


def _text(expr: tirx.PrimExpr) -> str | None:
    if isinstance(expr, tirx.IntImm):
        return str(int(expr))
    if isinstance(expr, tirx.Var):
        return str(expr.name)
    kind = type(expr)
    if kind not in _SIGNS and kind not in _CALLS:
        return None
    left, right = _text(expr.a), _text(expr.b)
    if left is None or right is None:
        return None
    return (
        f"({left} {_SIGNS[kind]} {right})" if kind in _SIGNS else f"{_CALLS[kind]}({left}, {right})"
    )
