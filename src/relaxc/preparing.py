"""What is done to a model before its kernels get layouts: import, pruning, quantization, grouping.

All that takes data, or measures, is in here; what is left may be done again with other choices of
kernels, which is what tuning does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import onnx
from tvm import IRModule

from relaxc.calibrate import CalibrationData
from relaxc.correcting import correction_on
from relaxc.errors import OptionError
from relaxc.frontend.extension import Extension
from relaxc.frontend.importer import ImportedModel, ImportedProgram, import_model
from relaxc.gate.speed_gate import GateReport
from relaxc.gating import gate_pass, has_speed_gate
from relaxc.latency import kernel_clock
from relaxc.options import CompileOptions, Diagnostics, QuantizeOptions
from relaxc.pass_runner import PassRunner, select_passes
from relaxc.passes.base import Pass
from relaxc.passes.layout.choose_layout import ChooseLayout
from relaxc.passes.pipeline import default_passes
from relaxc.passes.precision.convert_io import ConvertIo
from relaxc.passes.prune.prune_channels import PruneReport
from relaxc.passes.quantize.calibrate import Collect
from relaxc.passes.quantize.exclusion_gains import ExclusionGain
from relaxc.passes.quantize.layer_errors import LayerError
from relaxc.passes.quantize.layer_ranges import LayerRange
from relaxc.passes.quantize.unquantized import unquantized
from relaxc.probes import Probes
from relaxc.pruning import pruning_passes, require_outputs, require_samples
from relaxc.quantizing import Study, is_calibrated, quantization_passes, smoothing_passes
from relaxc.targets.base import Backend


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
        unquantized: nodes that cannot be quantized to int8, or are excluded, and why.
        ranges: what the data of layers hold, if that was asked for.
        gains: what leaving layers float would buy, if that was asked for.
    """

    imported: ImportedModel
    mod: IRModule
    options: CompileOptions
    warnings: tuple[str, ...] = ()
    pruned: PruneReport | None = None
    gate: GateReport | None = None
    quantized: tuple[LayerError, ...] = ()
    unquantized: tuple[tuple[str, str], ...] = ()
    ranges: tuple[LayerRange, ...] = ()
    gains: tuple[ExclusionGain, ...] = ()

    def left(self, backend: Backend) -> list[Pass]:
        """The passes that are left, for a backend that chooses kernels as it likes."""
        every = default_passes(backend.kernels, precision=self.options.precision)
        # Passes that prune or quantize may be disabled as well: they are not among these.
        names = {item.name for item in every}
        disabled = tuple(name for name in self.options.disabled_passes if name in names)
        options = replace(self.options, disabled_passes=disabled)
        return _divided(select_passes(every, options, Diagnostics()))[1]

    def finished(self, backend: Backend, runner: PassRunner) -> IRModule:
        """The module after all passes."""
        return backend.marked(runner.run(self.left(backend), self.mod))


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
    sharding: Sequence[Pass] = (),
) -> Prepared | ImportedProgram:
    """Import a model, prune and quantize it, and group its operators.

    Args:
        backend: for which target.
        model: path of the ONNX file, or a model in memory.
        options: what shapes the artifact.
        runner: runs the passes.
        calibration_data, recovery_data: as `compile` takes them.
        begin: told the name of every phase as it begins.
        sharding: what keeps one GPU's part of the model.

    Returns:
        The model; or, of one that the host runs in steps, what was imported, untouched.

    Raises:
        ModelError, OptionError, InputError, TargetError: as `compile` does.
    """
    diagnostics = runner.diagnostics
    _require_kernels(options, backend)
    if is_calibrated(options) and calibration_data is None:
        raise OptionError("quantization needs calibration data; give samples of real inputs")
    require_samples(options, recovery_data is not None)
    backend.require_tools()
    warnings: list[str] = []
    reports: list[PruneReport] = []
    gated: list[GateReport] = []
    measured: list[Study] = []
    probes = Probes(backend, calibration_data, recovery_data)
    correction = correction_on(probes, diagnostics, measured.append)
    quantization = quantization_passes(options.quantize, probes.collect, correction)
    if has_speed_gate(options, backend, warnings):

        def timed(quantize: QuantizeOptions, collect: Collect) -> list[Pass]:
            return [
                *smoothing_passes(quantize, correction),
                *quantization_passes(quantize, collect),
            ]

        gate = gate_pass(options, backend, timed, probes.feed, probes.build, gated.append)
        quantization.insert(0, gate)
    passes = select_passes(
        default_passes(
            backend.kernels,
            quantization,
            options.precision,
            pruning_passes(
                options,
                backend,
                probes.run,
                probes.samples,
                reports.append,
                diagnostics.on_phase,
                diagnostics.checkpoint,
                kernel_clock(backend, probes.build, probes.feed),
                lambda: probes.imported.outputs,
            ),
            rounds_rows=options.quantize is not None and options.quantize.scheme == "int8-dynamic",
            sharding=sharding,
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
    if options.io != "model":
        imported = replace(found, mod=ConvertIo(options.io).apply(found.mod))
    probes.imported = imported
    require_outputs(options, imported.outputs)
    begin("passes")
    runner.dump("imported", imported.mod)
    mod = runner.run(_divided(passes)[0], imported.mod)
    if reports:  # What is described from here on is the smaller model.
        imported = replace(imported, mod=reports[0].mod)
    return Prepared(
        imported,
        mod,
        options,
        (*warnings, *probes.warnings),
        reports[0] if reports else None,
        gated[0] if gated else None,
        tuple(layer for study in measured for layer in study.layers()),
        tuple(_left(options, measured)),
        tuple(_ranges(measured)) if diagnostics.ranges else (),
        tuple(_gains(measured)) if diagnostics.exclusions else (),
    )


def _require_kernels(options: CompileOptions, backend: Backend) -> None:
    if options.quantize is None:
        return
    scheme = options.quantize.scheme
    if not backend.has_integer_kernels or scheme in backend.missing_schemes:
        raise OptionError(
            f"quantization scheme `{scheme}` is not for target `{options.target}`: GPUs have "
            "`int8`, and from sm_90 on `int8-weights` and `int4-weights`; CPUs have all"
        )


def prepare_piece(
    backend: Backend, piece: ImportedModel, options: CompileOptions, runner: PassRunner
) -> Prepared:
    """Group the operators of a piece of a model that the host runs in steps."""
    runner.dump("imported", piece.mod)
    every = default_passes(backend.kernels, precision=options.precision)
    passes = select_passes(every, options, runner.diagnostics)
    return Prepared(piece, runner.run(_divided(passes)[0], piece.mod), options)


def _ranges(measured: list[Study]) -> list[LayerRange]:
    return [entry for study in measured for entry in study.ranges()]


def _gains(measured: list[Study]) -> list[ExclusionGain]:
    return [entry for study in measured for entry in study.gains()]


def _left(options: CompileOptions, measured: list[Study]) -> list[tuple[str, str]]:
    if options.quantize is None:
        return []
    exclude = options.quantize.exclude
    return [entry for study in measured for entry in unquantized(study.errors.teacher, exclude)]
