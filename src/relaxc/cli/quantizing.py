"""Options that say how to quantize, and how they are read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import cast

import click

from relaxc.cli.parameters import PATH, refuse_alone, stacked
from relaxc.errors import OptionError
from relaxc.options import (
    CALIBRATION_METHODS,
    SCHEMES,
    CalibrationMethod,
    CompileOptions,
    DistillOptions,
    ErrorCorrection,
    QuantizeOptions,
    Scheme,
    corrections_for,
)


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


quantizing = stacked(
    click.option(
        "--quantize",
        type=click.Choice(SCHEMES),
        help="Compute on integers: with ranges measured before, with ranges found as the model "
        "runs, or keep just the weights of matrix products as integers, or "
        "as floats of eight bits (fp8, E4M3).",
    ),
    click.option(
        "--group-size",
        type=int,
        metavar="N",
        help="Rows of a weight that share a scale, except with int8.  [default: all, for "
        "int4-weights 32]",
    ),
    click.option(
        "--calibrate",
        metavar="DATA",
        help="Samples of real inputs: an .npz file with the samples along the first axis, a "
        "folder with one .npz file each, or module:function.",
    ),
    click.option(
        "--calibration",
        type=click.Choice(CALIBRATION_METHODS),
        default="minmax",
        show_default=True,
        help="How the range of an activation is read off the samples.",
    ),
    click.option(
        "--correct",
        metavar="WORD,...",
        help="What makes up for rounding, by the samples: "
        + _listed(corrections_for("int8"))
        + " with int8, "
        + _listed(corrections_for("int8-weights"))
        + " with others; `none` for nothing.  [default: "
        + ",".join(QuantizeOptions().corrections)
        + " and "
        + ",".join(QuantizeOptions(scheme="int8-weights").corrections)
        + "]",
    ),
    click.option(
        "--least-sqnr",
        type=float,
        metavar="DB",
        default=QuantizeOptions().least_sqnr_db,
        show_default=True,
        help="Leave layers float whose signal to noise ratio is less with int8; 0: none.",
    ),
    click.option(
        "--most-noise",
        type=float,
        metavar="SHARE",
        help="Leave the least exact int8 layers float until the noise of all, each relative to "
        "its signal, sums up to this; 0.01 is 20 dB.",
    ),
    click.option(
        "--per-channel/--per-tensor",
        default=True,
        show_default=True,
        help="One scale per output channel of a weight, or one per weight.",
    ),
    click.option(
        "--symmetric/--asymmetric",
        default=False,
        show_default=True,
        help="Zero point of activations: the middle of the range, or where it fits best.",
    ),
    click.option(
        "--exclude",
        multiple=True,
        metavar="NODE",
        help="Leave a node float: its name, or a regular expression; may be repeated.",
    ),
    click.option(
        "--recipe",
        type=PATH,
        metavar="FILE",
        help="Read what to do from this YAML file instead: how to quantize, prune and store. "
        "`--calibrate` gives the samples for it.",
    ),
    click.option(
        "--speed-gate/--no-speed-gate",
        default=True,
        show_default=True,
        help="Time every layer on integers and in float on this machine, and leave it float "
        "if that is not slower; for int8 and int8-dynamic. Times are kept.",
    ),
)

_NOT_ALONE = frozenset(
    {"group_size", "calibrate", "calibration", "correct", "least_sqnr", "most_noise"}
    | {"per_channel", "symmetric", "exclude", "speed_gate"}
)


def read_quantizing(
    options: CompileOptions,
    *,
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
    distill: DistillOptions | None,
) -> CompileOptions:
    """The options with what those of `quantizing` say, but for a recipe.

    Raises:
        OptionError: they do not fit together.
    """
    if quantize is None:
        alone = _NOT_ALONE if recipe is None else _NOT_ALONE - {"calibrate"}
        refuse_alone(alone, "`--quantize`")
        return options
    quantization = QuantizeOptions(
        scheme=quantize,
        calibration=calibration,
        correct=_corrections(correct),
        least_sqnr_db=least_sqnr or None,
        most_noise=most_noise,
        per_channel=per_channel,
        symmetric=symmetric,
        exclude=exclude,
        group_size=group_size,
        speed_gate=speed_gate,
        distill=distill,
    )
    if quantize == "int8" and calibrate is None:
        raise OptionError("`--quantize int8` needs calibration data; give it with `--calibrate`")
    return replace(options, quantize=quantization)


def _corrections(text: str | None) -> tuple[ErrorCorrection, ...] | None:
    """Read `--correct`; the options complain about words that are none."""
    if text is None:
        return None
    words = tuple(word.strip() for word in text.split(","))
    return () if words == ("none",) else cast("tuple[ErrorCorrection, ...]", words)
