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
from relaxc.runtime.session import TensorInfo, load

Feed = Mapping[str, Any]
CalibrationData = Iterable[Feed] | Callable[[Sequence[TensorInfo]], Iterable[Feed]]

# Compiled code finds the observer by its global name: one calibration at a time.
_lock = threading.Lock()


def observe(artifact: Path, data: CalibrationData) -> tuple[dict[int, Histogram], int]:
    """Run an instrumented artifact on every feed.

    Args:
        artifact: its observers are calls of `OBSERVE`.
        data: feeds, or a function that gives them when told the model's inputs.

    Returns:
        The histogram of each observer, and the number of feeds.

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
                    raise InputError(
                        f"calibration sample {count} leads to NaN or infinite values inside the "
                        "model; leave it out, or look for what it divides by zero"
                    )
        finally:
            tvm_ffi.registry.remove_global_func(OBSERVE)
    if not count:
        raise InputError("there is no calibration data; give at least one sample")
    return dict(seen), count
