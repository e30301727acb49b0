"""The LSTM that most models have, as a plain loop nest: the one that targets have kernels for."""

# TVMScript's annotations are values, which mypy cannot read.
# mypy: disable-error-code="valid-type, no-untyped-def"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from relaxc.recurrent.cells import RECURRENT


def lstm_loops(size: Sequence[Any], directions: int, hidden: int, backward: bool) -> tirx.PrimFunc:
    """The recurrence of an LSTM, gate by gate in ONNX's order: input, output, forget, cell.

    Args:
        size: steps and batch; may be symbolic.
        directions: 1, or 2 of which the second runs backward.
        hidden: units.
        backward: whether a single direction runs backward.

    The parameters are projected inputs (steps, batch, directions * 4 * hidden), recurrent weights
    (directions, 4 * hidden, hidden), initial hidden and cell state (directions, batch, hidden),
    and ONNX's three results.
    """
    steps, batch = size
    d4h = directions * 4 * hidden

    @T.prim_func(private=True)
    def loops(
        x: T.Buffer((steps, batch, d4h), "float32"),
        r: T.Buffer((directions, 4 * hidden, hidden), "float32"),
        h0: T.Buffer((directions, batch, hidden), "float32"),
        c0: T.Buffer((directions, batch, hidden), "float32"),
        y: T.Buffer((steps, directions, batch, hidden), "float32"),
        h: T.Buffer((directions, batch, hidden), "float32"),
        c: T.Buffer((directions, batch, hidden), "float32"),
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        gate = T.alloc_buffer((4 * hidden,), "float32")
        for d in range(directions):
            for n in range(batch):
                for u in range(hidden):
                    h[d, n, u] = h0[d, n, u]
                    c[d, n, u] = c0[d, n, u]
                for s in range(steps):
                    for g in range(4 * hidden):
                        gate[g] = x[_step(d, s, steps, directions, backward), n, d * 4 * hidden + g]
                        for k in range(hidden):
                            gate[g] = gate[g] + h[d, n, k] * r[d, g, k]
                    for u in range(hidden):
                        c[d, n, u] = T.sigmoid(gate[2 * hidden + u]) * c[d, n, u] + T.sigmoid(
                            gate[u]
                        ) * T.tanh(gate[3 * hidden + u])
                        h[d, n, u] = T.sigmoid(gate[hidden + u]) * T.tanh(c[d, n, u])
                        y[_step(d, s, steps, directions, backward), d, n, u] = h[d, n, u]

    return loops.with_attr(
        RECURRENT, {"cell": "lstm", "directions": directions, "backward": int(backward)}
    )


def _step(direction: Any, step: Any, steps: Any, directions: int, backward: bool) -> Any:
    """The position that a direction visits at a step."""
    if directions == 1:
        return steps - 1 - step if backward else step
    return tirx.Select(direction < 1, step, steps - 1 - step)
