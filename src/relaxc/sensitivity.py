"""Which groups of channels a model can do without: measured, written down as JSON, read again."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tvm import IRModule

from relaxc.calibrate import CalibrationData, recovery_samples
from relaxc.compiler import require_writable
from relaxc.emitting import run_piece, write_probe
from relaxc.errors import OptionError, OutputError
from relaxc.frontend.importer import ImportedModel, from_onnx
from relaxc.manifest import describe_inputs
from relaxc.options import Diagnostics, Shape
from relaxc.pass_runner import PassRunner
from relaxc.passes.pipeline import default_passes
from relaxc.passes.prune.importance import IMPORTANCES, Importance
from relaxc.passes.prune.masking import Masked
from relaxc.passes.prune.segments import Arrays
from relaxc.passes.prune.sensitivity import RATIOS, AnalyzeSensitivity, Point
from relaxc.replacing import replacing
from relaxc.runtime.model import Model
from relaxc.runtime.session import load
from relaxc.targets.registry import backend_for

# Bumped when a field is renamed or removed.
_SCHEMA_VERSION = 1
DIVERGENCE = "divergence"


@dataclass(frozen=True, kw_only=True)
class SensitivityOptions:
    """What is measured.

    Attributes:
        importance: which channels of a group go first.
        ratios: shares of a group's channels, between 0 and 1.
        exclude: ONNX nodes whose channels stay: names, or regular expressions.
        input_shapes: input name -> dimensions.
        evaluate: from a model to a number, more is better; None: how far outputs move.
        measure: what that function is called in the file.
    """

    importance: Importance = "l2"
    ratios: tuple[float, ...] = RATIOS
    exclude: tuple[str, ...] = ()
    input_shapes: Mapping[str, Shape] | None = None
    evaluate: Callable[[Any], float] | None = None
    measure: str = DIVERGENCE

    def __post_init__(self) -> None:
        if self.importance not in IMPORTANCES:
            raise OptionError(
                f"unknown importance `{self.importance}`; use "
                + ", ".join(f"`{n}`" for n in IMPORTANCES)
            )
        if not self.ratios or not all(0 < ratio < 1 for ratio in self.ratios):
            raise OptionError(f"ratios must be between 0 and 1, not {list(self.ratios)}")


class Analysis(NamedTuple):
    """What was found: the points of all groups, and what they are about."""

    points: tuple[Point, ...]
    subject: Mapping[str, Any]


def analyze(
    model: str | os.PathLike[str],
    data: CalibrationData,
    output: str | os.PathLike[str],
    options: SensitivityOptions | None = None,
    on_phase: Callable[[str], None] = lambda _text: None,
) -> Analysis:
    """Measure the sensitivity of every group of channels, and write it to a JSON file.

    Every point is in the file as soon as it is known. If the file is there already, about the same
    model, data and measure, its points are not measured again.

    Args:
        model: the ONNX file.
        data: samples of real inputs.
        output: the JSON file.
        options: what is measured.
        on_phase: told how far the work is.

    Raises:
        ModelError: the model is unreadable, invalid or unsupported.
        OptionError: no channels can be removed, or what is excluded matches no node.
        InputError: the data does not fit the model.
        OutputError: the file cannot be written.
    """
    options, output = options or SensitivityOptions(), Path(output)
    require_writable(output, model)
    on_phase("import")
    imported = from_onnx(model, options.input_shapes)
    samples = recovery_samples(describe_inputs(imported), data)
    subject = {
        "model_sha256": imported.sha256,
        "data_sha256": _digest(samples),
        "importance": options.importance,
        "measure": options.measure,
    }
    points = _known(output, subject)

    def record(point: Point) -> None:
        points.append(point)
        _write(output, subject, points)

    def run(piece: IRModule, arguments: Iterable[Arrays]) -> Iterator[list[np.ndarray]]:
        return run_piece(imported, piece, backend_for("llvm"), arguments)

    evaluate = options.evaluate
    analysis = AnalyzeSensitivity(
        run,
        lambda: samples,
        record,
        options.importance,
        options.ratios,
        options.exclude,
        frozenset((p.group, p.ratio) for p in points),
        None
        if evaluate is None
        else lambda masked, trials: _evaluated(imported, masked, trials, evaluate),
        on_phase,
    )
    passes = default_passes(backend_for("llvm").kernels, pruning=[analysis])
    PassRunner(Diagnostics()).run(passes[: passes.index(analysis) + 1], imported.mod)
    return Analysis(tuple(points), subject)


def _evaluated(
    imported: ImportedModel,
    masked: Masked,
    trials: Iterable[list[np.ndarray]],
    evaluate: Callable[[Any], float],
) -> Iterator[float]:
    """The user's number for every choice of masks."""
    names = tuple(f"relaxc.mask{i}" for i in range(len(masked.shapes)))
    part = replace(imported, mod=masked.mod, inputs=(*imported.inputs, *names))
    with tempfile.TemporaryDirectory(prefix="relaxc-") as folder:
        path = Path(folder) / "masked.rxc"
        write_probe(path, part, backend_for("llvm"))
        session = load(path)
        for masks in trials:
            yield float(evaluate(MaskedModel(session, dict(zip(names, masks)))))


class MaskedModel:
    """A loaded model some of whose channels are switched off; to be used like any other."""

    def __init__(self, session: Model, masks: Mapping[str, np.ndarray]) -> None:
        self._session = session
        self._masks = masks
        self.inputs = tuple(info for info in session.inputs if info.name not in masks)
        self.outputs = session.outputs
        self.manifest = session.manifest
        self.device, self.threads = session.device, session.threads

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run on positional or named inputs; return the output, or a tuple of them."""
        feed = dict(zip((info.name for info in self.inputs), args)) | kwargs
        results = tuple(self.run(feed).values())
        return results[0] if len(results) == 1 else results

    def run(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        """Run on named inputs and return the outputs by name."""
        return self._session.run({**feed, **self._masks})


def read_curves(path: str | os.PathLike[str]) -> dict[str, dict[float, float]]:
    """Read what `analyze` wrote: group -> share of its channels that went -> how much worse.

    Raises:
        OptionError: the file is missing, or no such file.
    """
    try:
        held = json.loads(Path(path).read_text(encoding="utf-8"))
        if held["schema_version"] != _SCHEMA_VERSION:
            raise OptionError(f"`{path}` is of another version of relaxc; analyze again")
        points = [Point(**entry) for entry in held["points"]]
        curves: dict[str, dict[float, float]] = {}
        for point in points:
            share = point.removed / point.channels
            curves.setdefault(point.group, {})[share] = float(point.value)
    except OSError as err:
        raise OptionError(f"cannot read `{path}`: {err.strerror or err}") from err
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as err:
        raise OptionError(f"`{path}` is not what `relaxc sensitivity` writes") from err
    return curves


def _known(path: Path, subject: Mapping[str, Any]) -> list[Point]:
    """Points of an earlier run about the same; nothing if there are none."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if all(held[key] == value for key, value in subject.items()):
            return [Point(**entry) for entry in held["points"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return []


def _write(path: Path, subject: Mapping[str, Any], points: list[Point]) -> None:
    document = {
        "schema_version": _SCHEMA_VERSION,
        **subject,
        "points": [asdict(point) for point in points],
    }
    try:
        with replacing(path) as file:
            file.write(json.dumps(document, indent=1, ensure_ascii=False).encode())
    except OSError as err:
        raise OutputError(f"cannot write `{path}`: {err.strerror or err}") from err


def _digest(samples: Iterable[Arrays]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        for array in sample:
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
