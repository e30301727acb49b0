"""The units of a recurrent layer: one is a row of every gate, a column of what reads the state.

A unit that goes takes with it, in both directions: its column of every gate in the projected
inputs, its rows and its column in the recurrent weights, its biases and peepholes, its initial
states, and its part of every result. Nobody else reads its state, so that what is left computes
what it would compute if the recurrent weights that read the unit were zero.
"""

from __future__ import annotations

from tvm import relax

from relaxc.passes.prune.channels import Axes
from relaxc.passes.prune.dependency_rules import Site
from relaxc.recurrent.described import units

# Where the recurrent weights are among the operands, and which of their axes reads the state.
WEIGHT, STATE = 1, 2


def recurrence(site: Site) -> tuple[Axes, ...]:
    """Tie whatever has a part per unit; the axes of all results."""
    hidden = units(site.call)
    state = site.axes[WEIGHT][STATE]
    if site.is_constant(WEIGHT):
        site.contractions.append((WEIGHT, STATE))
    else:  # no weight of ours reads the state
        site.channels.fix(state)
    for number, axes in enumerate(site.axes):
        last = len(axes) - 1
        # Lengths of sequences have one axis, and no units.
        tied = [1, STATE] if number == WEIGHT else [last] if last else []
        site.fix_rest(number, but=tied)
        for axis in tied:
            # Gates, peepholes, directions: units are always innermost.
            parts = axes[axis]
            for part in [None] if parts is None else parts.reshape(-1, hidden):
                site.channels.unite(state, part)
    return tuple((*[None] * (field.ndim - 1), state) for field in site.call.ty.fields)


def narrowed(call: relax.Call, hidden: int) -> list[relax.TensorType]:
    """What a recurrence of fewer units gives."""
    return [
        relax.TensorType([*list(field.shape.values)[:-1], hidden], field.dtype)
        for field in call.ty.fields
    ]
