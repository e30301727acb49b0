"""Options that say what a model becomes: target, precision, pruning, quantization; and its data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from relaxc.cli import parameters, pruning
from relaxc.errors import OptionError
from relaxc.measure.samples import Samples, samples_from
from relaxc.options import (
    Augmentation,
    CalibrationMethod,
    CompileOptions,
    DistillOptions,
    Importance,
    QuantizeOptions,
    Scheme,
    Scope,
)

_Command = TypeVar("_Command", bound=Callable[..., Any])


def shaping(command: _Command) -> _Command:
    """All of them."""
    for options in (
        parameters.quantizing,
        pruning.pruning,
        parameters.shapes,
        parameters.compiling,
    ):
        command = options(command)
    return command


@dataclass(frozen=True)
class Shape:
    """What they say.

    Attributes:
        options: of the compilation.
        calibration, recovery: samples for quantization and for pruning.
        checkpoint: keeps the state of distillation.
    """

    options: CompileOptions
    calibration: Samples | None
    recovery: Samples | None
    checkpoint: Path | None


def read_shaping(
    *,
    target: str,
    opt_level: int,
    disabled_passes: tuple[str, ...],
    precision: str,
    preprocess: tuple[str, ...],
    postprocess: tuple[str, ...],
    input_shapes: tuple[str, ...],
    prune: tuple[str, ...],
    importance: Importance,
    scope: Scope,
    round_to: str,
    keep: tuple[str, ...],
    recover: str | None,
    samples: str | None,
    sensitivity: str | None,
    distill_epochs: int | None,
    learning_rate: float,
    augment: tuple[Augmentation, ...],
    batch: int,
    logits: tuple[str, ...],
    checkpoint: Path | None,
    quantize: Scheme | None,
    group_size: int | None,
    calibrate: str | None,
    calibration: CalibrationMethod,
    correct: str | None,
    least_sqnr: float,
    most_noise: float | None,
    per_channel: bool,
    symmetric: bool,
    exclude: tuple[str, ...],
    recipe: Path | None,
    speed_gate: bool,
) -> Shape:
    """Read the options of `shaping`.

    Raises:
        OptionError: they do not fit together.
    """
    options = parameters.read_compile_options(
        target, opt_level, disabled_passes, input_shapes, precision, preprocess, postprocess
    )
    distill = None
    if distill_epochs is not None:
        distill = DistillOptions(
            epochs=distill_epochs,
            learning_rate=learning_rate,
            batch=batch,
            augment=augment,
            logits=logits,
        )
        if not prune and quantize is None:
            raise OptionError("`--distill` goes with `--prune` or `--quantize`")
        if recover is None and (prune or calibrate is None):
            instead = "" if prune else " or `--calibrate`"
            raise OptionError(f"`--distill` needs samples; give them with `--recover`{instead}")
    elif augment or logits or checkpoint is not None:
        raise OptionError("`--augment`, `--logits` and `--checkpoint` go with `--distill`")
    options = pruning.read_pruning(
        options,
        prune,
        importance,
        scope,
        round_to,
        keep,
        recover,
        samples,
        sensitivity,
        distill if prune else None,
    )
    if quantize is not None:
        quantization = QuantizeOptions(
            scheme=quantize,
            calibration=calibration,
            correct=parameters.read_corrections(correct),
            least_sqnr_db=least_sqnr or None,
            most_noise=most_noise,
            per_channel=per_channel,
            symmetric=symmetric,
            exclude=exclude,
            group_size=group_size,
            speed_gate=speed_gate,
            distill=distill,
        )
        options = replace(options, quantize=quantization)
        if quantize == "int8" and calibrate is None:
            raise OptionError(
                "`--quantize int8` needs calibration data; give it with `--calibrate`"
            )
    elif exclude or group_size is not None or (calibrate is not None and recipe is None):
        raise OptionError("`--calibrate`, `--exclude` and `--group-size` go with `--quantize`")
    if recipe is not None:
        options = _from_recipe(recipe, options, calibrate is not None)
    source = recover or samples or pruning.data_of(sensitivity)
    if distill is not None and source is None:
        source = calibrate
    if recipe is not None:
        source = calibrate  # serves all that the recipe does
    return Shape(
        options,
        None if calibrate is None else samples_from(calibrate),
        None if source is None else samples_from(source),
        checkpoint,
    )


def _from_recipe(path: Path, options: CompileOptions, is_calibrated: bool) -> CompileOptions:
    """The options with what a recipe says; nothing else may say it as well."""
    from relaxc.search.recipe_file import read_recipe

    shaping = (options.quantize, options.prune, options.sparsify)
    if any(given is not None for given in shaping) or options.precision != "float32":
        raise OptionError(
            "a recipe says how to quantize, prune and store; leave out `--quantize`, `--prune` and "
            "`--precision`, or `--recipe`"
        )
    read = read_recipe(path)
    pruning = [given for given in (read.prune, read.sparsify) if given is not None]
    needs_samples = any(given.needs_samples for given in pruning)
    if read.quantize is not None and read.quantize.scheme == "int8":
        needs_samples = True
    if needs_samples and not is_calibrated:
        raise OptionError(f"recipe `{path}` needs samples; give them with `--calibrate`")
    return replace(read.options(options), tuning_records=options.tuning_records)
