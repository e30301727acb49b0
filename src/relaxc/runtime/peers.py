"""The memory that GPUs share which compute one model, and how their kernels find it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from relaxc import communicator
from relaxc.artifact import Artifact
from relaxc.errors import ArtifactError, TargetError
from relaxc.runtime.cuda import Gpu
from relaxc.runtime.device_tensor import empty_like

_ALREADY_ENABLED = 704


class Peers:
    """Areas of memory of each of several GPUs, which all can write to."""

    def __init__(self, path: Path, gpus: Sequence[Gpu]) -> None:
        """Make the GPUs reach each other, and allocate.

        Raises:
            TargetError: one cannot reach another's memory.
        """
        self._gpus = list(gpus)
        for gpu in gpus:
            gpu.activate()
            for other in gpus:
                if other is not gpu:
                    _connect(path, gpu, other)
        size = communicator.area_bytes(len(self._gpus))
        self._areas = []
        for gpu in gpus:
            gpu.activate()
            area = empty_like((size,), np.dtype(np.uint8), gpu)
            gpu.call("cudaMemset", ctypes.c_void_p(area.address), 0, ctypes.c_size_t(size))
            gpu.synchronize()
            self._areas.append(area)

    def introduce(self, places: Sequence[int], *, joined: bool) -> None:
        """Tell the kernels of each GPU where the areas are, and whether to use them.

        Waits until what was asked for before is done.

        Args:
            places: of the communicator, on each GPU.
            joined: whether they add up their parts; else each computes alone.
        """
        count = len(self._gpus)
        for gpu in self._gpus:
            gpu.activate()
            gpu.synchronize()
        for rank, (gpu, place) in enumerate(zip(self._gpus, places)):
            numbers = np.zeros(len(communicator.PLACEHOLDER) // 8, np.uint64)
            numbers[communicator.RANK], numbers[communicator.RANKS] = rank, count
            numbers[communicator.IS_JOINED] = joined
            addresses = [area.address for area in self._areas]
            numbers[communicator.AREAS : communicator.AREAS + count] = addresses
            gpu.activate()
            gpu.upload(place, numbers)
            gpu.synchronize()


def communicator_offset(piece: Artifact) -> int:
    """Where in a GPU's weights the communicator lies.

    Raises:
        ArtifactError: nowhere.
    """
    size = len(communicator.PLACEHOLDER)
    for array, entry in zip(piece.weights(), piece.manifest["weights"]):
        if array.nbytes == size and array.tobytes() == communicator.PLACEHOLDER:
            return int(entry["offset"])
    raise ArtifactError(
        f"`{piece.path}` was made by another relaxc, whose GPUs meet elsewhere; compile the model "
        "again"
    )


def _connect(path: Path, gpu: Gpu, other: Gpu) -> None:
    can = ctypes.c_int()
    gpu.call("cudaDeviceCanAccessPeer", ctypes.byref(can), gpu.index, other.index)
    if not can.value:
        raise TargetError(
            f"`{path}` is divided among GPUs that write to each other's memory, but GPU "
            f"{gpu.index} ({gpu.name}) cannot reach that of GPU {other.index}; use GPUs that "
            "NVLink connects, or compile the model for one"
        )
    gpu.call("cudaDeviceEnablePeerAccess", other.index, 0, accepted=(_ALREADY_ENABLED,))
