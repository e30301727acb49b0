"""compile(): frontend -> passes -> target -> artifact."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from relaxc import manifest, program, tvm_patches
from relaxc.artifact import Manifest, write_artifact
from relaxc.calibrate import CalibrationData
from relaxc.emitting import build, write
from relaxc.errors import OptionError, OutputError
from relaxc.frontend.importer import ImportedProgram
from relaxc.gate.speed_gate import GateReport
from relaxc.options import CompileOptions, Diagnostics
from relaxc.pass_runner import PassRecord, PassRunner
from relaxc.passes.analysis.kernels import kernel_costs
from relaxc.passes.canonicalize.lift_constants import WEIGHTS
from relaxc.passes.prune.prune_channels import PruneReport
from relaxc.passes.quantize.exclusion_gains import ExclusionGain
from relaxc.passes.quantize.layer_errors import LayerError
from relaxc.passes.quantize.layer_ranges import LayerRange
from relaxc.preparing import prepare, prepare_piece
from relaxc.sharding import compile_divided
from relaxc.targets.base import Backend
from relaxc.tuning.recorded import recorded_backend

tvm_patches.apply()


@dataclass(frozen=True)
class CompileResult:
    """What a compilation produced.

    Attributes:
        path: the artifact.
        manifest: its manifest.
        passes: what ran, in order.
        seconds: phase -> wall time.
        warnings: oddities of the model.
        pruned: what pruning removed, if it was asked for.
        gate: which layers are quantized, and how fast they are either way, if they were timed.
        quantized: how much rounding to int8 costs each layer, where that was measured.
        unquantized: nodes that cannot be quantized to int8, or are excluded, and why.
        ranges: what the data of layers hold, if `Diagnostics.ranges` asks for it.
        gains: what leaving more layers float would buy, if `Diagnostics.exclusions` asks for it.
    """

    path: Path
    manifest: Manifest
    passes: tuple[PassRecord, ...]
    seconds: dict[str, float]
    warnings: tuple[str, ...]
    pruned: PruneReport | None = None
    gate: GateReport | None = None
    quantized: tuple[LayerError, ...] = ()
    unquantized: tuple[tuple[str, str], ...] = ()
    ranges: tuple[LayerRange, ...] = ()
    gains: tuple[ExclusionGain, ...] = ()

    @property
    def sensitive_nodes(self) -> tuple[str, ...]:
        """Nodes that were quantized to int8, the one that lost most first."""
        kept = [error for error in self.quantized if error.is_kept]
        worst = sorted(kept, key=lambda error: error.sqnr_db)
        return tuple(dict.fromkeys(error.node for error in worst))


def compile(
    model: str | os.PathLike[str] | onnx.ModelProto,
    output: str | os.PathLike[str],
    options: CompileOptions | None = None,
    diagnostics: Diagnostics | None = None,
    calibration_data: CalibrationData | None = None,
    recovery_data: CalibrationData | None = None,
) -> CompileResult:
    """Compile an ONNX model into an artifact.

    Args:
        model: path of the ONNX file, or a model in memory.
        output: the artifact to write; an existing file is replaced.
        options: what shapes the artifact.
        diagnostics: what to show on the way.
        calibration_data: dictionaries from input names to arrays, one per sample or batch, read
            once; or a function that gives them when told the model's inputs. Quantization measures
            the ranges of activations on them.
        recovery_data: the same for pruning, which judges channels and corrects weights by them.

    Raises:
        ModelError: the model is unreadable, invalid or unsupported.
        OptionError: an option does not fit, such as a precision that the target lacks.
        InputError: the calibration data does not fit the model.
        TargetError: no C++ compiler to link with, or no runtime of TVM for the target.
        OutputError: the artifact cannot be written.
    """
    options = options or CompileOptions()
    warnings: list[str] = []
    backend = recorded_backend(options, warnings)
    result = compile_for(
        backend, model, output, options, diagnostics, calibration_data, recovery_data
    )
    warnings += [f"tuning: {reason}" for reason in backend.refused_records]
    return replace(result, warnings=(*warnings, *result.warnings))


def compile_for(
    backend: Backend,
    model: str | os.PathLike[str] | onnx.ModelProto,
    output: str | os.PathLike[str],
    options: CompileOptions,
    diagnostics: Diagnostics | None = None,
    calibration_data: CalibrationData | None = None,
    recovery_data: CalibrationData | None = None,
) -> CompileResult:
    """`compile`, for a backend that is there: with tuning records of the caller's choice."""
    diagnostics = diagnostics or Diagnostics()
    output = Path(output)
    require_writable(output, model)
    clock = _Clock(diagnostics.on_phase)
    runner = PassRunner(diagnostics)
    if options.tensor_parallel > 1:
        return _compile_divided(output, model, backend, options, runner, clock)
    prepared = prepare(
        backend, model, options, runner, calibration_data, recovery_data, clock.start
    )
    if isinstance(prepared, ImportedProgram):
        return _compile_program(output, prepared, backend, options, diagnostics, clock)
    imported = prepared.imported
    mod = prepared.finished(backend, runner)
    weights = mod["main"].attrs[WEIGHTS]
    kernels = kernel_costs(imported.mod, mod)
    mod = runner.lower(backend, mod)
    clock.start("codegen")
    diagnostics.on_step("code generation")
    compiled = build(backend, mod, listing=diagnostics.dump_dir is not None)
    clock.start("write")
    names = [record.name for record in runner.records]
    written = write(output, imported, backend, compiled, weights, options, names, kernels)
    clock.stop()
    runner.dump_text("assembly.s", compiled.listing)
    runner.dump_text("manifest.json", json.dumps(written, indent=1, sort_keys=True))
    return CompileResult(
        output,
        written,
        tuple(runner.records),
        clock.laps,
        (*imported.warnings, *prepared.warnings),
        prepared.pruned,
        prepared.gate,
        prepared.quantized,
        prepared.unquantized,
        prepared.ranges,
        prepared.gains,
    )


def _compile_program(
    output: Path,
    imported: ImportedProgram,
    backend: Backend,
    options: CompileOptions,
    diagnostics: Diagnostics,
    clock: _Clock,
) -> CompileResult:
    """Compile the pieces of a model that the host runs in steps, and write them with the steps."""
    program.require_plain(imported, options)
    records: list[PassRecord] = []
    pieces = []
    for number, piece in enumerate(imported.pieces):
        clock.start(f"piece {number}")
        folder = diagnostics.dump_dir
        own = replace(diagnostics, dump_dir=folder and folder / f"piece{number}")
        runner = PassRunner(own)
        prepared = prepare_piece(backend, piece, options, runner)
        mod = prepared.finished(backend, runner)
        weights = mod["main"].attrs[WEIGHTS]
        kernels = kernel_costs(piece.mod, mod)
        compiled = build(backend, runner.lower(backend, mod), listing=folder is not None)
        runner.dump_text("assembly.s", compiled.listing)
        pieces.append(manifest.body(piece, compiled, weights, kernels))
        records += runner.records
    clock.start("write")
    top = manifest.header(imported, backend, options, [record.name for record in records])
    described, members = program.assemble(imported, pieces)
    written = write_artifact(output, top | described, members | manifest.licenses())
    clock.stop()
    return CompileResult(output, written, tuple(records), clock.laps, imported.warnings)


def _compile_divided(
    output: Path,
    model: str | os.PathLike[str] | onnx.ModelProto,
    backend: Backend,
    options: CompileOptions,
    runner: PassRunner,
    clock: _Clock,
) -> CompileResult:
    """Compile what each of several GPUs computes, and write all of it."""
    divided = compile_divided(backend, model, options, runner, clock.start)
    clock.start("write")
    top = manifest.header(divided.imported, backend, options, [r.name for r in runner.records])
    members = divided.members | manifest.licenses()
    written = write_artifact(output, top | divided.manifest, members)
    clock.stop()
    runner.dump_text("manifest.json", json.dumps(written, indent=1, sort_keys=True))
    warnings = (*divided.imported.warnings, *divided.warnings)
    return CompileResult(output, written, tuple(runner.records), clock.laps, warnings)


def require_writable(path: Path, *models: str | os.PathLike[str] | onnx.ModelProto) -> None:
    """Fail before the work, not after it, when the result has nowhere to go.

    Args:
        path: what will be written.
        models: what it is made of, and must stay.

    Raises:
        OutputError: `path` is a folder or a device, or its folder is missing or read-only.
        OptionError: it is one of the models.
    """
    if path.is_dir():
        raise OutputError(f"cannot write `{path}`: it is a folder; give a file name")
    if path.exists() and not path.is_file():
        raise OutputError(f"cannot write `{path}`: it is not a regular file; give a file name")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write `{path}`: folder `{path.parent}` does not exist")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"cannot write `{path}`: folder `{path.parent}` is not writable")
    files = (Path(model) for model in models if not isinstance(model, onnx.ModelProto))
    if path.exists() and any(file.exists() and path.samefile(file) for file in files):
        raise OptionError(f"`{path}` is the model itself; give another name with `-o`")


class _Clock:
    """Wall time per phase."""

    def __init__(self, on_phase: Callable[[str], None]) -> None:
        self.laps: dict[str, float] = {}
        self._on_phase = on_phase
        self._phase = ""
        self._since = 0.0

    def start(self, phase: str) -> None:
        """End the phase before, if any, and begin the next."""
        self.stop()
        self._on_phase(phase)
        self._phase, self._since = phase, time.perf_counter()

    def stop(self) -> None:
        if self._phase:
            lap = time.perf_counter() - self._since
            self.laps[self._phase] = self.laps.get(self._phase, 0.0) + lap
