"""Candidates for the next node of a random graph: one function per family of operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from fuzz.graphs import Graph, Value
from onnx import helper

Candidate = Callable[[Graph], bool]

_SMOOTH = [
    "Sigmoid",
    "Tanh",
    "Exp",
    "Erf",
    "Softplus",
    "Softsign",
    "HardSwish",
    "Sin",
    "Cos",
    "Atan",
    "Gelu",
    "Mish",
    "Elu",
    "Selu",
    "Celu",
    "LeakyRelu",
    "HardSigmoid",
    "ThresholdedRelu",
    "Reciprocal",
    "Sqrt",
    "Log",
    "Sinh",
    "Cosh",
    "Asinh",
    "Identity",
    "Relu",
    "Neg",
    "Abs",
]
_JUMPS = ("Floor", "Ceil", "Round", "Sign", "IsNaN", "Shrink")
_EXACT = frozenset({"Identity", "Relu", "Neg", "Abs", "Floor", "Ceil", "Round", "Sign", "IsNaN"})
_NUMBERS = ("float32",) * 6 + ("float16", "float64", "int32", "int64", "uint8", "int8")


def unary(g: Graph) -> bool:
    jumps = g.rng.random() < 0.2
    x = g.pick("f", exact=jumps)
    op = g.rng.choice(_JUMPS if jumps else _SMOOTH)
    return x is not None and g.node(op, x, exact=op in _EXACT)


def unary_other(g: Graph) -> bool:
    x = g.pick("i", "u", "b")
    if x is None:
        return False
    ops = {"b": ("Not",), "i": ("Neg", "Abs", "Sign", "BitwiseNot"), "u": ("BitwiseNot", "Sign")}
    return g.node(g.rng.choice(ops[x.dtype.kind]), x, exact=True)


def cast(g: Graph) -> bool:
    x = g.pick(exact=True)
    to = helper.np_dtype_to_tensor_dtype(np.dtype(g.rng.choice((*_NUMBERS, "bool"))))
    return x is not None and g.node("Cast", x, to=to, exact=True)


def partner(g: Graph, x: Value) -> Value | None:
    """Another operand: a value that happens to fit, or a constant that broadcasts with `x`."""
    if g.rng.random() < 0.4:
        same = [v for v in g.values if v.dtype == x.dtype]
        return g.rng.choice(same)
    shape = [n if x.is_static(a) and g.rng.random() < 0.6 else 1 for a, n in enumerate(x.shape)]
    shape = shape[g.rng.randrange(len(shape) + 1) :]
    if g.rng.random() < 0.1:
        shape = [g.rng.choice((1, 2)), *([1] * (x.rank - len(shape))), *shape]
    array = g.random_array(str(x.dtype), shape)
    if g.rng.random() < 0.3:
        array = np.abs(array) + np.array(1, array.dtype) if array.dtype.kind != "b" else array
    return g.constant(array)


def _pair(g: Graph, *kinds: str, exact: bool = False) -> tuple[Value, Value] | None:
    x = g.pick(*kinds, exact=exact)
    y = None if x is None else partner(g, x)
    if x is None or y is None or (exact and not y.is_exact):
        return None
    return (x, y) if g.rng.random() < 0.7 else (y, x)


def binary(g: Graph) -> bool:
    pair = _pair(g, "f", "i", "u")
    if pair is None:
        return False
    ops = ["Add", "Sub", "Mul", "Max", "Min", "Add", "Mul"]
    if pair[0].is_float:
        ops += ["Div", "Pow", "PRelu", "Sum", "Mean"]
    op = g.rng.choice(ops)
    return g.node(op, *pair, exact=op in ("Add", "Sub", "Max", "Min"))


def division(g: Graph) -> bool:
    """Of integers: by a constant that is not zero."""
    x = g.pick("i", "u")
    if x is None:
        return False
    by = g.constant(
        g.rng.choice([n for n in (-3, -2, 1, 2, 5) if x.dtype.kind == "i" or n > 0]), str(x.dtype)
    )
    return g.node(g.rng.choice(("Div", "Mod")), x, by, exact=True)


def compare(g: Graph) -> bool:
    pair = _pair(g, "f", "i", exact=True)
    ops = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
    return pair is not None and g.node(g.rng.choice(ops), *pair, exact=True)


def logic(g: Graph) -> bool:
    pair = _pair(g, "b")
    return pair is not None and g.node(g.rng.choice(("And", "Or", "Xor", "Equal")), *pair)


def bits(g: Graph) -> bool:
    pair = _pair(g, "i", "u")
    ops = ("BitwiseAnd", "BitwiseOr", "BitwiseXor")
    return pair is not None and g.node(g.rng.choice(ops), *pair, exact=True)


def where(g: Graph) -> bool:
    condition, pair = g.pick("b"), _pair(g, "f", "i")
    return (
        condition is not None and pair is not None and g.node("Where", condition, *pair, exact=True)
    )


def clip(g: Graph) -> bool:
    x = g.pick("f", "i")
    if x is None:
        return False
    low, high = (g.constant(v, str(x.dtype)) if g.rng.random() < 0.8 else None for v in (-1, 2))
    return g.node("Clip", x, low, high, exact=True)


def matmul(g: Graph) -> bool:
    x = g.pick("f")
    if x is None or not x.rank:
        return False
    if g.rng.random() < 0.3:
        y = g.rng.choice([v for v in g.values if v.dtype == x.dtype])
        return g.node("MatMul", x, y)
    depth = x.shape[-1]
    shape = [depth, g.rng.choice((1, 2, 3, 8, 16, 17, 32))]
    roll = g.rng.random()
    if roll < 0.15:
        shape = [depth]
    elif roll < 0.3 and x.rank > 2 and x.is_static(0):
        shape = [x.shape[0], *([1] * (x.rank - 3)), *shape]
    return g.node("MatMul", x, g.constant(g.random_array(str(x.dtype), shape)))


def gemm(g: Graph) -> bool:
    x = g.pick("f", rank=2)
    if x is None:
        return False
    trans_a, trans_b = g.rng.randrange(2), g.rng.randrange(2)
    depth, columns = x.shape[0 if trans_a else 1], g.rng.choice((1, 3, 8, 16, 19))
    shape = [columns, depth] if trans_b else [depth, columns]
    w = g.constant(g.random_array(str(x.dtype), shape))
    bias_shape = g.rng.choice(([columns], [1, columns], [1], []))
    bias = g.constant(g.random_array(str(x.dtype), bias_shape)) if g.rng.random() < 0.7 else None
    # ONNX Runtime forgets `beta` where the sum is over nothing.
    is_scaled = g.rng.random() < 0.3 and depth > 0
    scale: dict[str, Any] = {"alpha": 0.5, "beta": 2.0} if is_scaled else {}
    return g.node("Gemm", x, w, bias, transA=trans_a, transB=trans_b, **scale)


def _window(g: Graph, x: Value) -> dict[str, Any]:
    """Kernel, strides, pads and dilations of a convolution or pool."""
    spatial = x.rank - 2
    attrs: dict[str, Any] = {
        "kernel_shape": [g.rng.choice((1, 2, 3, 3, 5)) for _ in range(spatial)]
    }
    if g.rng.random() < 0.5:
        attrs["strides"] = [g.rng.choice((1, 2, 3)) for _ in range(spatial)]
    roll = g.rng.random()
    if roll < 0.5:
        attrs["pads"] = [g.rng.randrange(0, max(k // 2, 0) + 1) for k in attrs["kernel_shape"]] * 2
        if g.rng.random() < 0.3:
            attrs["pads"] = [g.rng.randrange(0, k // 2 + 1) for k in attrs["kernel_shape"] * 2]
    elif roll < 0.7:
        attrs["auto_pad"] = g.rng.choice(("SAME_UPPER", "SAME_LOWER", "VALID"))
    return attrs


def _fits(x: Value, attrs: dict[str, Any]) -> bool:
    """Whether the window fits into the padded data: ONNX Runtime miscounts where it does not."""
    spatial = x.rank - 2
    pads = attrs.get("pads", [0] * 2 * spatial)
    dilations = attrs.get("dilations", [1] * spatial)
    return all(
        (k - 1) * d < a.shape[2 + i] + pads[i] + pads[i + spatial]
        for a in x.arrays
        for i, (k, d) in enumerate(zip(attrs["kernel_shape"], dilations))
    )


def convolution(g: Graph) -> bool:
    x = _image(g)
    if x is None or not x.is_static(1):
        return False
    channels = x.shape[1]
    groups = g.rng.choice([n for n in range(1, channels + 1) if channels % n == 0] or [1])
    attrs = _window(g, x)
    if g.rng.random() < 0.25:
        attrs["dilations"] = [g.rng.choice((1, 2)) for _ in attrs["kernel_shape"]]
    each = g.rng.choice((1, 1, 2, 4, 5))
    bias = g.rng.random() < 0.5
    if g.rng.random() < 0.2:
        attrs.pop("auto_pad", None)
        if g.rng.random() < 0.3:
            attrs["output_padding"] = [g.rng.choice((0, 1)) for _ in attrs["kernel_shape"]]
        weight, op, out = [channels, each, *attrs["kernel_shape"]], "ConvTranspose", each * groups
    else:
        weight = [each * groups, channels // groups, *attrs["kernel_shape"]]
        op, out = "Conv", each * groups
    w = g.constant(g.random_array(str(x.dtype), weight) / np.array(4, x.dtype))
    b = g.constant(g.random_array(str(x.dtype), [out])) if bias else None
    return _fits(x, attrs) and g.node(op, x, w, b, group=groups, **attrs)


def _image(g: Graph) -> Value | None:
    rank = g.rng.choice((3, 4, 4, 4, 5))
    return g.pick("f", rank=rank)


def pool(g: Graph) -> bool:
    x = _image(g)
    if x is None:
        return False
    roll = g.rng.random()
    if roll < 0.25:
        return g.node(g.rng.choice(("GlobalAveragePool", "GlobalMaxPool")), x)
    attrs = _window(g, x)
    attrs["ceil_mode"] = g.rng.choice((0, 0, 1))
    if not _fits(x, attrs):
        return False
    if roll < 0.6:
        return g.node("MaxPool", x, exact=True, **attrs)
    return g.node("AveragePool", x, count_include_pad=g.rng.randrange(2), **attrs)


def normalization(g: Graph) -> bool:
    x = g.pick("f")
    if x is None or x.rank < 2:
        return False
    op = g.rng.choice(
        [
            "LayerNormalization",
            "BatchNormalization",
            "InstanceNormalization",
            "LpNormalization",
            "LRN",
            "Softmax",
            "Softmax",
            "LogSoftmax",
            "Hardmax",
            "MeanVarianceNormalization",
        ]
    )
    axis = g.rng.randrange(-x.rank, x.rank)

    def vector(size: int, is_positive: bool = False) -> Value:
        array = g.random_array(str(x.dtype), [size])
        return g.constant(np.abs(array) + np.array(0.5, x.dtype) if is_positive else array)

    if op == "LayerNormalization":
        if not x.is_static(x.rank - 1):
            return False
        size = x.shape[-1]
        bias = vector(size) if g.rng.random() < 0.6 else None
        return g.node(op, x, vector(size), bias, epsilon=1e-2)
    if op == "BatchNormalization":
        size = x.shape[1]
        params = [vector(size), vector(size), vector(size), vector(size, True)]
        return x.is_static(1) and g.node(op, x, *params)
    if op == "InstanceNormalization":
        size = x.shape[1]
        return x.is_static(1) and g.node(op, x, vector(size), vector(size), epsilon=1e-2)
    if op == "LpNormalization":
        return g.node(op, x, axis=axis, p=g.rng.choice((1, 2)))
    if op == "LRN":
        return x.rank == 4 and g.node(op, x, size=g.rng.choice((1, 3, 5)), alpha=0.1, beta=0.5)
    if op == "MeanVarianceNormalization":
        return x.rank == 4 and g.node(op, x)
    if op == "Hardmax" and not x.is_exact:
        return False
    return g.node(op, x, axis=axis)


def reduction(g: Graph) -> bool:
    x = g.pick("f", "i")
    if x is None:
        return False
    ops = [
        "ReduceSum",
        "ReduceMean",
        "ReduceMax",
        "ReduceMin",
        "ReduceL1",
        "ReduceL2",
        "ReduceSumSquare",
    ]
    op = g.rng.choice([*ops, "ReduceProd", "ReduceLogSumExp", "ReduceLogSum"])
    count = g.rng.randrange(0, x.rank + 1)
    axes = g.rng.sample(range(x.rank), count)
    axes = [a - x.rank if g.rng.random() < 0.3 else a for a in axes]
    given = g.constant(axes, "int64") if axes or g.rng.random() < 0.3 else None
    noop = 1 if g.rng.random() < 0.1 else None
    if any(not a.size for a in x.arrays):
        # Where nothing is left, ONNX Runtime forgets negative axes, and takes the mean to be 0.
        if op == "ReduceMean":
            return False
        given = None if given is None else g.constant(sorted(a % x.rank for a in axes), "int64")
    exact = op in ("ReduceMax", "ReduceMin", "ReduceSum")
    keep = g.rng.randrange(2)
    return g.node(op, x, given, exact=exact, keepdims=keep, noop_with_empty_axes=noop)


def extremum(g: Graph) -> bool:
    x = g.pick("f", "i", exact=True)
    # ONNX Runtime gives the position of the largest of nothing another rank.
    if x is None or not x.rank or any(not a.size for a in x.arrays):
        return False
    axis, op = (
        g.rng.randrange(-x.rank, x.rank),
        g.rng.choice(("ArgMax", "ArgMin", "TopK", "CumSum")),
    )
    if op == "TopK":
        k = g.constant([g.rng.randrange(0, 4)], "int64")
        return g.node(op, x, k, outputs=2, exact=True, axis=axis, largest=g.rng.randrange(2))
    if op == "CumSum":
        flags = {"exclusive": g.rng.randrange(2), "reverse": g.rng.randrange(2)}
        return g.node(op, x, g.constant(axis, "int64"), exact=True, **flags)
    last = g.rng.randrange(2)
    return g.node(op, x, axis=axis, keepdims=g.rng.randrange(2), select_last_index=last)


CANDIDATES: tuple[Candidate, ...] = (
    *(unary, unary, unary, unary_other, cast, binary, binary, binary, division),
    *(compare, logic, bits, where, clip, matmul, matmul, gemm, convolution, convolution),
    *(pool, normalization, normalization, reduction, reduction, extremum),
)
