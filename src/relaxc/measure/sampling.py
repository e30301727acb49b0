"""Timing a function again and again, from one thread or several at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np


def ms_since(start: float) -> float:
    """Milliseconds since `start`, a reading of `time.perf_counter`."""
    return (time.perf_counter() - start) * 1e3


def repeat_for(run: Callable[[], None], seconds: float) -> None:
    """Call `run` until the time is over; not at all if there is none."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        run()


def sample(
    run: Callable[[], None],
    *,
    duration_s: float,
    iterations: int,
    number: int = 1,
    streams: int = 1,
    finish: Callable[[], None] = lambda: None,
) -> list[np.ndarray]:
    """Time calls of `run`.

    Args:
        run: what is timed.
        duration_s: time to measure at least.
        iterations: samples to take at least, per stream.
        number: calls per sample; a sample is their mean.
        streams: threads that call at the same time.
        finish: called at the end of a sample, and timed with it; for work that is still under way.

    Returns:
        Milliseconds per call, an array per stream. An error of one stream ends all.
    """
    stop = threading.Event()

    def take() -> np.ndarray:
        samples: list[float] = []
        end = time.perf_counter() + duration_s
        while len(samples) < iterations or time.perf_counter() < end:
            if stop.is_set():
                break
            start = time.perf_counter()
            for _ in range(number):
                run()
            finish()
            samples.append(ms_since(start) / number)
        return np.array(samples)

    with ThreadPoolExecutor(streams) as callers:
        try:
            taken = [callers.submit(take) for _ in range(streams)]
            return [future.result() for future in as_completed(taken)]
        finally:  # an error of one, or an interrupt, ends all
            stop.set()
