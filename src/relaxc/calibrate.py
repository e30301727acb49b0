"""Run an instrumented artifact on calibration data and collect what its observers see."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi

from relaxc.errors import InputError
from relaxc.passes.quantize.histogram import Histogram
from relaxc.passes.quantize.instrument import OBSERVE
from relaxc.runtime.model import TensorInfo
from relaxc.runtime.session import load

Feed = Mapping[str, Any]
CalibrationData = Iterable[Feed] | Callable[[Sequence[TensorInfo]], Iterable[Feed]]

# Compiled code finds the observer by its global name: one calibration at a time.
_lock = threading.Lock()


def observe(artifact: Path, data: CalibrationData) -> dict[int, Histogram]:
    """Run an instrumented artifact on every feed.

    Args:
        artifact: its observers are calls of `OBSERVE`.
        data: feeds, or a function that gives them when told the model's inputs.

    Returns:
        The histogram of each observer.

    Raises:
        InputError: a feed does not fit the model, there is none, or it leads to NaN or infinity.
    """
    seen: dict[int, Histogram] = defaultdict(Histogram)
    broken: list[int] = []

    def watch(value: tvm_ffi.Tensor, number: int, _out: tvm_ffi.Tensor) -> None:
        try:
            seen[number].add(np.from_dlpack(value))
        except ValueError:
            broken.append(number)

    count = 0
    with _lock:
        tvm_ffi.register_global_func(OBSERVE, watch, override=True)
        try:
            model = load(artifact)
            feeds = data(model.inputs) if callable(data) else data
            for count, feed in enumerate(feeds, 1):
                model.run(feed)
                if broken:
                    _require_finite(feed, count)
                    raise InputError(
                        f"calibration sample {count} leads to NaN or infinite values inside the "
                        "model; leave it out, or look for what it divides by zero"
                    )
        finally:
            tvm_ffi.registry.remove_global_func(OBSERVE)
    if not count:
        raise InputError("there is no calibration data; give at least one sample")
    return dict(seen)


def _require_finite(feed: Feed, number: int) -> None:
    for name, value in feed.items():
        array = np.asarray(value)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(
                f"calibration sample {number} holds NaN or infinite values in input `{name}`; "
                "leave it out"
            )


def recovery_samples(
    inputs: Sequence[Mapping[str, Any]], data: CalibrationData
) -> list[Sequence[np.ndarray]]:
    """All samples as lists of arrays in the order of the inputs, several in one where that works.

    Args:
        inputs: name, dtype and shape of every input, as in the manifest.
        data: feeds, or a function that gives them when told the model's inputs.

    Raises:
        InputError: a feed does not fit the model, or there is none.
    """
    infos = [TensorInfo(e["name"], e["dtype"], tuple(e["shape"])) for e in inputs]
    rows: list[Sequence[np.ndarray]] = []
    for number, feed in enumerate(data(infos) if callable(data) else data, 1):
        rows.append([_fitting(info, feed, number) for info in infos])
    if not rows:
        raise InputError("there are no samples to prune by; give at least one")
    first = {info.shape[0] if info.shape else 1 for info in infos}
    batch = next(iter(first)) if len(first) == 1 else 1
    alike = all(a.shape[1:] == b.shape[1:] for row in rows for a, b in zip(row, rows[0]))
    if not isinstance(batch, str) or not alike:
        return rows
    return [
        [np.concatenate(arrays) for arrays in zip(*rows[start : start + _BATCH])]
        for start in range(0, len(rows), _BATCH)
    ]


# Calls that are joined to one where the batch is open.
_BATCH = 32


def _fitting(info: TensorInfo, feed: Feed, number: int) -> np.ndarray:
    if info.name not in feed:
        raise InputError(f"sample {number} has no input `{info.name}`")
    array = np.ascontiguousarray(feed[info.name])
    fits = len(array.shape) == len(info.shape) and all(
        isinstance(dim, str) or dim == size for dim, size in zip(info.shape, array.shape)
    )
    if not fits or array.dtype.name != info.dtype:
        raise InputError(
            f"sample {number} does not fit: input is `{info}`, not {array.dtype}{list(array.shape)}"
        )
    return array
