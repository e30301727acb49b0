"""Calibration data: samples of real inputs, from a file, a folder or the user's code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relaxc.errors import InputError, OptionError
from relaxc.measure.feeds import read_feed
from relaxc.runtime.model import TensorInfo

Feed = Mapping[str, Any]
Samples = Callable[[Sequence[TensorInfo]], Iterable[Feed]]


def samples_from(source: str) -> Samples:
    """Where samples come from, as `--calibrate` says it.

    Args:
        source: an `.npz` file, whose arrays hold the samples along their first axis; a folder of
            `.npz` files, each of which holds the inputs of one call; or `module:function`, which
            is called without arguments and gives dictionaries from input names to arrays.

    Returns:
        A function from the model's inputs to the samples, which are read one by one.

    Raises:
        OptionError: it is none of these.
    """
    path = Path(source)
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files:
            raise OptionError(f"folder `{path}` holds no .npz files")
        return lambda inputs: (read_feed(file, inputs) for file in files)
    if path.suffix == ".npz" or path.is_file():
        if not path.is_file():
            raise OptionError(f"calibration data `{path}` does not exist")
        return lambda inputs: _split(path, inputs)
    module, colon, name = source.partition(":")
    if not colon or not module or not name:
        raise OptionError(
            f"`{source}` is not calibration data; give an .npz file, a folder of them, or "
            "`module:function`"
        )
    loader = imported(module, name)
    return lambda _inputs: loader()


def _split(path: Path, inputs: Sequence[TensorInfo]) -> Iterator[Feed]:
    """Slices along the first axis, each as long as the model's batch (1 where it is symbolic)."""
    arrays = read_feed(path, inputs)
    known = [info for info in inputs if info.name in arrays]
    if len(known) < len(inputs) or not inputs:
        missing = ", ".join(f"`{i.name}`" for i in inputs if i.name not in arrays)
        raise InputError(f"`{path}` has no samples of {missing or 'any input'}")
    scalars = [info.name for info in known if not info.shape or arrays[info.name].ndim == 0]
    if scalars:
        raise InputError(
            f"input `{scalars[0]}` has no axis to hold samples; give a folder with one .npz file "
            "per sample instead"
        )
    counts = {}
    for info in known:
        batch = info.shape[0] if isinstance(info.shape[0], int) else 1
        counts[info.name] = len(arrays[info.name]) // batch
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} of `{name}`" for name, count in counts.items())
        raise InputError(f"`{path}` holds different numbers of samples: {listed}")
    for i in range(min(counts.values())):
        yield {name: _slice(arrays[name], i, counts[name]) for name in counts}


def _slice(array: np.ndarray, i: int, count: int) -> np.ndarray:
    size = len(array) // count
    part: np.ndarray = array[i * size : (i + 1) * size]
    return part


def imported(module: str, name: str) -> Callable[..., Any]:
    """A function of the user's.

    Raises:
        OptionError: there is none of that name.
    """
    # Like `python -m`: the user's own modules lie in the current folder.
    sys.path.insert(0, str(Path.cwd()))
    try:
        loader = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as err:
        raise OptionError(f"cannot import `{name}` from module `{module}`: {err}") from err
    finally:
        sys.path.pop(0)
    if not callable(loader):
        raise OptionError(f"`{module}:{name}` is not a function")
    result: Callable[..., Any] = loader
    return result
