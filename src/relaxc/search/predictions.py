"""Which recipes are likely to be fast: the likely ones are tried first."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from relaxc.artifact import read_artifact
from relaxc.errors import TargetError
from relaxc.measure.prediction import predicted_by_dtype
from relaxc.measure.roofline import roofline
from relaxc.search.recipe import Recipe


class Predictions:
    """Times of one model by what it computes on.

    Args:
        artifact: the float build, whose manifest lists the layers.
        threads: that work at a time.
    """

    def __init__(self, artifact: Path, threads: int) -> None:
        self._artifact = artifact
        self._threads = threads

    def seconds(self, recipe: Recipe) -> float:
        """The time of a recipe; infinite where nothing can be said, as of GPUs."""
        dtype = recipe.precision if recipe.quantize is None else "int8"
        return self._times.get(dtype, float("inf"))

    @cached_property
    def _times(self) -> dict[str, float]:
        manifest = read_artifact(self._artifact).manifest
        if "cuda" in manifest["requirements"]:
            return {}
        try:
            bounds = roofline(self._threads)
        except TargetError:  # no compiler to measure the machine with
            return {}
        return predicted_by_dtype(manifest["layers"], bounds)
