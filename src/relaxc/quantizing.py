"""The passes that quantize, as the options say."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tvm import IRModule

from relaxc.calibrate import CalibrationData, Feed
from relaxc.options import CompileOptions, DistillOptions, QuantizeOptions, Scheme
from relaxc.passes.base import Pass
from relaxc.passes.prune.segments import Arrays, Run
from relaxc.passes.quantize.annotate import AnnotateQuantization
from relaxc.passes.quantize.calibrate import CalibrateQuantization, Collect
from relaxc.passes.quantize.correct_bias import CorrectBias
from relaxc.passes.quantize.equalize_layers import EqualizeLayers
from relaxc.passes.quantize.exclusion_gains import ExclusionGain, exclusion_gains
from relaxc.passes.quantize.fit_rounding import FitRounding, Once
from relaxc.passes.quantize.histogram import Histogram
from relaxc.passes.quantize.layer_errors import LayerError, LayerErrors
from relaxc.passes.quantize.layer_ranges import LayerRange, layer_ranges
from relaxc.passes.quantize.limits import Limits
from relaxc.passes.quantize.quantize_tables import QuantizeTables
from relaxc.passes.quantize.quantize_weights import QuantizeWeights
from relaxc.passes.quantize.ranges_by_name import RangesByName
from relaxc.passes.quantize.restore_float import RestoreFloat
from relaxc.passes.quantize.scale_rows import ScaleRows
from relaxc.passes.quantize.smooth_activations import SmoothActivations
from relaxc.passes.quantize.unfold_patches import UnfoldPatches
from relaxc.passes.quantize.weight_kinds import WeightKind
from relaxc.runtime.model import TensorInfo

# Weights of four bits that share a scale: with more of them, errors grow noticeably.
_GROUP_SIZE = 32
# What the weights of products become.
_KINDS: dict[Scheme, WeightKind] = {
    "int8-dynamic": "int8",
    "int8-weights": "int8",
    "fp8-weights": "float8",
    "int4-weights": "int4",
}


def is_calibrated(options: CompileOptions) -> bool:
    """Whether quantization measures the ranges of activations on data."""
    return options.quantize is not None and options.quantize.scheme == "int8"


@dataclass(frozen=True)
class Correction:
    """What it takes to correct errors.

    Attributes:
        run: compiles a module and runs it.
        samples: gives arguments of `main`; none where there is no data.
        run_once: likewise, for what is worth keeping between compilations.
        report: receives what can be found out about layers.
        once: finds arrays, or knows them from an earlier compilation.
        train: makes the pass that trains what is rounded, as the options say, when told what gives
            the float module.
    """

    run: Run
    samples: Callable[[], list[Arrays]]
    run_once: Run
    report: Callable[[Study], None]
    once: Once
    train: Callable[[DistillOptions, Callable[[], IRModule]], Pass]


@dataclass(frozen=True)
class Study:
    """What can be found out about the layers of a model that was quantized to int8.

    Attributes:
        errors: how far rounding takes each.
        limits: how far it may.
        correction: runs modules.
        without: quantizes the float module again, all but some nodes.
        seen: the histogram of a value, by name.
    """

    errors: LayerErrors
    limits: Limits
    correction: Correction
    without: Callable[[Collection[str]], IRModule]
    seen: Callable[[str], Histogram | None]

    def ranges(self) -> list[LayerRange]:
        """What the data of layers hold."""
        return layer_ranges(self.without(()), self.seen)

    def layers(self) -> list[LayerError]:
        """The errors of layers, and whether they are on integers after all."""
        errors = self.errors.found
        inexact = self.limits.inexact(errors)
        return [replace(error, is_kept=error.node not in inexact) for error in errors]

    def gains(self) -> list[ExclusionGain]:
        """What leaving layers float would buy, besides those that are too inexact anyway."""
        worst = sorted(self.layers(), key=lambda error: error.sqnr_db)
        lost = [error.node for error in worst if not error.is_kept]
        kept = list(dict.fromkeys(error.node for error in worst if error.is_kept))
        teacher, run = self.errors.teacher, self.correction.run

        def without(nodes: Collection[str]) -> IRModule:
            return self.without([*lost, *nodes])

        return exclusion_gains(teacher, without, kept, run, self.correction.samples())


def quantization_passes(
    options: QuantizeOptions | None, collect: Collect, correction: Correction | None = None
) -> list[Pass]:
    """The passes that quantize as the options say.

    Args:
        options: None leaves the model in float.
        collect: runs an instrumented module on the calibration data.
        correction: None leaves errors as they are.
    """
    if options is None:
        return []
    tables = QuantizeTables(options.exclude, 4 if options.scheme == "int4-weights" else 8)
    if options.scheme != "int8":
        kind = _KINDS[options.scheme]
        group = options.group_size or (_GROUP_SIZE if kind == "int4" else None)
        passes: list[Pass] = []
        if options.scheme != "int8-dynamic":  # which would round images, too
            passes.append(UnfoldPatches(group, options.exclude))
        floats: list[IRModule] = []
        weights = QuantizeWeights(kind, group, options.exclude, keep=floats.append)
        if correction is None:
            return [*passes, weights, tables]
        run, samples = correction.run, correction.samples
        if "scale" in options.corrections:
            passes.append(ScaleRows(weights.variables, kind, group, run, samples))
        if "round" in options.corrections:
            weights = replace(weights, run=run, samples=samples)
        return [*passes, weights, *_training(options, correction, floats), tables]

    def calibrate(collect: Collect) -> CalibrateQuantization:
        symmetric, layers = options.symmetric, options.layer_calibration
        return CalibrateQuantization(collect, options.calibration, symmetric, layers)

    annotate = AnnotateQuantization(options.per_channel, options.exclude)
    if correction is None:
        return [annotate, calibrate(collect), tables]
    teachers: list[IRModule] = []
    ranges = RangesByName(collect)

    def again(nodes: Collection[str]) -> IRModule:
        exclude = (*options.exclude, *map(re.escape, sorted(nodes)))
        annotated = replace(annotate, exclude=exclude).apply(teachers[-1])
        left = replace(calibrate(ranges.again), is_complete=False)
        calibrated = left.apply(annotated)
        # Unless that pass is disabled.
        return fit.apply(calibrated) if fit.known else calibrated

    run, samples = correction.run_once, correction.samples
    # Moments of data are too large to be kept between compilations; what is made of them is not.
    fit = FitRounding(
        lambda: teachers[-1],
        correction.run,
        samples if "round" in options.corrections else list,
        "bias" in options.corrections,
        correction.once,
    )
    errors = LayerErrors(lambda: teachers[-1], run, samples)
    limits = Limits(options.least_sqnr_db, options.most_noise)
    bias = [CorrectBias(errors)] if "bias" in options.corrections else []

    def without(nodes: Collection[str]) -> IRModule:
        return bias[0].apply(again(nodes)) if bias else again(nodes)

    correction.report(Study(errors, limits, correction, without, ranges.of))
    passes = [EqualizeLayers()] if "equalize" in options.corrections else []
    passes += [
        *smoothing_passes(options, correction),
        replace(annotate, keep=teachers.append),
        calibrate(ranges),
        # Before anything measures how much is lost.
        *([fit] if "round" in options.corrections else []),
        RestoreFloat(errors, again, limits),
    ]
    return [*passes, *bias, *_training(options, correction, teachers), tables]


def smoothing_passes(options: QuantizeOptions, correction: Correction) -> list[Pass]:
    """What changes how layers compute before they are quantized: it leaves multiplications."""
    if options.scheme != "int8" or "smooth" not in options.corrections:
        return []
    return [SmoothActivations(correction.run_once, correction.samples, options.exclude)]


def _training(
    options: QuantizeOptions, correction: Correction, teachers: list[IRModule]
) -> list[Pass]:
    if options.distill is None:
        return []
    return [correction.train(options.distill, lambda: teachers[-1])]


class Remembered:
    """Calibration data that are read once, of which the first are kept for error correction.

    Attributes:
        feeds: those that were kept; how many does not grow with the data.
        is_constant: whether every input that was read holds one number only.
        count: how many were read.
    """

    # Fewer calls than this say little about the range of an activation.
    _FEW, _ENOUGH = 8, 128

    # More of them hardly change the mean of an error.
    _CALLS, _BYTES = 64, 64 << 20

    def __init__(self, data: CalibrationData) -> None:
        self._data = data
        self._source: Iterator[Feed] | None = None
        self.feeds: list[Feed] = []
        self.is_constant = True
        self.count = 0
        self._left = self._BYTES

    def first(self, inputs: Sequence[TensorInfo]) -> list[Feed]:
        """Those that are kept; as many as are missing are read now."""
        source = self._started(inputs)
        while not self._is_full and next(source, None) is not None:
            pass
        return self.feeds

    def __call__(self, inputs: Sequence[TensorInfo]) -> Iterator[Feed]:
        """All data: those that were read already, and then the others."""
        source = self._started(inputs)
        yield from list(self.feeds)
        yield from source

    @property
    def _is_full(self) -> bool:
        return len(self.feeds) == self._CALLS or self._left <= 0

    def _started(self, inputs: Sequence[TensorInfo]) -> Iterator[Feed]:
        if self._source is None:
            self._source = self._read(inputs)
        return self._source

    def _read(self, inputs: Sequence[TensorInfo]) -> Iterator[Feed]:
        data: Iterable[Feed] = self._data(inputs) if callable(self._data) else self._data
        for feed in data:
            self.count += 1
            self.is_constant = self.is_constant and all(map(_is_constant, feed.values()))
            if not self._is_full:
                self._left -= sum(np.asarray(array).nbytes for array in feed.values())
                self.feeds.append(feed)
            yield feed

    def warn(self, warnings: list[str]) -> None:
        """Say so where ranges of the data that were read will not fit others."""
        if self.count < self._FEW:
            warnings.append(
                f"{self.count} calibration samples are few: ranges may be too narrow; "
                f"{self._ENOUGH} are usually enough"
            )
        if self.is_constant:
            warnings.append(
                "the inputs of every calibration sample hold one number only: ranges fit nothing "
                "else; give samples of real inputs"
            )


def _is_constant(value: object) -> bool:
    array = np.asarray(value)
    # One number is all that a small input can hold.
    return array.size > 1 and bool((array == array.flat[0]).all())
