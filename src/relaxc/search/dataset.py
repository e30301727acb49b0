"""Samples and labels, and which of them serve what.

Ranges are calibrated on one part, candidates are compared on a second, and the winner is judged on
a third that the search never saw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from relaxc.calibrate import CalibrationData
from relaxc.errors import InputError
from relaxc.frontend.extension import Extension
from relaxc.frontend.importer import from_onnx
from relaxc.manifest import describe_inputs
from relaxc.options import CompileOptions
from relaxc.runtime.model import TensorInfo

Feed = Mapping[str, Any]
# More samples hardly change the range of an activation.
_MOST_CALIBRATION = 256
# With fewer than this, every part would say nothing: all of them serve everything.
_FEWEST = 12


@dataclass(frozen=True)
class Part:
    """Some of the samples.

    Attributes:
        feeds: one per call of the model.
        labels: one array per call; None where there are none.
    """

    feeds: tuple[Feed, ...]
    labels: tuple[np.ndarray, ...] | None


@dataclass(frozen=True)
class Dataset:
    """Samples split into parts, the same way for the same seed.

    Attributes:
        calibration: for ranges of activations.
        search: for comparing candidates.
        held_out: for the verdict on the winner.
        sha256: of all samples and labels.
        is_split: whether the parts are disjoint.
    """

    calibration: Part
    search: Part
    held_out: Part
    sha256: str
    is_split: bool


def feeds_of(model: Path, data: CalibrationData, options: CompileOptions) -> tuple[list[Feed], str]:
    """The samples for a model, and the model's SHA-256."""
    extension = Extension.parse(options.preprocess, options.postprocess)
    imported = from_onnx(model, options.input_shapes, extension)
    inputs = [
        TensorInfo(i["name"], i["dtype"], tuple(i["shape"])) for i in describe_inputs(imported)
    ]
    return list(data(inputs) if callable(data) else data), imported.sha256


def split(samples: Iterable[Feed], labels: np.ndarray | None, seed: int) -> Dataset:
    """Split samples: a quarter, at most 256, calibrates; half of the rest is for the search.

    Args:
        samples: inputs of one call each.
        labels: [n, ...], as many for every call as the first axis of its inputs is long.
        seed: of the random order.

    Raises:
        InputError: there are no samples, or more or fewer labels than samples.
    """
    feeds = tuple(dict(feed) for feed in samples)
    if not feeds:
        raise InputError("there are no samples; give at least one")
    whole = Part(feeds, None if labels is None else _per_call(labels, len(feeds)))
    digest = _sha256(whole)
    if len(feeds) < _FEWEST:
        return Dataset(whole, whole, whole, digest, is_split=False)
    order = np.random.default_rng(seed).permutation(len(feeds))
    first = min(_MOST_CALIBRATION, len(feeds) // 4)
    middle = first + (len(feeds) - first) // 2
    chosen = (order[:first], order[first:middle], order[middle:])
    calibration, search, held_out = (_select(whole, np.sort(indices)) for indices in chosen)
    return Dataset(calibration, search, held_out, digest, is_split=True)


def _per_call(labels: np.ndarray, calls: int) -> tuple[np.ndarray, ...]:
    if labels.ndim == 0 or not len(labels) or len(labels) % calls:
        raise InputError(
            f"labels of shape {list(labels.shape)} do not fit {calls} calls of the model; give "
            "one label per sample"
        )
    return tuple(np.split(labels, calls))


def _select(whole: Part, indices: Sequence[int] | np.ndarray) -> Part:
    labels = whole.labels
    return Part(
        tuple(whole.feeds[i] for i in indices),
        None if labels is None else tuple(labels[i] for i in indices),
    )


def _sha256(part: Part) -> str:
    digest = hashlib.sha256()
    for feed in part.feeds:
        for name, value in sorted(feed.items()):
            array = np.ascontiguousarray(value)
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
    for label in part.labels or ():
        digest.update(np.ascontiguousarray(label).tobytes())
    return digest.hexdigest()


def read_labels(path: Path) -> np.ndarray:
    """Read labels from an `.npy` file.

    Raises:
        InputError: the file is missing, or no such file.
    """
    try:
        labels = np.load(path, allow_pickle=False)
    except OSError as err:
        raise InputError(f"cannot read labels from `{path}`: {err.strerror or err}") from err
    except Exception as err:  # NumPy, zipfile and zlib each raise their own
        raise InputError(f"`{path}` is not a readable .npy file") from err
    if not isinstance(labels, np.ndarray):
        raise InputError(f"`{path}` holds several arrays; give an .npy file with one")
    return labels
