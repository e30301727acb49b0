"""Recurrent layers: the projection of the inputs is one matrix product, the recurrence one kernel.

The recurrence is emitted as a plain loop nest that any target can build. Its attribute
`relaxc.recurrent` says what it computes, so that a target may put a faster kernel in its place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, tirx
from tvm.ir import GenericConst

from relaxc.frontend.operators.base import Converter, NodeContext, dims
from relaxc.frontend.operators.recurrent_loops import lstm_loops

_ACTIVATIONS = ["sigmoid", "tanh", "tanh"]


def lstm(ctx: NodeContext) -> relax.Expr:
    """LSTM with the default activations, in any direction.

    Raises:
        ValueError: peepholes, clipping, other activations, sequence lengths, batch-first layout,
            or weights that are not constants.
    """
    attrs, x = ctx.attrs, ctx.input(0)
    directions = 2 if _text(attrs.get("direction", "forward")) == "bidirectional" else 1
    backward = _text(attrs.get("direction", "forward")) == "reverse"
    activations = [_text(a).lower() for a in attrs.get("activations", _ACTIVATIONS * directions)]
    refused = {
        "peepholes": ctx.has(7),
        "`clip`": "clip" in attrs,
        "`input_forget`": bool(attrs.get("input_forget", 0)),
        "`layout` = 1": bool(attrs.get("layout", 0)),
        "other activations": activations != _ACTIVATIONS * directions,
        "sequence lengths": ctx.has(4) and not _covers_all(ctx),
    }
    for what, is_used in refused.items():
        if is_used:
            raise ValueError(f"{what} are not supported")
    weight, recurrent = (_constant(ctx, i) for i in (1, 2))
    hidden = recurrent.shape[2]
    steps, batch, _ = dims(x)
    bias = np.zeros((directions, 4 * hidden), np.float32)
    if ctx.has(3):
        both = _constant(ctx, 3)
        bias = both[:, : 4 * hidden] + both[:, 4 * hidden :]
    projection = np.ascontiguousarray(weight.reshape(directions * 4 * hidden, -1).T)
    gates = ctx.bb.emit(relax.op.matmul(x, relax.const(projection)))
    gates = ctx.bb.emit(relax.op.add(gates, relax.const(bias.reshape(-1))))
    shape = [directions, batch, hidden]
    states = [_state(ctx, i, shape) for i in (5, 6)]
    func = lstm_loops(dims(gates)[:2], directions, hidden, backward)
    gvar = ctx.bb.add_func(func, "lstm")
    results = [
        relax.TensorType([steps, directions, batch, hidden], "float32"),
        relax.TensorType(shape, "float32"),
        relax.TensorType(shape, "float32"),
    ]
    call = relax.call_tir(gvar, [gates, relax.const(recurrent), *states], results)
    outputs = ctx.bb.emit(call)
    return relax.Tuple([ctx.bb.emit(relax.TupleGetItem(outputs, i)) for i in range(3)])


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _constant(ctx: NodeContext, index: int) -> np.ndarray:
    value = ctx.input(index)
    if not isinstance(value, GenericConst):
        raise ValueError(f"input {index} must be a constant")
    array: np.ndarray = value.value.numpy()
    return array


def _covers_all(ctx: NodeContext) -> bool:
    """Whether the sequence lengths are constants equal to the number of steps."""
    steps = dims(ctx.input(0))[0]
    lengths = ctx.static(4)
    return lengths is not None and all(
        isinstance(steps, tirx.IntImm) and n == int(steps) for n in lengths
    )


def _state(ctx: NodeContext, index: int, shape: list[Any]) -> relax.Expr:
    if ctx.has(index):
        return ctx.input(index)
    zero = relax.const(np.float32(0))
    return ctx.bb.emit(relax.op.full(relax.ShapeExpr(shape), zero, "float32"))


CONVERTERS: dict[str, Converter] = {"LSTM": lstm}
