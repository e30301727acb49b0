"""Measure what a report shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from relaxc.errors import TargetError
from relaxc.measure.feeds import FeedOptions
from relaxc.measure.profile import profile
from relaxc.measure.roofline import Roofline, roofline
from relaxc.report.html.page import Build
from relaxc.runtime.session import load

_RUNS = 50


def build_of(
    path: Path,
    name: str,
    threads: int,
    feed: Mapping[str, np.ndarray] | FeedOptions,
    passes: Mapping[str, float] | None = None,
) -> Build:
    """Load and profile an artifact.

    Raises:
        ArtifactError: it cannot be loaded.
        InputError: the inputs do not fit it.
    """
    model = load(path, threads=threads)
    inputs = feed.feed(model.inputs) if isinstance(feed, FeedOptions) else feed
    return Build(
        name=name,
        size_bytes=path.stat().st_size,
        manifest=model.manifest,
        profile=profile(model, inputs, _RUNS),
        passes=dict(passes or {}),
    )


def bounds(threads: int) -> Roofline | None:
    """What this machine can do; None without a compiler to measure it with."""
    try:
        return roofline(threads)
    except TargetError:
        return None
