"""One model on several GPUs: each computes a part of the batch, at the same time.

What an artifact of a fixed batch takes is as many times that as there are GPUs; a symbolic batch is
divided evenly. Inputs without the batch, a table that all images share, go to every GPU.

Copies of arrays keep a thread busy: each GPU has its own, the caller's among them. Where all inputs
lie on the GPUs already (`put`), a call only starts kernels, and returns before they are done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import numpy as np

from relaxc.artifact import numpy_dtype
from relaxc.errors import InputError, OptionError
from relaxc.runtime import ffi
from relaxc.runtime.divided_tensor import DividedTensor
from relaxc.runtime.model import Model, TensorInfo, require_known
from relaxc.runtime.profiler import TimedRun
from relaxc.runtime.tensors import as_array


class Replicas(Model):
    """A model loaded once for each of several devices.

    Attributes:
        inputs, outputs: of all of them together.
        device: which they are, as `cuda:0,1`.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        """Join them.

        Args:
            models: the same artifact, loaded on each device.

        Raises:
            OptionError: the first dimension of its first input is no batch of all outputs.
        """
        self._models = list(models)
        first = models[0]
        self.device = first.device + "".join(f",{m.device.rpartition(':')[2]}" for m in models[1:])
        self.manifest = first.manifest
        self.threads = first.threads
        batch = first.inputs[0].shape[:1] if first.inputs else ()
        lacking = [i.name for i in (*first.inputs[:1], *first.outputs) if i.shape[:1] != batch]
        if not batch or lacking:
            name = lacking[0] if lacking else "the first input"
            raise OptionError(
                f"`{name}` has no batch to divide among {self.device}; load the model on one GPU"
            )
        self._batch = batch[0]
        self._is_split = [info.shape[:1] == batch for info in first.inputs]
        self.inputs = tuple(map(self._joined, first.inputs))
        self.outputs = tuple(map(self._joined, first.outputs))
        # Enough for a few callers at the same time; threads begin when they are needed.
        most = 4 * max(1, len(self._models) - 1)
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="relaxc")

    def _run(self, feed: Mapping[str, Any]) -> list[Any]:
        require_known(self.inputs, feed)
        parts: list[dict[str, Any]] = [{} for _ in self._models]
        for info, is_split in zip(self.inputs, self._is_split):
            for part, piece in zip(parts, self._pieces(info, is_split, feed[info.name])):
                part[info.name] = piece
        if all(isinstance(value, DividedTensor) for value in feed.values()):
            done = [model.run(part) for model, part in zip(self._models, parts)]
        else:
            others = [
                self._pool.submit(model.run, part)
                for model, part in zip(self._models[1:], parts[1:])
            ]
            try:
                done = [self._models[0].run(parts[0])]
            finally:
                wait(others)
            done += [other.result() for other in others]
        found = []
        for info in self.outputs:
            results = [part[info.name] for part in done]
            are_arrays = isinstance(results[0], np.ndarray)
            found.append(np.concatenate(results) if are_arrays else DividedTensor(results, 0))
        return found

    def _pieces(self, info: TensorInfo, is_split: bool, value: Any) -> Sequence[Any]:
        """What each GPU gets of an input."""
        count = len(self._models)
        if isinstance(value, DividedTensor):
            if len(value.parts) != count or value.axis != (0 if is_split else None):
                raise InputError(
                    f"input `{info.name}` lies on the GPUs in other parts; "
                    f"`put` it with the name `{info.name}`"
                )
            return value.parts
        if hasattr(value, "__dlpack_device__") and value.__dlpack_device__()[0] == ffi.CUDA:
            raise InputError(
                f"input `{info.name}` is a tensor on one GPU; give an array, or `put` it"
            )
        array = as_array(value, numpy_dtype(info.dtype))
        if is_split and (array.ndim == 0 or len(array) % count or not len(array)):
            raise InputError(
                f"the batch of input `{info.name}` must be a multiple of {count}, one part for "
                f"each GPU, not {len(array) if array.ndim else 'a number'}"
            )
        return np.split(array, count) if is_split else [array] * count

    def synchronize(self) -> None:
        """Wait for all GPUs."""
        for model in self._models:
            model.synchronize()

    def put(  # type: ignore[override]
        self, array: np.ndarray, name: str | None = None
    ) -> DividedTensor:
        """Copy an array to the GPUs: to each its part of the batch, or whole to all.

        Args:
            array: what to copy.
            name: of the input; the first one, if it is not given.

        Raises:
            InputError: no input has that name, or the batch cannot be divided.
            OptionError: the models run on the CPU.
        """
        names = [info.name for info in self.inputs]
        if name is not None and name not in names:
            raise InputError(f"unknown input `{name}`; the model takes {', '.join(names)}")
        place = 0 if name is None else names.index(name)
        is_split = self._is_split[place]
        pieces = self._pieces(self.inputs[place], is_split, array)
        parts = [model.put(piece) for model, piece in zip(self._models, pieces)]
        return DividedTensor(parts, 0 if is_split else None)

    def profile(self, feed: Mapping[str, Any], runs: int) -> list[TimedRun]:
        """Not for GPUs.

        Raises:
            OptionError: always.
        """
        return self._models[0].profile(feed, runs)

    def _joined(self, info: TensorInfo) -> TensorInfo:
        first = info.shape[:1]
        if first != (self._batch,) or isinstance(self._batch, str):
            return info
        return replace(info, shape=(self._batch * len(self._models), *info.shape[1:]))
