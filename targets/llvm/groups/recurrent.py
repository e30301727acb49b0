"""Recurrent layers: the kernel that takes the place of the plain loops of the import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tvm import tirx

from relaxc.layout import ARITHMETIC, Element
from relaxc.targets.llvm.kernels.builder import KernelBuilder
from relaxc.targets.llvm.kernels.domain import simple
from relaxc.targets.llvm.kernels.gru import GruBuffers, emit_gru, pack_gru_weights
from relaxc.targets.llvm.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.lstm import LstmBuffers, emit_lstm
from relaxc.targets.llvm.kernels.recurrence import Recurrence
from relaxc.targets.llvm.kernels.recurrent_panels import Storage
from relaxc.targets.llvm.kernels.rnn import RNN_ACTIVATIONS, RnnBuffers, emit_rnn
from relaxc.targets.llvm.machine import Machine


def lower_recurrent(
    func: tirx.PrimFunc,
    attrs: Mapping[str, Any],
    weight: np.ndarray,
    element: Element,
    machine: Machine,
) -> Kernel | None:
    """The kernel for a recurrence, with its weights packed; None where the plain loops must do."""
    cell = str(attrs["cell"])
    if weight.dtype != np.float32 or cell not in _PARAMS:
        return None
    if cell == "lstm":
        return _lower_lstm(func, attrs, weight, element, machine, False)
    activations = {
        tuple(tuple(str(x).lower() for x in activation) for activation in those)
        for those in attrs["activations"]
    }
    chosen = activations.pop()
    if activations:  # directions differ
        return None
    if cell == "lstm_cell" and chosen == (_SIGMOID, _TANH, _TANH):
        return _lower_lstm(func, attrs, weight, element, machine, bool(attrs["flag"]))
    if cell == "gru" and chosen == (_SIGMOID, _TANH):
        return _lower_gru(func, attrs, weight, element, machine)
    if cell == "rnn" and chosen in _OF_RNN:
        return _lower_rnn(func, attrs, weight, element, machine, chosen[0][0])
    return None


def _lower_lstm(
    func: tirx.PrimFunc,
    attrs: Mapping[str, Any],
    weight: np.ndarray,
    element: Element,
    machine: Machine,
    couples: bool,
) -> Kernel:
    hidden = weight.shape[2]
    # Beside the weights the cache holds states and what passes through it.
    is_large = machine.lanes == 16 and 4 * hidden * hidden * 4 > machine.l2_bytes * 3 // 4
    spec = _sizes(func, attrs, hidden, machine, _storage(element, is_large))
    packed = spec.panels(4, machine.lanes).pack(weight)
    b = KernelBuilder("lstm", machine.lanes)
    emit_lstm(b, spec, LstmBuffers(**_params(b, func, attrs, packed)), couples)
    return _finished(b, packed, spec)


def _lower_gru(
    func: tirx.PrimFunc,
    attrs: Mapping[str, Any],
    weight: np.ndarray,
    element: Element,
    machine: Machine,
) -> Kernel:
    is_after = bool(attrs["flag"])
    spec = _sizes(func, attrs, weight.shape[2], machine, _storage(element, False))
    packed = pack_gru_weights(weight, spec, machine.lanes, is_after)
    b = KernelBuilder("gru", machine.lanes)
    emit_gru(b, spec, GruBuffers(**_params(b, func, attrs, packed)), is_after)
    return _finished(b, packed, spec)


def _lower_rnn(
    func: tirx.PrimFunc,
    attrs: Mapping[str, Any],
    weight: np.ndarray,
    element: Element,
    machine: Machine,
    activation: str,
) -> Kernel:
    spec = _sizes(func, attrs, weight.shape[2], machine, _storage(element, False))
    packed = spec.panels(1, machine.lanes).pack(weight)
    b = KernelBuilder("rnn", machine.lanes)
    emit_rnn(b, spec, RnnBuffers(**_params(b, func, attrs, packed)), activation)
    return _finished(b, packed, spec)


def _storage(element: Element, is_large: bool) -> Storage:
    if element == "bfloat16":
        return "bfloat16"
    return "bits24" if is_large else "float32"


def _sizes(
    func: tirx.PrimFunc,
    attrs: Mapping[str, Any],
    hidden: int,
    machine: Machine,
    storage: Storage,
) -> Recurrence:
    steps, batch = (simple(d) for d in list(func.params[0].shape)[:2])
    directions = int(attrs["directions"])
    # Gates of each sequence stay in registers.
    rows = 4 if machine.registers == 32 else 2
    if isinstance(batch, int):
        rows = max(1, min(rows, batch * directions // machine.cores))
    clip = attrs.get("clip")
    return Recurrence(
        *(steps, batch, directions, hidden, bool(attrs["backward"]), rows),
        sums=16 if machine.registers == 32 else 12,
        cores=machine.cores,
        storage=storage,
        clip=None if clip is None else float(clip),
    )


def _params(
    b: KernelBuilder, func: tirx.PrimFunc, attrs: Mapping[str, Any], packed: np.ndarray
) -> dict[str, Any]:
    """The buffers of the loops' parameters, the weights as they are packed."""
    names = _PARAMS[str(attrs["cell"])]
    found = {}
    for name, param in zip(names, func.params, strict=True):
        shape = [simple(d) for d in param.shape]
        is_weight = name == "weight"
        found[name] = b.param(
            name,
            packed.shape if is_weight else shape,
            packed.dtype.name if is_weight else str(param.dtype),
        )
    return found


def _finished(b: KernelBuilder, packed: np.ndarray, spec: Recurrence) -> Kernel:
    kernel = Kernel(b.name, b.finish(), [packed])
    return kernel.with_attr(ARITHMETIC, "bfloat16") if spec.storage == "bfloat16" else kernel


# What the loops of a kind of cell take, in order.
_PARAMS = {
    "lstm": ("gates", "weight", "hidden0", "cell0", "outputs", "hidden", "cell"),
    "lstm_cell": (
        *("gates", "weight", "peep", "lengths", "hidden0", "cell0"),
        *("outputs", "hidden", "cell"),
    ),
    "gru": ("gates", "weight", "bias", "lengths", "hidden0", "outputs", "hidden"),
    "rnn": ("gates", "weight", "lengths", "hidden0", "outputs", "hidden"),
}
# Name and parameters of activations.
_SIGMOID, _TANH = ("sigmoid", "none", "none"), ("tanh", "none", "none")
_OF_RNN = [((name, "none", "none"),) for name in RNN_ACTIVATIONS]
