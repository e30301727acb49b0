"""What a recurrent loop nest says of itself, and the same recurrence with fewer units.

The importer writes the loops; a target may put a kernel in their place, and pruning writes them
again for the units that are left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm import IRModule, relax, tirx

from relaxc.recurrent.cells import CELL_LOOPS, RECURRENT, Cell
from relaxc.recurrent.plain_lstm import lstm_loops


def description(func: Any) -> Mapping[str, Any] | None:
    """What a function computes, if it is a recurrence."""
    if not isinstance(func, tirx.PrimFunc) or not func.attrs:
        return None
    found: Mapping[str, Any] | None = func.attrs.get(RECURRENT)
    return found


def described(mod: IRModule, call: relax.Call) -> Mapping[str, Any] | None:
    """What a call computes, if it runs a recurrence."""
    return description(mod[call.args[0]]) if call.op.name == "relax.call_tir" else None


def units(call: relax.Call) -> int:
    """The number of units of a recurrence, where it is called."""
    return int(call.args[1].fields[1].ty.shape.values[2])


def with_units(func: tirx.PrimFunc, hidden: int) -> tirx.PrimFunc:
    """The same recurrence with another number of units."""
    said = description(func)
    assert said is not None
    gates = func.params[0]
    size = list(gates.shape)[:2]
    if said["cell"] == "lstm":
        return lstm_loops(size, int(said["directions"]), hidden, bool(said["backward"]))
    cell = Cell.described(said, size, hidden, str(gates.dtype))
    return CELL_LOOPS[said["cell"]](cell)
