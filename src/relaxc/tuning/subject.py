"""What is tuned: a model as it will be compiled, with pruning and quantization done once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import onnx

from relaxc.calibrate import CalibrationData
from relaxc.compiler import compile_for
from relaxc.emitting import write_finished
from relaxc.frontend.importer import ImportedProgram
from relaxc.options import CompileOptions, Diagnostics
from relaxc.pass_runner import PassRunner
from relaxc.passes.analysis.kernels import kernel_costs
from relaxc.passes.layout.lower_groups import LowerGroups
from relaxc.preparing import Prepared, prepare, prepare_piece
from relaxc.program import require_plain
from relaxc.targets.base import Backend
from relaxc.targets.cuda.backend import CudaBackend
from relaxc.targets.llvm.backend import LlvmBackend

Model: TypeAlias = str | os.PathLike[str] | onnx.ModelProto


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, or the compiled pieces of one that the host runs in steps.

    Attributes:
        model: as it was given.
        options: of its compilation.
        sha256: of the model file.
        parts: grouped into kernels that have no layouts yet.
        is_program: whether the host runs the parts in steps.
        warnings: about its data.
    """

    model: Model
    options: CompileOptions
    sha256: str
    parts: Sequence[Prepared]
    is_program: bool
    warnings: tuple[str, ...] = ()

    @staticmethod
    def of(
        backend: Backend,
        model: Model,
        options: CompileOptions,
        calibration_data: CalibrationData | None = None,
        recovery_data: CalibrationData | None = None,
        checkpoint: Path | None = None,
    ) -> Subject:
        """Import a model, prune and quantize it as its options say.

        Raises:
            ModelError, OptionError, InputError, TargetError: as `compile` does.
        """
        runner = PassRunner(Diagnostics(checkpoint=checkpoint))
        found = prepare(backend, model, options, runner, calibration_data, recovery_data)
        if isinstance(found, Prepared):
            return Subject(model, options, found.imported.sha256, [found], False, found.warnings)
        return Subject._of_program(backend, model, options, found)

    @staticmethod
    def _of_program(
        backend: Backend, model: Model, options: CompileOptions, program: ImportedProgram
    ) -> Subject:
        require_plain(program, options)
        parts = [
            prepare_piece(backend, piece, options, PassRunner(Diagnostics()))
            for piece in program.pieces
        ]
        return Subject(model, options, program.sha256, parts, True)

    def sites(self, backend: LlvmBackend | CudaBackend) -> list[Any]:
        """The places of kernels and of loop nests that tuning has a say in; nothing is built.

        Of a CPU's backend these are `AnySite`, of a GPU's `CudaSite`.
        """
        found: list[Any] = []
        for part in self.parts:
            runner = PassRunner(Diagnostics())
            left = part.left(backend)
            at = [item.name for item in left].index(LowerGroups.name)
            mod = runner.run(left[:at], part.mod)
            found += backend.kernels.sites(mod)
            found += backend.nest_sites(runner.run(left[at:], mod))
        return found

    def write(self, backend: Backend, output: Path) -> None:
        """Build an artifact, which is only run here."""
        if self.is_program:
            compile_for(backend, self.model, output, self.options)
            return
        (part,) = self.parts
        mod = part.finished(backend, PassRunner(Diagnostics()))
        costs = kernel_costs(part.imported.mod, mod)
        write_finished(output, part.imported, mod, backend, costs)
