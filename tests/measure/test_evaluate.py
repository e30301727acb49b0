"""A user's own measure of a compiled model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relaxc.errors import OptionError
from relaxc.measure.evaluate import evaluate_on

X = np.array([[-1, 2, 0]], np.float32)


def test_the_function_gets_the_model(relu_artifact: Path) -> None:
    assert evaluate_on(relu_artifact, lambda model: model(X).sum()) == 2.0


def _fails(_model: Any) -> float:
    raise KeyError("labels")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_fails, "the function of `--evaluate` fails: KeyError: 'labels'"),
        (lambda _model: None, "returns NoneType, not a number"),
        (lambda _model: float("nan"), "returns nan, not a finite number"),
    ],
)
def test_functions_that_do_not_measure(
    function: Callable[[Any], Any], message: str, relu_artifact: Path
) -> None:
    with pytest.raises(OptionError, match=message):
        evaluate_on(relu_artifact, function)
