"""Recurrent layers: the projection of the inputs is one matrix product, the recurrence one kernel.

The recurrence is emitted as a plain loop nest that any target can build. Its attribute
`relaxc.recurrent` says what it computes, so that a target may put a faster kernel in its place,
and pruning one of fewer units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax, te, tirx
from tvm.ir import GenericConst

from relaxc.frontend.operators.base import Converter, NodeContext, dims, dtype
from relaxc.recurrent.cells import (
    PARAMETERS,
    Activation,
    Cell,
    gru_loops,
    lstm_cell_loops,
    rnn_loops,
)
from relaxc.recurrent.plain_lstm import lstm_loops

_ACTIVATIONS = ["sigmoid", "tanh", "tanh"]


def lstm(ctx: NodeContext) -> relax.Expr:
    """LSTM in any form; the usual activations with constant weights have a kernel."""
    attrs = ctx.attrs
    directions = 2 if ctx.text("direction", "forward") == "bidirectional" else 1
    activations = [_text(a).lower() for a in attrs.get("activations", _ACTIVATIONS * directions)]
    unusual = (
        ctx.has(7)
        or "clip" in attrs
        or attrs.get("input_forget", 0)
        or attrs.get("layout", 0)
        or activations != _ACTIVATIONS * directions
        or (ctx.has(4) and not _covers_all(ctx))
        or dtype(ctx.input(0)) != "float32"
        or not all(isinstance(ctx.inputs[i], GenericConst) for i in (1, 2, 3) if ctx.has(i))
    )
    return _LSTM.convert(ctx) if unusual else _plain_lstm(ctx, directions)


def _plain_lstm(ctx: NodeContext, directions: int) -> relax.Expr:
    x, backward = ctx.input(0), ctx.text("direction", "forward") == "reverse"
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


@dataclass(frozen=True)
class _Layer:
    """A kind of recurrent layer.

    Attributes:
        gates: of the cell.
        activations: the default ones of a direction.
        loops: writes the recurrence.
        states: hidden, or hidden and cell.
        flag: the attribute of this kind alone.
    """

    gates: int
    activations: tuple[str, ...]
    loops: Callable[[Cell], tirx.PrimFunc]
    states: int
    flag: str

    def convert(self, ctx: NodeContext) -> relax.Expr:
        """Project the inputs by one product, and run the recurrence on that."""
        emit, direction = ctx.bb.emit, ctx.text("direction", "forward")
        directions = 2 if direction == "bidirectional" else 1
        batch_first, x = bool(ctx.attrs.get("layout", 0)), ctx.input(0)
        if batch_first:
            x = emit(relax.op.permute_dims(x, [1, 0, 2]))
        steps, batch, _ = dims(x)
        kind, hidden = dtype(x), _static(dims(ctx.input(2))[2])
        width = self.gates * hidden
        rows = emit(relax.op.reshape(ctx.input(1), [directions * width, -1]))
        gates = emit(relax.op.matmul(x, emit(relax.op.permute_dims(rows, [1, 0]))))
        extra = []
        if self.gates == 3:
            extra.append(self._zeros(ctx, [directions, hidden], kind))
        if ctx.has(3):
            gates, extra = self._biased(ctx, gates, extra, directions, hidden)
        if self.gates == 4:
            peep = self._zeros(ctx, [directions, 3 * hidden], kind)
            extra = [ctx.input(7) if ctx.has(7) else peep]
        states = [
            self._initial(ctx, 5 + i, [directions, batch, hidden], kind, batch_first)
            for i in range(self.states)
        ]
        cell = Cell(
            (steps, batch),
            directions,
            hidden,
            direction == "reverse",
            kind,
            self._activations(ctx.attrs, directions),
            float(ctx.attrs["clip"]) if "clip" in ctx.attrs else None,
            bool(self.flag and ctx.attrs.get(self.flag, 0)),
        )
        gvar = ctx.bb.add_func(self.loops(cell), ctx.node.op_type.lower())
        shape = [directions, batch, hidden]
        results = [relax.TensorType([steps, *shape], kind)]
        results += [relax.TensorType(shape, kind)] * self.states
        args = [gates, ctx.input(2), *extra, self._lengths(ctx, steps, batch), *states]
        whole = emit(relax.call_tir(gvar, args, results))
        outputs = [emit(relax.TupleGetItem(whole, i)) for i in range(1 + self.states)]
        if batch_first:
            axes = [[2, 0, 1, 3], *[[1, 0, 2]] * self.states]
            outputs = [emit(relax.op.permute_dims(o, a)) for o, a in zip(outputs, axes)]
        return relax.Tuple(outputs)

    def _biased(
        self,
        ctx: NodeContext,
        gates: relax.Expr,
        extra: list[relax.Expr],
        directions: int,
        hidden: int,
    ) -> tuple[relax.Expr, list[relax.Expr]]:
        """The gates with both biases, but for what a GRU must add elsewhere."""
        emit, width, bias = ctx.bb.emit, self.gates * hidden, ctx.input(3)

        def columns(begin: int, end: int) -> relax.Expr:
            if isinstance(bias, GenericConst):
                array = np.ascontiguousarray(bias.value.numpy()[:, begin:end])
                return relax.const(array, dtype(bias))
            return emit(relax.op.strided_slice(bias, [1], [begin], [end]))

        inputs = columns(0, width)
        if self.gates == 3:
            pad = self._zeros(ctx, [directions, hidden], dtype(gates))
            extra = [columns(width + 2 * hidden, 2 * width)]
            recurrent = emit(relax.op.concat([columns(width, width + 2 * hidden), pad], 1))
        else:
            recurrent = columns(width, 2 * width)
        total = emit(relax.op.add(inputs, recurrent))
        flat = emit(relax.op.reshape(total, [directions * width]))
        return emit(relax.op.add(gates, flat)), extra

    def _activations(self, attrs: dict[str, Any], directions: int) -> list[list[Activation]]:
        names = [_text(n) for n in attrs.get("activations") or self.activations * directions]
        alphas, betas = (list(attrs.get(f"activation_{n}") or []) for n in ("alpha", "beta"))
        made = []
        for name in names:
            takes_alpha, takes_beta = PARAMETERS.get(name.lower(), (0, 0))
            alpha = alphas.pop(0) if takes_alpha and alphas else None
            beta = betas.pop(0) if takes_beta and betas else None
            made.append(Activation(name, alpha, beta))
        count = len(self.activations)
        return [made[i * count : (i + 1) * count] for i in range(directions)]

    @staticmethod
    def _zeros(ctx: NodeContext, shape: list[Any], kind: str) -> relax.Expr:
        if all(isinstance(dim, int | tirx.IntImm) for dim in shape):
            return relax.const(np.zeros([int(dim) for dim in shape], kind), kind)
        zero = relax.const(np.zeros((), kind), kind)
        return ctx.bb.emit(relax.op.full(relax.ShapeExpr(shape), zero, kind))

    def _initial(
        self, ctx: NodeContext, index: int, shape: list[Any], kind: str, batch_first: bool
    ) -> relax.Expr:
        if not ctx.has(index):
            return self._zeros(ctx, shape, kind)
        value = ctx.input(index)
        return ctx.bb.emit(relax.op.permute_dims(value, [1, 0, 2])) if batch_first else value

    @staticmethod
    def _lengths(ctx: NodeContext, steps: Any, batch: Any) -> relax.Expr:
        if ctx.has(4):
            return ctx.bb.emit(relax.op.astype(ctx.input(4), "int64"))

        def compute(steps: Any, batch: Any) -> te.Tensor:
            return te.compute((batch,), lambda _n: steps.astype("int64"), name="lengths")

        return ctx.emit_te(compute, steps, batch, name="lengths")


def _static(dim: Any) -> int:
    if not isinstance(dim, tirx.IntImm):
        raise ValueError("the number of units must be known at compile time")
    return int(dim)


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


_LSTM = _Layer(4, ("Sigmoid", "Tanh", "Tanh"), lstm_cell_loops, 2, "input_forget")
_GRU = _Layer(3, ("Sigmoid", "Tanh"), gru_loops, 1, "linear_before_reset")
_RNN = _Layer(1, ("Tanh",), rnn_loops, 1, "")


def gru(ctx: NodeContext) -> relax.Expr:
    """GRU in any form; the usual activations with constant weights have a kernel."""
    return _GRU.convert(ctx)


def rnn(ctx: NodeContext) -> relax.Expr:
    """RNN in any form; one of tanh, ReLU and sigmoid with constant weights has a kernel."""
    return _RNN.convert(ctx)


CONVERTERS: dict[str, Converter] = {"GRU": gru, "LSTM": lstm, "RNN": rnn}
