"""A user's own measure of a compiled model."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from relaxc.errors import OptionError
from relaxc.runtime.session import load


def evaluate_on(artifact: Path, function: Callable[[Any], Any]) -> float:
    """What a user's function says of an artifact.

    Args:
        artifact: is loaded as users load it.
        function: from a model to a number.

    Raises:
        OptionError: the function fails, or gives no finite number.
    """
    model = load(artifact)
    try:
        value = function(model)
    except Exception as err:  # the user's code may raise anything
        kind = type(err).__name__
        raise OptionError(f"the function of `--evaluate` fails: {kind}: {err}") from err
    try:
        score = float(value)
    except (TypeError, ValueError) as err:
        raise OptionError(
            f"the function of `--evaluate` returns {type(value).__name__}, not a number"
        ) from err
    if not math.isfinite(score):
        raise OptionError(f"the function of `--evaluate` returns {score}, not a finite number")
    return score
