"""Evaluate the expressions of symbolic dimensions that manifests hold, and nothing else."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping

_OPERATORS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_CALLS: dict[str, Callable[[int, int], int]] = {"min": min, "max": max}


def evaluate(expression: int | str | None, symbols: Mapping[str, int]) -> int | None:
    """The value of an expression such as `2 * (n * 384)`.

    Args:
        expression: a number, text in Python's syntax, or None.
        symbols: sizes of dimensions.

    Returns:
        None where the expression is None, uses an unknown symbol, or is no such expression.
    """
    if expression is None or isinstance(expression, int):
        return expression
    try:
        return _value(ast.parse(expression, mode="eval").body, symbols)
    except (SyntaxError, KeyError, ValueError, ZeroDivisionError, RecursionError):
        return None


def _value(node: ast.expr, symbols: Mapping[str, int]) -> int:
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.Name(id=name):
            return symbols[name]
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_value(left, symbols), _value(right, symbols))
        case ast.Call(func=ast.Name(id=name), args=[left, right], keywords=[]):
            return _CALLS[name](_value(left, symbols), _value(right, symbols))
    raise ValueError("not an expression of dimensions")
