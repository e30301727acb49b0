"""Options that say what a model becomes: target, precision, pruning, quantization; and its data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from relaxc.cli import parameters, pruning, quantizing
from relaxc.errors import OptionError
from relaxc.measure.samples import Samples, samples_from
from relaxc.options import (
    Augmentation,
    CalibrationMethod,
    CompileOptions,
    DistillOptions,
    Importance,
    Scheme,
    Scope,
)

# All of them, in the order of `--help`.
shaping = parameters.stacked(
    parameters.compiling, parameters.shapes, pruning.pruning, quantizing.quantizing
)


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
        target=target,
        opt_level=opt_level,
        disabled_passes=disabled_passes,
        input_shapes=input_shapes,
        precision=precision,
        preprocess=preprocess,
        postprocess=postprocess,
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
    else:
        parameters.refuse_alone(
            ("learning_rate", "batch", "augment", "logits", "checkpoint"), "`--distill`"
        )
    options = pruning.read_pruning(
        options,
        prune=prune,
        importance=importance,
        scope=scope,
        round_to=round_to,
        keep=keep,
        recover=recover,
        samples=samples,
        sensitivity=sensitivity,
        distill=distill if prune else None,
    )
    options = quantizing.read_quantizing(
        options,
        quantize=quantize,
        group_size=group_size,
        calibrate=calibrate,
        calibration=calibration,
        correct=correct,
        least_sqnr=least_sqnr,
        most_noise=most_noise,
        per_channel=per_channel,
        symmetric=symmetric,
        exclude=exclude,
        recipe=recipe,
        speed_gate=speed_gate,
        distill=distill,
    )
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
