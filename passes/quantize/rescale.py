"""Divide the channels of a value by numbers, by changing the constants that it is computed from.

Before:                                  After:
    lv = R.nn.conv2d(x, w)                   lv = R.nn.conv2d(x, w / s)
    lv1 = R.add(lv, b)                       lv1 = R.add(lv, b / s)
    gv = R.nn.relu(lv1)                      gv = R.nn.relu(lv1)          which is gv / s

Exact but for rounding of float32. Positive numbers only, so that relu lets them through.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from relaxc.passes.fuse.outline import BindingGraph, operator_call

# What a division by a positive number may be moved across, channel by channel.
_HOMOGENEOUS = frozenset(
    f"relax.nn.{name}"
    for name in (
        *("relu", "leakyrelu"),
        *("max_pool1d", "max_pool2d", "max_pool3d"),
        *("avg_pool1d", "avg_pool2d", "avg_pool3d"),
    )
)
_NORMS = ("relax.nn.layer_norm", "relax.nn.rms_norm")
_CONVOLUTIONS = frozenset(f"relax.nn.conv{n}d" for n in (1, 2, 3))

# New calls by the variables that they bind.
Edits = dict[relax.Var, relax.Call]


def divided(
    graph: BindingGraph, var: relax.Var, axis: int, scales: np.ndarray, edits: Edits
) -> bool:
    """Divide a value; whoever reads it has agreed.

    Args:
        graph: of the block that computes it.
        var: the value.
        axis: of its channels.
        scales: [channels], positive.
        edits: calls that are changed already; gets the others, or stays as it is.

    Returns:
        Whether that is possible.
    """
    found: Edits = {}
    axis %= var.ty.ndim
    while True:
        index = graph.index.get(var)
        call = None if index is None else operator_call(graph.bindings[index])
        if call is None or index is None or graph.leaves[index]:
            return False
        if found and len(graph.users[index]) != 1:
            return False
        call = edits.get(var, call)
        name, args = str(call.op.name), list(call.args)
        if name in _HOMOGENEOUS and axis == 1:
            source, is_done = args[0], False
        elif name in _CONVOLUTIONS and axis == 1 and isinstance(args[1], GenericConst):
            args[1], source, is_done = _divided(args[1], scales, 0), None, True
        elif name == "relax.matmul" and _is_matrix(args[1]) and axis == var.ty.ndim - 1:
            args[1], source, is_done = _divided(args[1], scales, 1), None, True
        elif name in _NORMS and axis == var.ty.ndim - 1:
            # With one number per channel, it normalizes along one axis; that must be this one.
            if not all(isinstance(a, GenericConst) and a.value.ndim == 1 for a in args[1:]):
                return False
            if int(call.attrs.axes[0]) % var.ty.ndim != axis:
                return False
            args[1:], source, is_done = [_divided(a, scales, 0) for a in args[1:]], None, True
        elif name in ("relax.add", "relax.subtract", "relax.multiply"):
            place = next((i for i, a in enumerate(args) if isinstance(a, GenericConst)), None)
            if place is None and name == "relax.multiply":
                # Either factor may take it: the one that was computed last, such as a gate's other.
                return _of_product(graph, call, axis, scales, found, edits)
            if place is None:
                return False
            constant = _along(args[place], scales, axis, var.ty.ndim)
            if constant is None or not isinstance(args[1 - place], relax.Var):
                return False
            source, is_done = args[1 - place], name == "relax.multiply"
            args[place] = constant
            if not is_done and list(source.ty.shape) != list(var.ty.shape):
                return False
        else:
            return False
        found[var] = relax.Call(call.op, args, call.attrs, call.ty_args, call.span)
        if is_done:
            edits.update(found)
            return True
        if not isinstance(source, relax.Var):
            return False
        var = source


def _of_product(
    graph: BindingGraph,
    call: relax.Call,
    axis: int,
    scales: np.ndarray,
    found: Edits,
    edits: Edits,
) -> bool:
    """Divide one of two factors that are computed by the model."""
    if call.args[0].same_as(call.args[1]):
        return False
    for factor in reversed(call.args):
        index = graph.index.get(factor)
        if index is None or len(graph.users[index]) != 1:
            continue
        if list(factor.ty.shape) == list(call.ty.shape) and divided(
            graph, factor, axis, scales, edits
        ):
            edits.update(found)
            return True
    return False


def applied(bindings: list[relax.Binding], edits: Edits) -> list[relax.Binding]:
    """The bindings with changed calls."""
    builder = relax.BlockBuilder()
    return [
        relax.VarBinding(b.var, builder.normalize(edits[b.var])) if b.var in edits else b
        for b in bindings
    ]


def reader_axis(call: relax.Call | None) -> int | None:
    """The axis of a product's weight that is summed over; None if it has no constant weight."""
    if call is None or not isinstance(call.args[0], relax.Var):
        return None
    name = str(call.op.name)
    if name in _CONVOLUTIONS and isinstance(call.args[1], GenericConst):
        # Depthwise: one row per channel.
        depth = int(call.args[1].ty.shape.values[1])
        groups = int(call.attrs.groups)
        plain = str(call.attrs.data_layout).startswith("NC")
        if not plain or (groups > 1 and (depth != 1 or groups != len(call.args[1].value.numpy()))):
            return None
        return 1 if groups == 1 else 0
    return 0 if name == "relax.matmul" and _is_matrix(call.args[1]) else None


def channel_axis(call: relax.Call) -> int:
    """The axis of a product's data that is summed over."""
    return 1 if str(call.op.name) in _CONVOLUTIONS else call.args[0].ty.ndim - 1


def multiplied(call: relax.Call, scales: np.ndarray) -> relax.Call:
    """A product whose data was divided: its weight makes up for that."""
    axis = reader_axis(call)
    assert axis is not None
    weight = _divided(call.args[1], 1 / scales, axis)
    return relax.Call(call.op, [call.args[0], weight], call.attrs, call.ty_args, call.span)


def per_channel(call: relax.Call, reduce: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Something of the weights that each channel of the data is multiplied by.

    Args:
        call: a product.
        reduce: from [channels, weights] to [channels].
    """
    axis = reader_axis(call)
    assert axis is not None
    weight = np.asarray(call.args[1].value.numpy(), np.float64)
    return np.asarray(reduce(np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)))


def _is_matrix(expr: relax.Expr) -> bool:
    return isinstance(expr, GenericConst) and expr.ty.ndim == 2


def _divided(constant: GenericConst, scales: np.ndarray, axis: int) -> GenericConst:
    array = np.asarray(constant.value.numpy())
    shape = [1] * array.ndim
    shape[axis] = -1
    return relax.const(np.asarray(array / scales.reshape(shape), array.dtype))


def _along(constant: GenericConst, scales: np.ndarray, axis: int, ndim: int) -> GenericConst | None:
    """A constant that is added to or multiplied by a value, divided likewise."""
    array = np.asarray(constant.value.numpy())
    if array.dtype != np.float32 or array.ndim > ndim:
        return None
    shape = [1] * ndim
    shape[axis] = -1
    return relax.const(np.asarray(array / scales.reshape(shape), np.float32))
