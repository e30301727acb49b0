"""Options of quantization: frozen dataclasses, and the words that they take."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from relaxc.distill_options import DistillOptions, check_word
from relaxc.errors import OptionError, near_matches


def check_patterns(patterns: tuple[str, ...]) -> None:
    """Fail unless all of these name nodes.

    Raises:
        OptionError: one is no regular expression.
    """
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as err:
            raise OptionError(
                f"`{pattern}` is neither a node's name nor a regular expression: {err}"
            ) from err


CalibrationMethod = Literal["minmax", "percentile", "entropy", "mse"]
CALIBRATION_METHODS: tuple[CalibrationMethod, ...] = get_args(CalibrationMethod)

# What makes up for rounding, in the order in which it is done.
ErrorCorrection = Literal["equalize", "smooth", "scale", "round", "bias"]
ERROR_CORRECTIONS: tuple[ErrorCorrection, ...] = get_args(ErrorCorrection)

# int8: activations too, with ranges that are measured before. int8-dynamic: the data of products
# with constant weights, as the model runs. The others: weights of products only, those of fp8 as
# floats (e4m3fn).
Scheme = Literal["int8", "int8-dynamic", "int8-weights", "fp8-weights", "int4-weights"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)


def corrections_for(scheme: Scheme) -> tuple[ErrorCorrection, ...]:
    """What can make up for rounding with a scheme."""
    return ("equalize", "smooth", "round", "bias") if scheme == "int8" else ("scale", "round")


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """How convolutions and matrix products become integer arithmetic.

    Attributes:
        scheme: what becomes integers; only `int8` needs calibration data, and the other options up
            to `symmetric` are for it, but for `correct`.
        calibration: how the range of an activation is read off the calibration data.
        correct: what makes up for rounding. With `int8`: `equalize` lets the weights of consecutive
            layers share their ranges, `smooth` moves differences between channels from the data of
            products and depthwise convolutions into the weights, `round` chooses integers that make
            up for each other's errors on the data, `bias` takes back what rounding adds on average.
            With other schemes, where there are samples: `scale` enlarges the rows of weights that
            are multiplied by much, `round` fits integers, scales and biases to the data. None: what
            `corrections` says.
        layer_calibration: the same for the data of single layers: node, or regular expression that
            matches whole names -> method.
        least_sqnr_db: layers whose signal to noise ratio on integers is less, on calibration data,
            stay float; None: none does.
        most_noise: the sum of what integers add to the layers, each relative to the energy of its
            result: 0.01 for 20 dB. The least exact stay float until it is kept; None: any will do.
        per_channel: a scale per output channel of a weight, not one per weight.
        symmetric: the zero point of activations that may be negative is the middle of the range.
        exclude: ONNX nodes that stay float: names, or regular expressions that match whole names.
        group_size: rows of a weight that share a scale, a multiple of 8; None: a whole column, with
            `int4-weights` 32.
        speed_gate: layers that are not faster on integers stay float: they are timed on this
            machine, unless they were before. Not for schemes that round weights only.
        distill: train what is rounded to do what the float model does, on samples; None: no.
    """

    scheme: Scheme = "int8"
    calibration: CalibrationMethod = "minmax"
    correct: tuple[ErrorCorrection, ...] | None = None
    layer_calibration: Mapping[str, CalibrationMethod] = field(default_factory=dict, hash=False)
    least_sqnr_db: float | None = 34.0
    most_noise: float | None = None
    per_channel: bool = True
    symmetric: bool = False
    exclude: tuple[str, ...] = ()
    group_size: int | None = None
    speed_gate: bool = True
    distill: DistillOptions | None = None

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise OptionError(
                f"unknown scheme `{self.scheme}`{near_matches(self.scheme, SCHEMES)}; schemes are "
                + ", ".join(f"`{name}`" for name in SCHEMES)
            )
        if self.group_size is not None and (self.group_size < 8 or self.group_size % 8):
            raise OptionError(f"group_size must be a multiple of 8, not {self.group_size}")
        if self.group_size is not None and self.scheme == "int8":
            raise OptionError("group_size is for schemes that round weights only, or dynamically")
        if self.most_noise is not None and not 0 < self.most_noise <= 1:
            raise OptionError(
                f"most_noise is a share of the signal, in (0, 1], not {self.most_noise:g}"
            )
        if self.least_sqnr_db is not None and math.isnan(self.least_sqnr_db):
            raise OptionError("least_sqnr_db must be a number of decibels, not nan")
        if self.distill is not None and self.scheme == "fp8-weights":
            raise OptionError("`fp8-weights` has no integers to train; leave out `distill`")
        for method in (self.calibration, *self.layer_calibration.values()):
            check_word("calibration method", method, CALIBRATION_METHODS)
        check_patterns(tuple(self.layer_calibration))
        for word in self.correct or ():
            check_word("correction", word, ERROR_CORRECTIONS)
            if word not in corrections_for(self.scheme):
                words = ", ".join(f"`{name}`" for name in corrections_for(self.scheme))
                raise OptionError(
                    f"correction `{word}` is not for scheme `{self.scheme}`, which has {words}"
                )
        check_patterns(self.exclude)

    @property
    def corrections(self) -> tuple[ErrorCorrection, ...]:
        """What makes up for rounding: what was asked for, or what pays with the scheme."""
        if self.correct is not None:
            return self.correct
        return ("smooth", "round", "bias") if self.scheme == "int8" else ("round",)
