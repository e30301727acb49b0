"""What is done to a model before its kernels get layouts: import, pruning, quantization, grouping.

All that takes data, or measures, is in here; what is left may be done again with other choices of
kernels, which is what tuning does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from tvm import IRModule

from relaxc.calibrate import CalibrationData, Feed, recovery_samples
from relaxc.emitting import load_probe, observe_ranges, run_piece
from relaxc.errors import InputError, OptionError
from relaxc.frontend.extension import Extension
from relaxc.frontend.importer import ImportedModel, ImportedProgram, import_model
from relaxc.gate.speed_gate import GateReport
from relaxc.gating import Peeked, gate_pass, has_speed_gate
from relaxc.manifest import describe_inputs, tensor_infos
from relaxc.options import CompileOptions, Diagnostics
from relaxc.pass_runner import PassRunner, select_passes
from relaxc.passes.base import Pass
from relaxc.passes.layout.choose_layout import ChooseLayout
from relaxc.passes.pipeline import default_passes
from relaxc.passes.prune.prune_channels import PruneReport
from relaxc.passes.prune.segments import Arrays
from relaxc.passes.quantize.layer_errors import LayerError
from relaxc.pruning import pruning_passes, require_samples
from relaxc.quantizing import Correction, Remembered, is_calibrated, quantization_passes
from relaxc.runtime.session import Model
from relaxc.statistics import Histograms, measured_once
from relaxc.targets.base import Backend
from relaxc.targets.registry import backend_for


@dataclass(frozen=True, eq=False)
class Prepared:
    """A model whose operators are grouped into kernels.

    Attributes:
        imported: what was imported, or what pruning made of it.
        mod: the groups.
        options: of the compilation.
        warnings: about the data.
        pruned: what pruning removed, if it was asked for.
        gate: which layers are quantized, and how fast they are either way, if they were timed.
        quantized: how much rounding to int8 costs each layer, where that was measured.
    """

    imported: ImportedModel
    mod: IRModule
    options: CompileOptions
    warnings: tuple[str, ...] = ()
    pruned: PruneReport | None = None
    gate: GateReport | None = None
    quantized: tuple[LayerError, ...] = ()

    def left(self, backend: Backend) -> list[Pass]:
        """The passes that are left, for a backend that chooses kernels as it likes."""
        every = default_passes(backend.kernels, precision=self.options.precision)
        return _divided(select_passes(every, self.options, Diagnostics()))[1]


def _divided(passes: list[Pass]) -> tuple[list[Pass], list[Pass]]:
    """Passes up to the choice of layouts, and the others."""
    names = [item.name for item in passes]
    at = names.index(ChooseLayout.name) if ChooseLayout.name in names else len(names)
    return passes[:at], passes[at:]


def prepare(
    backend: Backend,
    model: str | os.PathLike[str] | onnx.ModelProto,
    options: CompileOptions,
    runner: PassRunner,
    calibration_data: CalibrationData | None = None,
    recovery_data: CalibrationData | None = None,
    begin: Callable[[str], None] = lambda _phase: None,
) -> Prepared | ImportedProgram:
    """Import a model, prune and quantize it, and group its operators.

    Args:
        backend: for which target.
        model: path of the ONNX file, or a model in memory.
        options: what shapes the artifact.
        runner: runs the passes.
        calibration_data, recovery_data: as `compile` takes them.
        begin: told the name of every phase as it begins.

    Returns:
        The model; or, of one that the host runs in steps, what was imported, untouched.

    Raises:
        ModelError, OptionError, InputError, TargetError: as `compile` does.
    """
    diagnostics = runner.diagnostics
    if options.quantize is not None and not backend.has_integer_kernels:
        raise OptionError(f"quantization is for CPUs, not for target `{options.target}`, so far")
    if is_calibrated(options) and calibration_data is None:
        raise OptionError("quantization needs calibration data; give samples of real inputs")
    require_samples(options, recovery_data is not None)
    backend.require_tools()
    warnings: list[str] = []
    reports: list[PruneReport] = []
    gated: list[GateReport] = []
    calibration = Peeked(calibration_data)

    # On this CPU, whatever the target: numbers are the same, and the target may be elsewhere.
    def run(piece: IRModule, arguments: Iterable[Arrays]) -> Iterator[list[np.ndarray]]:
        return run_piece(imported, piece, backend_for("llvm"), arguments)

    def samples() -> list[Arrays]:
        return recovery_samples(describe_inputs(imported), recovery_data or ())

    remembered = Remembered(calibration)
    errors: list[LayerError] = []

    def collect(instrumented: IRModule) -> Histograms:
        def measure(feeds: Iterable[Feed]) -> Histograms:
            return observe_ranges(imported, instrumented, backend, feeds)

        feeds, is_held = (
            remembered(tensor_infos(imported)),
            isinstance(calibration_data, list | tuple),
        )
        histograms = measured_once(
            instrumented, backend.describe(), feeds, is_held, measure, warnings
        )
        remembered.warn(warnings)
        return histograms

    def shown() -> list[Arrays]:
        if calibration_data is None:
            return []
        if not remembered.first(tensor_infos(imported)):
            raise InputError("there is no calibration data; give at least one sample")
        return recovery_samples(describe_inputs(imported), remembered.feeds)

    def build(stack: ExitStack, finished: IRModule, costs: list[dict[str, Any]]) -> Model:
        return load_probe(stack, imported, finished, backend, costs)

    def feed() -> Feed:
        return calibration.first(describe_inputs(imported))

    correction = Correction(run, shown, errors.extend)
    quantization = quantization_passes(options.quantize, collect, correction)
    if has_speed_gate(options, backend, warnings):
        gate = gate_pass(options, backend, quantization_passes, feed, build, gated.append)
        quantization.insert(0, gate)
    passes = select_passes(
        default_passes(
            backend.kernels,
            quantization,
            options.precision,
            pruning_passes(
                options,
                backend,
                run,
                samples,
                reports.append,
                diagnostics.on_phase,
                diagnostics.checkpoint,
            ),
            rounds_rows=options.quantize is not None and options.quantize.scheme == "int8-dynamic",
        ),
        options,
        diagnostics,
    )
    begin("import")
    extension = Extension.parse(options.preprocess, options.postprocess)
    diagnostics.on_step("the cleaning up of the graph")
    found = import_model(model, options.input_shapes, extension, diagnostics.on_step)
    if isinstance(found, ImportedProgram):
        return found
    imported = found
    begin("passes")
    runner.dump("imported", imported.mod)
    mod = runner.run(_divided(passes)[0], imported.mod)
    if reports:  # What is described from here on is the smaller model.
        imported = replace(imported, mod=reports[0].mod)
    return Prepared(
        imported,
        mod,
        options,
        tuple(warnings),
        reports[0] if reports else None,
        gated[0] if gated else None,
        tuple(errors),
    )


def prepare_piece(
    backend: Backend, piece: ImportedModel, options: CompileOptions, runner: PassRunner
) -> Prepared:
    """Group the operators of a piece of a model that the host runs in steps."""
    runner.dump("imported", piece.mod)
    every = default_passes(backend.kernels, precision=options.precision)
    passes = select_passes(every, options, runner.diagnostics)
    return Prepared(piece, runner.run(_divided(passes)[0], piece.mod), options)
