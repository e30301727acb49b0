"""Options that say what a model becomes: target, precision, pruning, quantization; and its data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from relaxc.cli import parameters, pruning, quantizing
from relaxc.errors import OptionError
from relaxc.measure.samples import Samples, samples_from
from relaxc.options import CompileOptions

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


def read_shaping(**given: Any) -> Shape:
    """Read the options of `shaping`: each of its parts takes those that it knows.

    Raises:
        OptionError: they do not fit together.
    """
    recipe: Path | None = given["recipe"]
    calibrate: str | None = given["calibrate"]
    options = parameters.read_compile_options(**_known(parameters.read_compile_options, given))
    distill = pruning.read_distillation(**_known(pruning.read_distillation, given))
    options = pruning.read_pruning(
        options, **_known(pruning.read_pruning, given), distill=distill if given["prune"] else None
    )
    options = quantizing.read_quantizing(
        options, **_known(quantizing.read_quantizing, given), distill=distill
    )
    source: str | None = given["recover"] or given["samples"]
    source = source or pruning.data_of(given["sensitivity"])
    if distill is not None and source is None:
        source = calibrate
    if recipe is not None:
        options = _from_recipe(recipe, options, calibrate is not None)
        source = calibrate  # serves all that the recipe does
    return Shape(
        options,
        None if calibrate is None else samples_from(calibrate),
        None if source is None else samples_from(source),
        given["checkpoint"],
    )


def _known(reader: Callable[..., object], given: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader takes of the options that are given."""
    names = inspect.signature(reader).parameters
    return {name: value for name, value in given.items() if name in names}


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
