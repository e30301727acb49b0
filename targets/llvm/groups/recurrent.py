"""Recurrent layers: the kernel that takes the place of the plain loops of the import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tvm import tirx

from relaxc.targets.llvm.kernels.builder import KernelBuilder
from relaxc.targets.llvm.kernels.domain import simple
from relaxc.targets.llvm.kernels.gru import GruBuffers, GruSpec, emit_gru, pack_gru_weights
from relaxc.targets.llvm.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.lstm import LstmBuffers, LstmSpec, emit, pack_weights
from relaxc.targets.llvm.machine import Machine


def lower_recurrent(
    func: tirx.PrimFunc, attrs: Mapping[str, Any], weight: np.ndarray, machine: Machine
) -> Kernel | None:
    """The kernel for a recurrence, with its weights packed; None where the plain loops must do."""
    if attrs["cell"] == "gru":
        return _lower_gru(func, attrs, weight, machine)
    if attrs["cell"] != "lstm":
        return None
    shapes = [tuple(simple(d) for d in param.shape) for param in func.params]
    steps, batch, _ = shapes[0]
    hidden = weight.shape[2]
    # Beside the weights the cache holds states and what passes through it.
    is_narrow = machine.lanes == 16 and 4 * hidden * hidden * 4 > machine.l2_bytes * 3 // 4
    directions, backward = int(attrs["directions"]), bool(attrs["backward"])
    rows = _rows(batch, directions, machine)
    spec = LstmSpec(
        steps, batch, directions, hidden, backward, is_narrow, rows, machine.registers // 2
    )
    packed = pack_weights(weight, spec, machine.lanes)
    shapes[1] = packed.shape
    b = KernelBuilder("lstm", machine.lanes)
    names = ("gates", "weight", "hidden0", "cell0", "outputs", "hidden", "cell")
    dtypes = ["float32", packed.dtype.name, *["float32"] * 5]
    emit(b, spec, LstmBuffers(*map(b.param, names, shapes, dtypes)))
    return Kernel("lstm", b.finish(), [packed])


def _rows(batch: Any, directions: int, machine: Machine) -> int:
    """Sequences to compute together: four gates of each stay in registers, all cores get some."""
    if not isinstance(batch, int):
        return 1
    return max(1, min(4 if machine.registers == 32 else 2, batch * directions // machine.cores))


def _lower_gru(
    func: tirx.PrimFunc, attrs: Mapping[str, Any], weight: np.ndarray, machine: Machine
) -> Kernel | None:
    """The kernel for a GRU with the usual activations."""
    usual = all(
        [[str(x).lower() for x in a] for a in those] == _USUAL for those in attrs["activations"]
    )
    if not usual or attrs["clip"] is not None or weight.dtype != np.float32:
        return None
    shapes = [tuple(simple(d) for d in param.shape) for param in func.params]
    steps, batch, _ = shapes[0]
    directions, backward = int(attrs["directions"]), bool(attrs["backward"])
    spec = GruSpec(steps, batch, directions, weight.shape[2], backward, bool(attrs["flag"]))
    packed = pack_gru_weights(weight, spec, machine.lanes)
    shapes[1] = packed.shape
    b = KernelBuilder("gru", machine.lanes)
    names = ("gates", "weight", "bias", "lengths", "hidden0", "outputs", "hidden")
    dtypes = ["float32"] * 3 + ["int64"] + ["float32"] * 3
    emit_gru(b, spec, GruBuffers(*map(b.param, names, shapes, dtypes)))
    return Kernel("gru", b.finish(), [packed])


# Name and parameters of a GRU's activations.
_USUAL = [["sigmoid", "none", "none"], ["tanh", "none", "none"]]
