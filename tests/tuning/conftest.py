"""Tuning whose measurements are short: its tests ask what follows from them, not what they say."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest

from relaxc.tuning import tune, verify
from relaxc.tuning.measure import MeasureOptions


@pytest.fixture(scope="module", autouse=True)
def short_measurements() -> Iterator[None]:
    short = functools.partial(MeasureOptions, sweep_bytes=1 << 16, pairs=1, least_s=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune, "MeasureOptions", short)
        for name, value in {"_ROUNDS": 2, "_RUNS": 2, "_PAIRS": 3, "_LEAST_S": 0.0}.items():
            patch.setattr(verify, name, value)
        yield
