"""RNN, GRU and LSTM in every form that ONNX has, as plain loop nests.

Activations differ by gate and direction; sequences may end early; a backward direction begins at
the end of each sequence.
"""

# TVMScript's annotations are values, which mypy cannot read.
# mypy: disable-error-code="valid-type, no-untyped-def"

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tvm import tirx
from tvm.script import tirx as T

# Attribute that says what a loop nest computes.
RECURRENT = "relaxc.recurrent"


class Activation(NamedTuple):
    """A function by ONNX's name, in any case, and its parameters; None where they are usual."""

    name: str
    alpha: float | None = None
    beta: float | None = None


@dataclass(frozen=True)
class Cell:
    """What is computed at every step.

    Attributes:
        size: steps and batch; may be symbolic.
        directions: 1, or 2 of which the second runs backward.
        hidden: units.
        backward: whether a single direction runs backward.
        kind: element type.
        activations: per direction, one per gate in ONNX's order of the attribute.
        clip: bound of what goes into activations; None for none.
        flag: GRU: the reset gate comes after the product; LSTM: the forget gate is 1 - input gate.
    """

    size: Sequence[Any]
    directions: int
    hidden: int
    backward: bool
    kind: str
    activations: Sequence[Sequence[Activation]]
    clip: float | None
    flag: bool

    def description(self, name: str) -> dict[str, Any]:
        """All but the sizes, as an attribute."""
        return {
            "cell": name,
            "directions": self.directions,
            "backward": int(self.backward),
            "activations": [[list(a) for a in those] for those in self.activations],
            "clip": self.clip,
            "flag": int(self.flag),
        }

    @staticmethod
    def described(said: Mapping[str, Any], size: Sequence[Any], hidden: int, kind: str) -> Cell:
        """The cell behind such an attribute."""
        activations = [[Activation(*a) for a in those] for those in said["activations"]]
        directions, backward, flag = int(said["directions"]), said["backward"], said["flag"]
        clip = None if said["clip"] is None else float(said["clip"])
        return Cell(size, directions, hidden, bool(backward), kind, activations, clip, bool(flag))

    def at(self, d: Any, s: Any, length: Any) -> Any:
        """The position that a direction visits at a step."""
        if self.directions == 1:
            return length - 1 - s if self.backward else s
        return tirx.Select(d < 1, s, length - 1 - s)

    def act(self, which: int, d: Any, value: Any) -> Any:
        """An activation of the direction, after clipping."""
        if self.clip is not None:
            low, high = (tirx.const(v, self.kind) for v in (-self.clip, self.clip))
            value = tirx.max(tirx.min(value, high), low)
        return self.plain(which, d, value)

    def plain(self, which: int, d: Any, value: Any) -> Any:
        """An activation of the direction, without clipping; of cells, as in ONNX Runtime."""
        first, *rest = (activated(those[which], value, self.kind) for those in self.activations)
        return tirx.Select(d < 1, first, rest[0]) if rest else first


def activated(activation: Activation, value: Any, kind: str) -> Any:
    """An activation of a value.

    Raises:
        ValueError: there is none of this name.
    """

    def const(value: float) -> Any:
        return tirx.const(value, kind)

    def parameters(default_alpha: float, default_beta: float = 0.0) -> tuple[Any, Any]:
        given = ((activation.alpha, default_alpha), (activation.beta, default_beta))
        a, b = (const(default if value is None else value) for value, default in given)
        return a, b

    zero, one = const(0.0), const(1.0)
    leaky, scaled, hard = parameters(0.01), parameters(1.0, 1.0), parameters(0.2, 0.5)
    single = parameters(1.0)
    table: dict[str, Callable[[Any], Any]] = {
        "affine": lambda x: single[0] * x + single[1],
        "elu": lambda x: tirx.Select(x > zero, x, single[0] * (tirx.exp(x) - one)),
        "hardsigmoid": lambda x: tirx.max(tirx.min(hard[0] * x + hard[1], one), zero),
        "leakyrelu": lambda x: tirx.Select(x > zero, x, leaky[0] * x),
        "relu": lambda x: tirx.max(x, zero),
        "scaledtanh": lambda x: scaled[0] * tirx.tanh(scaled[1] * x),
        "sigmoid": lambda x: one / (one + tirx.exp(zero - x)),
        "softplus": lambda x: tirx.log(one + tirx.exp(x)),
        "softsign": lambda x: x / (one + tirx.abs(x)),
        "tanh": tirx.tanh,
        "thresholdedrelu": lambda x: tirx.Select(x > single[0], x, zero),
    }
    name = activation.name.lower()
    if name not in table:
        raise ValueError(f"activation `{activation.name}` is not supported")
    return table[name](value)


# How many parameters of `activation_alpha` and `activation_beta` an activation takes.
PARAMETERS = {
    "affine": (1, 1),
    "elu": (1, 0),
    "hardsigmoid": (1, 1),
    "leakyrelu": (1, 0),
    "scaledtanh": (1, 1),
    "thresholdedrelu": (1, 0),
}


def rnn_loops(cell: Cell) -> tirx.PrimFunc:
    """h' = f(x + R h)."""
    (steps, batch), directions, hidden, kind = cell.size, cell.directions, cell.hidden, cell.kind

    @T.prim_func(private=True)
    def loops(
        x: T.Buffer((steps, batch, directions * hidden), kind),
        r: T.Buffer((directions, hidden, hidden), kind),
        lengths: T.Buffer((batch,), "int64"),
        h0: T.Buffer((directions, batch, hidden), kind),
        y: T.Buffer((steps, directions, batch, hidden), kind),
        h: T.Buffer((directions, batch, hidden), kind),
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        gate = T.alloc_buffer((hidden,), kind)
        for d in range(directions):
            for n in range(batch):
                for u in range(hidden):
                    h[d, n, u] = h0[d, n, u]
                for s in range(steps):
                    for u in range(hidden):
                        y[s, d, n, u] = T.Cast(kind, 0)
                for s in range(T.min(lengths[n], steps)):
                    for u in range(hidden):
                        gate[u] = x[cell.at(d, s, lengths[n]), n, d * hidden + u]
                        for k in range(hidden):
                            gate[u] = gate[u] + h[d, n, k] * r[d, u, k]
                    for u in range(hidden):
                        h[d, n, u] = cell.act(0, d, gate[u])
                        y[cell.at(d, s, lengths[n]), d, n, u] = h[d, n, u]

    return loops.with_attr(RECURRENT, cell.description("rnn"))


def gru_loops(cell: Cell) -> tirx.PrimFunc:
    """h' = (1 - z) * g + z * h, of the gates z, r and g, in this order."""
    (steps, batch), directions, hidden, kind = cell.size, cell.directions, cell.hidden, cell.kind
    after = 1 if cell.flag else 0

    @T.prim_func(private=True)
    def loops(
        x: T.Buffer((steps, batch, directions * 3 * hidden), kind),
        r: T.Buffer((directions, 3 * hidden, hidden), kind),
        bias: T.Buffer((directions, hidden), kind),
        lengths: T.Buffer((batch,), "int64"),
        h0: T.Buffer((directions, batch, hidden), kind),
        y: T.Buffer((steps, directions, batch, hidden), kind),
        h: T.Buffer((directions, batch, hidden), kind),
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        gate = T.alloc_buffer((3 * hidden,), kind)
        kept = T.alloc_buffer((hidden,), kind)
        for d in range(directions):
            for n in range(batch):
                for u in range(hidden):
                    h[d, n, u] = h0[d, n, u]
                for s in range(steps):
                    for u in range(hidden):
                        y[s, d, n, u] = T.Cast(kind, 0)
                for s in range(T.min(lengths[n], steps)):
                    for g in range(2 * hidden):
                        gate[g] = x[cell.at(d, s, lengths[n]), n, d * 3 * hidden + g]
                        for k in range(hidden):
                            gate[g] = gate[g] + h[d, n, k] * r[d, g, k]
                    for u in range(hidden):
                        gate[u] = cell.act(0, d, gate[u])
                        gate[hidden + u] = cell.act(0, d, gate[hidden + u])
                    for u in range(hidden):
                        # The reset gate comes before the product, or after it.
                        kept[u] = T.Select(after > 0, h[d, n, u], h[d, n, u] * gate[hidden + u])
                    for u in range(hidden):
                        gate[2 * hidden + u] = bias[d, u]
                        for k in range(hidden):
                            gate[2 * hidden + u] = (
                                gate[2 * hidden + u] + kept[k] * r[d, 2 * hidden + u, k]
                            )
                        gate[2 * hidden + u] = cell.act(
                            1,
                            d,
                            x[cell.at(d, s, lengths[n]), n, d * 3 * hidden + 2 * hidden + u]
                            + T.Select(
                                after > 0,
                                gate[2 * hidden + u] * gate[hidden + u],
                                gate[2 * hidden + u],
                            ),
                        )
                    for u in range(hidden):
                        h[d, n, u] = (T.Cast(kind, 1) - gate[u]) * gate[2 * hidden + u] + gate[
                            u
                        ] * h[d, n, u]
                        y[cell.at(d, s, lengths[n]), d, n, u] = h[d, n, u]

    return loops.with_attr(RECURRENT, cell.description("gru"))


def lstm_cell_loops(cell: Cell) -> tirx.PrimFunc:
    """c' = f * c + i * g and h' = o * act(c'), of the gates i, o, f and g, in this order."""
    (steps, batch), directions, hidden, kind = cell.size, cell.directions, cell.hidden, cell.kind
    couples = 1 if cell.flag else 0

    @T.prim_func(private=True)
    def loops(
        x: T.Buffer((steps, batch, directions * 4 * hidden), kind),
        r: T.Buffer((directions, 4 * hidden, hidden), kind),
        peep: T.Buffer((directions, 3 * hidden), kind),
        lengths: T.Buffer((batch,), "int64"),
        h0: T.Buffer((directions, batch, hidden), kind),
        c0: T.Buffer((directions, batch, hidden), kind),
        y: T.Buffer((steps, directions, batch, hidden), kind),
        h: T.Buffer((directions, batch, hidden), kind),
        c: T.Buffer((directions, batch, hidden), kind),
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        gate = T.alloc_buffer((4 * hidden,), kind)
        for d in range(directions):
            for n in range(batch):
                for u in range(hidden):
                    h[d, n, u] = h0[d, n, u]
                    c[d, n, u] = c0[d, n, u]
                for s in range(steps):
                    for u in range(hidden):
                        y[s, d, n, u] = T.Cast(kind, 0)
                for s in range(T.min(lengths[n], steps)):
                    for g in range(4 * hidden):
                        gate[g] = x[cell.at(d, s, lengths[n]), n, d * 4 * hidden + g]
                        for k in range(hidden):
                            gate[g] = gate[g] + h[d, n, k] * r[d, g, k]
                    for u in range(hidden):
                        gate[u] = cell.act(0, d, gate[u] + peep[d, u] * c[d, n, u])
                        gate[2 * hidden + u] = T.Select(
                            couples > 0,
                            T.Cast(kind, 1) - gate[u],
                            cell.act(
                                0,
                                d,
                                gate[2 * hidden + u] + peep[d, 2 * hidden + u] * c[d, n, u],
                            ),
                        )
                        c[d, n, u] = gate[2 * hidden + u] * c[d, n, u] + gate[u] * cell.act(
                            1, d, gate[3 * hidden + u]
                        )
                        gate[hidden + u] = cell.act(
                            0, d, gate[hidden + u] + peep[d, hidden + u] * c[d, n, u]
                        )
                    for u in range(hidden):
                        h[d, n, u] = gate[hidden + u] * cell.plain(2, d, c[d, n, u])
                        y[cell.at(d, s, lengths[n]), d, n, u] = h[d, n, u]

    return loops.with_attr(RECURRENT, cell.description("lstm_cell"))


# By the name in the description.
CELL_LOOPS: dict[str, Callable[[Cell], tirx.PrimFunc]] = {
    "rnn": rnn_loops,
    "gru": gru_loops,
    "lstm_cell": lstm_cell_loops,
}
