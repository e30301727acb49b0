"""What passes ask of data and of running code: the user's samples, and modules run on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from tvm import IRModule

from relaxc.calibrate import CalibrationData, Feed, recovery_samples
from relaxc.emitting import load_probe, observe_ranges, run_piece
from relaxc.errors import InputError
from relaxc.frontend.importer import ImportedModel
from relaxc.gating import Peeked
from relaxc.manifest import describe_inputs, tensor_infos
from relaxc.passes.prune.segments import Arrays
from relaxc.passes.quantize.fit_rounding import Named
from relaxc.quantizing import Remembered
from relaxc.runtime.model import Model
from relaxc.statistics import Histograms, arrays_once, measured_once, results_once
from relaxc.targets.base import Backend
from relaxc.targets.registry import backend_for


class Probes:
    """One compilation's data, and the modules that run on them.

    Attributes:
        imported: the model; set once it is read.
        warnings: what is odd about the data.
    """

    imported: ImportedModel

    def __init__(
        self,
        backend: Backend,
        calibration_data: CalibrationData | None,
        recovery_data: CalibrationData | None,
    ) -> None:
        self.warnings: list[str] = []
        self._backend = backend
        self._is_held = isinstance(calibration_data, list | tuple)
        self._is_given = calibration_data is not None
        self._calibration = Peeked(calibration_data)
        self._remembered = Remembered(self._calibration)
        self._recovery_data = recovery_data
        self._samples: list[Arrays] | None = None

    def run(self, piece: IRModule, arguments: Iterable[Arrays]) -> Iterator[list[np.ndarray]]:
        """Run a module on this CPU, whatever the target: numbers are the same."""
        return run_piece(self.imported, piece, backend_for("llvm"), arguments)

    def run_once(self, piece: IRModule, arguments: Iterable[Arrays]) -> Iterator[list[np.ndarray]]:
        """Likewise, unless that is known from an earlier compilation."""
        once = results_once(self.run, backend_for("llvm").describe(), self.warnings)
        yield from once(piece, arguments)

    def once(
        self,
        mods: Sequence[IRModule],
        samples: Sequence[Arrays],
        words: str,
        find: Callable[[], Named],
    ) -> Named:
        """Arrays that take long to find, unless they are known from an earlier compilation."""
        target = backend_for("llvm").describe()
        return arrays_once(mods, samples, words, target, find, self.warnings)

    def samples(self) -> list[Arrays]:
        """What pruning judges and corrects by; read once.

        Raises:
            InputError: they do not fit the model, or there are none.
        """
        if self._samples is None:
            data = self._recovery_data or ()
            self._samples = recovery_samples(describe_inputs(self.imported), data)
        return list(self._samples)

    def collect(self, instrumented: IRModule) -> Histograms:
        """What the observers of an instrumented module see of the calibration data."""

        backend = backend_for("llvm") if self._backend.needs_device else self._backend

        def measure(feeds: Iterable[Feed]) -> Histograms:
            return observe_ranges(self.imported, instrumented, backend, feeds)

        feeds = self._remembered(tensor_infos(self.imported))
        histograms = measured_once(
            instrumented, backend.describe(), feeds, self._is_held, measure, self.warnings
        )
        self._remembered.warn(self.warnings)
        return histograms

    def shown(self) -> list[Arrays]:
        """The first of the calibration data.

        Raises:
            InputError: there are none.
        """
        if not self._is_given:
            return []
        if not self._remembered.first(tensor_infos(self.imported)):
            raise InputError("there is no calibration data; give at least one sample")
        return recovery_samples(describe_inputs(self.imported), self._remembered.feeds)

    def feed(self) -> Feed:
        """The very first of them; made up where there is none."""
        return self._calibration.first(describe_inputs(self.imported))

    def build(self, stack: ExitStack, finished: IRModule, costs: list[dict[str, Any]]) -> Model:
        """A module that all passes have run on, loaded until the stack is left."""
        return load_probe(stack, self.imported, finished, self._backend, costs)
