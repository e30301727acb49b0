"""Gradients of operators that Relax's automatic differentiation lacks, and faster ones of others.

`relax.transform.Gradient` asks each operator for its gradient. TVM has them for arithmetic,
products, softmax, shapes and windows; here are those of convolutions (weights as one product per
sample and group), ReLU (read off its result, so that the value before it need not be kept), and of
what else appears in networks. All need static shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tvm
from tvm import relax, te, tirx

from relaxc.passes.prune.operands import prims, shape_of

Emit = Callable[[relax.Expr], relax.Expr]
# Gradients of TVM have level 10.
_LEVEL = 20


def has_gradient(name: str) -> bool:
    """Whether an operator can be differentiated."""
    return tvm.ir.Op.get(name).get_attr("FPrimalGradient") is not None


def _static(expr: relax.Expr) -> list[int]:
    return [int(dim) for dim in shape_of(expr)]


def _nothing(call: relax.Call) -> list[relax.Expr]:
    """What arguments after the first get: they are no tensors."""
    return [relax.op.grad.no_grad(arg) for arg in call.args[1:]]


def _no_grad(_var: relax.Var, call: relax.Call, _grad: relax.Var, _ctx: Any) -> list[relax.Expr]:
    """Derivatives end here; TVM has the operator, but asks it for a gradient all the same."""
    return [relax.op.grad.no_grad(call.args[0])]


def _conv2d(var: relax.Var, call: relax.Call, grad: relax.Var, ctx: Any) -> list[relax.Expr]:
    """Of the data: a transposed convolution. Of the weight: windows of the data times the rest."""
    attrs, (data, weight) = call.attrs, call.args
    strides, padding, dilation = (
        [int(n) for n in list_] for list_ in (attrs.strides, attrs.padding, attrs.dilation)
    )
    groups = int(attrs.groups)
    n, c, height, width = _static(data)
    o, _, kh, kw = _static(weight)
    _, _, rows, columns = _static(var)
    reach = [
        (size - 1) * stride - before - after + (taps - 1) * step + 1
        for size, stride, before, after, taps, step in zip(
            (rows, columns), strides, padding[:2], padding[2:], (kh, kw), dilation
        )
    ]
    data_grad = relax.op.nn.conv2d_transpose(
        grad,
        weight,
        strides=strides,
        padding=padding,
        output_padding=[height - reach[0], width - reach[1]],
        dilation=dilation,
        groups=groups,
        data_layout="NCHW",
        kernel_layout="IOHW",
    )

    def windows(x: te.Tensor) -> te.Tensor:
        def at(i: Any, channel: Any, ky: Any, kx: Any, y: Any, x_: Any) -> Any:
            row = y * strides[0] + ky * dilation[0] - padding[0]
            column = x_ * strides[1] + kx * dilation[1] - padding[1]
            inside = tirx.all(row >= 0, row < height, column >= 0, column < width)
            return tirx.if_then_else(inside, x[i, channel, row, column], tirx.const(0, x.dtype))

        return te.compute((n, c, kh, kw, rows, columns), at, name="windows")

    emit: Emit = ctx.emit
    op = relax.op
    pixels, read = rows * columns, c // groups * kh * kw
    taken = emit(ctx.call_te(windows, data))
    left = emit(op.reshape(taken, (n * groups, read, pixels)))
    right = emit(op.reshape(grad, (n * groups, o // groups, pixels)))
    right = emit(op.permute_dims(right, [0, 2, 1]))
    each = emit(op.matmul(left, right))
    each = emit(op.reshape(each, (n, groups, read, o // groups)))
    total = emit(op.sum(each, axis=0))
    total = emit(op.permute_dims(total, [0, 2, 1]))
    return [data_grad, op.reshape(total, (o, c // groups, kh, kw))]


def _relu(var: relax.Var, _call: relax.Call, grad: relax.Var, _ctx: Any) -> list[relax.Expr]:
    zero = relax.const(0, "float32")
    return [relax.op.where(relax.op.greater(var, zero), grad, zero)]


def _clip(_var: relax.Var, call: relax.Call, grad: relax.Var, _ctx: Any) -> list[relax.Expr]:
    data, *limits = call.args
    low, high = (relax.const(float(limit.value), "float32") for limit in limits)
    op = relax.op
    inside = op.logical_and(op.greater(data, low), op.less(data, high))
    return [op.where(inside, grad, relax.const(0, "float32")), *_nothing(call)]


def _leaky_relu(_var: relax.Var, call: relax.Call, grad: relax.Var, _ctx: Any) -> list[relax.Expr]:
    slope = relax.const(float(call.attrs.alpha), "float32")
    op = relax.op
    positive = op.greater(call.args[0], relax.const(0, "float32"))
    return [op.where(positive, grad, op.multiply(grad, slope))]


def _erf(_var: relax.Var, call: relax.Call, grad: relax.Var, _ctx: Any) -> list[relax.Expr]:
    op, x = relax.op, call.args[0]
    factor = relax.const(2 / math.sqrt(math.pi), "float32")
    slope = op.multiply(factor, op.exp(op.negative(op.multiply(x, x))))
    return [op.multiply(grad, slope)]


def _gelu(_var: relax.Var, call: relax.Call, grad: relax.Var, _ctx: Any) -> list[relax.Expr]:
    """Phi(x) + x phi(x)."""
    op, x = relax.op, call.args[0]
    half, root = relax.const(0.5, "float32"), relax.const(math.sqrt(0.5), "float32")
    below = op.multiply(half, op.add(relax.const(1, "float32"), op.erf(op.multiply(x, root))))
    density = op.multiply(
        relax.const(1 / math.sqrt(2 * math.pi), "float32"),
        op.exp(op.negative(op.multiply(half, op.multiply(x, x)))),
    )
    return [op.multiply(grad, op.add(below, op.multiply(x, density)))]


def _rsqrt(var: relax.Var, _call: relax.Call, grad: relax.Var, _ctx: Any) -> list[relax.Expr]:
    op = relax.op
    cube = op.multiply(var, op.multiply(var, var))
    return [op.multiply(grad, op.multiply(relax.const(-0.5, "float32"), cube))]


def _squeeze(_var: relax.Var, call: relax.Call, grad: relax.Var, _ctx: Any) -> list[relax.Expr]:
    return [relax.op.reshape(grad, _static(call.args[0]))]


def _pad(_var: relax.Var, call: relax.Call, grad: relax.Var, _ctx: Any) -> list[relax.Expr]:
    if str(call.attrs.pad_mode) != "constant":
        raise ValueError(f"padding of mode `{call.attrs.pad_mode}` has no gradient here")
    before = [int(w) for w in call.attrs.pad_width][::2]
    sizes = _static(call.args[0])
    ends = [b + s for b, s in zip(before, sizes)]
    return [relax.op.strided_slice(grad, list(range(len(sizes))), before, ends)]


def _strided_slice(var: relax.Var, call: relax.Call, grad: relax.Var, ctx: Any) -> list[relax.Expr]:
    """What was taken gets its gradient, what was left nothing."""
    data = call.args[0]
    axes, begins, _ = (prims(arg) or [] for arg in call.args[1:4])
    steps = (prims(call.args[4]) if len(call.args) > 4 else None) or [1] * len(axes)
    if any(step < 1 for step in steps):
        raise ValueError("slices that run backwards have no gradient here")
    sizes, counts = _static(data), _static(var)
    first, every = [0] * len(sizes), [1] * len(sizes)
    for axis, begin, step in zip(axes, begins, steps):
        first[axis], every[axis] = slice(begin, None).indices(sizes[axis])[0], step

    def spread(g: te.Tensor) -> te.Tensor:
        def at(*index: Any) -> Any:
            found, inside = [], []
            for i, begin, step, count in zip(index, first, every, counts):
                found.append((i - begin) // step)
                inside += [i >= begin, (i - begin) % step == 0, found[-1] < count]
            return tirx.if_then_else(tirx.all(*inside), g(*found), tirx.const(0, g.dtype))

        return te.compute(tuple(sizes), at, name="spread")

    return [ctx.call_te(spread, grad), *_nothing(call)]


def _global_pool(_var: relax.Var, call: relax.Call, grad: relax.Var, _ctx: Any) -> list[relax.Expr]:
    if [int(n) for n in call.attrs.output_size] != [1, 1]:
        raise ValueError("adaptive pooling to several pixels has no gradient here")
    shape = _static(call.args[0])
    share = relax.const(1 / (shape[2] * shape[3]), "float32")
    return [relax.op.broadcast_to(relax.op.multiply(grad, share), shape)]


def _layer_norm(_var: relax.Var, call: relax.Call, grad: relax.Var, ctx: Any) -> list[relax.Expr]:
    op, emit = relax.op, ctx.emit
    data, gamma, beta = call.args
    axes = [int(a) % data.ty.ndim for a in call.attrs.axes]
    others = [a for a in range(data.ty.ndim) if a not in axes]
    epsilon = relax.const(float(call.attrs.epsilon), "float32")
    centered = emit(op.subtract(data, emit(op.mean(data, axes, keepdims=True))))
    variance = emit(op.mean(op.multiply(centered, centered), axes, keepdims=True))
    scale = emit(op.rsqrt(op.add(variance, epsilon)))
    unit = emit(op.multiply(centered, scale))
    inner = emit(op.multiply(grad, gamma))
    mean = emit(op.mean(inner, axes, keepdims=True))
    along = emit(op.mean(op.multiply(inner, unit), axes, keepdims=True))
    rest = emit(op.subtract(op.subtract(inner, mean), op.multiply(unit, along)))
    gamma_grad = op.sum(op.multiply(grad, unit), others)
    return [op.multiply(rest, scale), gamma_grad, op.sum(grad, others)]


def _concat(_var: relax.Var, call: relax.Call, grad: relax.Var, ctx: Any) -> list[relax.Expr]:
    """TVM splits, which it cannot where a part is empty."""
    op, parts = relax.op, call.args[0].fields
    axis, begin = int(call.attrs.axis) % grad.ty.ndim, 0
    pieces = []
    for part in parts:
        size = _static(part)[axis]
        piece = op.strided_slice(grad, [axis], [begin], [begin + size])
        pieces.append(ctx.emit(piece if size else op.zeros(_static(part), "float32")))
        begin += size
    return [relax.Tuple(pieces)]


def _rms_norm(_var: relax.Var, call: relax.Call, grad: relax.Var, ctx: Any) -> list[relax.Expr]:
    op, emit = relax.op, ctx.emit
    data, gamma = call.args
    axes = [int(a) % data.ty.ndim for a in call.attrs.axes]
    others = [a for a in range(data.ty.ndim) if a not in axes]
    epsilon = relax.const(float(call.attrs.epsilon), "float32")
    square = emit(op.mean(op.multiply(data, data), axes, keepdims=True))
    scale = emit(op.rsqrt(op.add(square, epsilon)))
    unit = emit(op.multiply(data, scale))
    inner = emit(op.multiply(grad, gamma))
    along = emit(op.mean(op.multiply(inner, unit), axes, keepdims=True))
    rest = emit(op.subtract(inner, op.multiply(unit, along)))
    return [op.multiply(rest, scale), op.sum(op.multiply(grad, unit), others)]


for _name, _gradient in {
    "relax.grad.no_grad": _no_grad,
    "relax.nn.conv2d": _conv2d,
    "relax.nn.relu": _relu,
    "relax.clip": _clip,
    "relax.nn.leakyrelu": _leaky_relu,
    "relax.erf": _erf,
    "relax.nn.gelu": _gelu,
    "relax.rsqrt": _rsqrt,
    "relax.squeeze": _squeeze,
    "relax.nn.pad": _pad,
    "relax.strided_slice": _strided_slice,
    "relax.nn.adaptive_avg_pool2d": _global_pool,
    "relax.nn.layer_norm": _layer_norm,
    "relax.nn.rms_norm": _rms_norm,
    "relax.concat": _concat,
}.items():
    tvm.ir.register_op_attr(_name, "FPrimalGradient", _gradient, level=_LEVEL)
