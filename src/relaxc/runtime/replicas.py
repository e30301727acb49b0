"""One model on several GPUs: each computes a part of the batch, at the same time.

What an artifact of a fixed batch takes is as many times that as there are GPUs; a symbolic batch is
divided evenly. Inputs without the batch, a table that all images share, go to every GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from relaxc.artifact import numpy_dtype
from relaxc.errors import InputError, OptionError
from relaxc.runtime.device_tensor import DeviceTensor
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
        self._pool = ThreadPoolExecutor(len(self._models), thread_name_prefix="relaxc")

    def _run(self, feed: Mapping[str, Any]) -> list[Any]:
        require_known(self.inputs, feed)
        count = len(self._models)
        parts: list[dict[str, Any]] = [{} for _ in self._models]
        for info, is_split in zip(self.inputs, self._is_split):
            array = as_array(feed[info.name], numpy_dtype(info.dtype))
            if is_split and (array.ndim == 0 or len(array) % count or not len(array)):
                raise InputError(
                    f"the batch of input `{info.name}` must be a multiple of {count}, one part for "
                    f"each GPU, not {len(array) if array.ndim else 'a number'}"
                )
            pieces = np.split(array, count) if is_split else [array] * count
            for part, piece in zip(parts, pieces):
                part[info.name] = piece
        done = list(self._pool.map(lambda pair: pair[0].run(pair[1]), zip(self._models, parts)))
        return [np.concatenate([part[info.name] for part in done]) for info in self.outputs]

    def synchronize(self) -> None:
        """Results are arrays: there is nothing to wait for."""

    def put(self, array: np.ndarray, name: str | None = None) -> DeviceTensor:
        """Not for several GPUs.

        Raises:
            OptionError: always.
        """
        raise OptionError(f"inputs of a model on {self.device} are divided: give arrays")

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
