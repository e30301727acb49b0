"""Recurrent layers: the kernel that takes the place of the plain loops of the import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tvm import tirx

from relaxc.targets.llvm.kernels.builder import KernelBuilder
from relaxc.targets.llvm.kernels.domain import simple
from relaxc.targets.llvm.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.lstm import LstmBuffers, LstmSpec, emit, pack_weights
from relaxc.targets.llvm.machine import Machine


def lower_recurrent(
    func: tirx.PrimFunc, attrs: Mapping[str, Any], weight: np.ndarray, machine: Machine
) -> Kernel | None:
    """The kernel for a recurrence, with its weights packed; None where the plain loops must do."""
    if attrs["cell"] != "lstm":
        return None
    shapes = [tuple(simple(d) for d in param.shape) for param in func.params]
    steps, batch, _ = shapes[0]
    hidden = weight.shape[2]
    # Beside the weights the cache holds states and what passes through it.
    is_narrow = machine.lanes == 16 and 4 * hidden * hidden * 4 > machine.l2_bytes * 3 // 4
    directions, backward = int(attrs["directions"]), bool(attrs["backward"])
    spec = LstmSpec(steps, batch, directions, hidden, backward, is_narrow)
    packed = pack_weights(weight, spec, machine.lanes)
    shapes[1] = packed.shape
    b = KernelBuilder("lstm", machine.lanes)
    names = ("gates", "weight", "hidden0", "cell0", "outputs", "hidden", "cell")
    dtypes = ["float32", packed.dtype.name, *["float32"] * 5]
    emit(b, spec, LstmBuffers(*map(b.param, names, shapes, dtypes)))
    return Kernel("lstm", b.finish(), [packed])
