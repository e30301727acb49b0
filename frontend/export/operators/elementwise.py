"""Operators that look at one element at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from onnx import helper

from relaxc.frontend.export.site import CannotExport, Site, Translator, dtype_of


def _plain(op_type: str) -> Translator:
    """The same operator on the same tensors."""

    def translate(site: Site) -> list[str]:
        return [site.emit(op_type, *(site.input(i) for i in range(len(site.call.args))))]

    return translate


def _negated(op_type: str) -> Translator:
    def translate(site: Site) -> list[str]:
        return [site.emit("Not", site.emit(op_type, site.input(0), site.input(1)))]

    return translate


def _of_x(formula: Callable[[Site, str], str]) -> Translator:
    """A formula of several nodes on one tensor."""
    return lambda site: [formula(site, site.input(0))]


def _number(site: Site, value: float) -> str:
    return site.scalar(value, dtype_of(site.call), "number")


def _rsqrt(site: Site, x: str) -> str:
    return site.emit("Reciprocal", site.emit("Sqrt", x))


def _silu(site: Site, x: str) -> str:
    return site.emit("Mul", x, site.emit("Sigmoid", x))


def _gelu(site: Site, x: str) -> str:
    erf = site.emit("Erf", site.emit("Mul", x, _number(site, math.sqrt(0.5))))
    half = site.emit("Mul", x, _number(site, 0.5))
    return site.emit("Mul", half, site.emit("Add", erf, _number(site, 1.0)))


def _gelu_tanh(site: Site, x: str) -> str:
    cube = site.emit("Mul", site.emit("Mul", x, x), x)
    inner = site.emit("Add", x, site.emit("Mul", cube, _number(site, 0.044715)))
    tanh = site.emit("Tanh", site.emit("Mul", inner, _number(site, math.sqrt(2 / math.pi))))
    half = site.emit("Mul", x, _number(site, 0.5))
    return site.emit("Mul", half, site.emit("Add", tanh, _number(site, 1.0)))


def _isfinite(site: Site, x: str) -> str:
    return site.emit("Not", site.emit("Or", site.emit("IsNaN", x), site.emit("IsInf", x)))


def _leaky_relu(site: Site) -> list[str]:
    return [site.emit("LeakyRelu", site.input(0), alpha=float(site.attrs.alpha))]


def _clip(site: Site) -> list[str]:
    dtype = dtype_of(site.call)
    bounds = []
    for bound, role in zip(site.call.args[1:], ("min", "max"), strict=True):
        number = np.array(bound.value, np.float64)
        if np.issubdtype(np.dtype(dtype), np.integer):
            info = np.iinfo(dtype)
            number = np.clip(number, info.min, info.max)
        bounds.append(site.scalar(number.item(), dtype, role))
    return [site.emit("Clip", site.input(0), *bounds)]


def _cast(site: Site) -> list[str]:
    to = helper.np_dtype_to_tensor_dtype(np.dtype(dtype_of(site.call)))
    return [site.emit("Cast", site.input(0), to=to)]


def _divide(site: Site) -> list[str]:
    """True division of floats; that of integers is not ONNX's for negative ones."""
    if not dtype_of(site.call).startswith(("float", "uint")):
        raise CannotExport("it divides integers")
    return _plain("Div")(site)


_SAME = {
    **{name: name.capitalize() for name in ("abs", "ceil", "cos", "erf", "exp", "floor", "log")},
    **{name: name.capitalize() for name in ("sigmoid", "sign", "sin", "sqrt", "tan", "tanh")},
    **{name: name.capitalize() for name in ("acos", "acosh", "asin", "asinh", "atan", "atanh")},
    **{"cosh": "Cosh", "sinh": "Sinh", "round": "Round", "negative": "Neg", "nn.relu": "Relu"},
    **{"logical_not": "Not", "bitwise_not": "BitwiseNot", "isnan": "IsNaN", "isinf": "IsInf"},
    **{"add": "Add", "subtract": "Sub", "multiply": "Mul", "power": "Pow"},
    **{"maximum": "Max", "minimum": "Min", "equal": "Equal", "less": "Less", "greater": "Greater"},
    **{"less_equal": "LessOrEqual", "greater_equal": "GreaterOrEqual", "where": "Where"},
    **{"logical_and": "And", "logical_or": "Or", "logical_xor": "Xor"},
    **{"bitwise_and": "BitwiseAnd", "bitwise_or": "BitwiseOr", "bitwise_xor": "BitwiseXor"},
}

TRANSLATORS: dict[str, Translator] = {
    **{name: _plain(op_type) for name, op_type in _SAME.items()},
    "not_equal": _negated("Equal"),
    "divide": _divide,
    "rsqrt": _of_x(_rsqrt),
    "square": _of_x(lambda site, x: site.emit("Mul", x, x)),
    "isfinite": _of_x(_isfinite),
    "nn.silu": _of_x(_silu),
    "nn.gelu": _of_x(_gelu),
    "nn.gelu_tanh": _of_x(_gelu_tanh),
    "nn.leakyrelu": _leaky_relu,
    "clip": _clip,
    "astype": _cast,
}
