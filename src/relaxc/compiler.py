"""compile(): frontend -> passes -> target -> artifact. The only file that knows all of them."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tvm
from tvm import IRModule

from relaxc import manifest, program, tvm_patches
from relaxc.artifact import Manifest, write_artifact
from relaxc.calibrate import CalibrationData, Feed, observe, recovery_samples
from relaxc.errors import OptionError, OutputError, RelaxcError
from relaxc.frontend.extension import Extension
from relaxc.frontend.importer import ImportedModel, ImportedProgram, import_model
from relaxc.gate.speed_gate import GateReport
from relaxc.gating import Peeked, gate_pass, has_speed_gate
from relaxc.manifest import describe_inputs
from relaxc.options import CompileOptions, Diagnostics
from relaxc.pass_runner import PassRecord, PassRunner, pass_error, select_passes
from relaxc.passes.analysis.kernels import kernel_costs
from relaxc.passes.canonicalize.lift_constants import WEIGHTS
from relaxc.passes.pipeline import default_passes
from relaxc.passes.prune.prune_channels import PruneReport
from relaxc.passes.prune.segments import Arrays
from relaxc.passes.quantize.layer_errors import LayerError
from relaxc.pruning import pruning_passes, require_samples
from relaxc.quantizing import Correction, Remembered, is_calibrated, quantization_passes
from relaxc.runtime.session import Model, TensorInfo, load
from relaxc.statistics import Histograms, measured_once
from relaxc.targets.base import Backend, CompiledModule
from relaxc.targets.registry import backend_for
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
    """

    path: Path
    manifest: Manifest
    passes: tuple[PassRecord, ...]
    seconds: dict[str, float]
    warnings: tuple[str, ...]
    pruned: PruneReport | None = None
    gate: GateReport | None = None
    quantized: tuple[LayerError, ...] = ()

    @property
    def sensitive_nodes(self) -> tuple[str, ...]:
        """Nodes that were quantized to int8, the one that lost most first."""
        worst = sorted(self.quantized, key=lambda error: error.sqnr_db)
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
    require_writable(output)
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
            return _observe(imported, instrumented, backend, feeds)

        infos = [
            TensorInfo(e["name"], e["dtype"], tuple(e["shape"])) for e in describe_inputs(imported)
        ]
        feeds, is_held = remembered(infos), isinstance(calibration_data, list | tuple)
        histograms = measured_once(
            instrumented, backend.describe(), feeds, is_held, measure, warnings
        )
        remembered.warn(warnings)
        return histograms

    def shown() -> list[Arrays]:
        if calibration_data is None:
            return []
        return recovery_samples(describe_inputs(imported), remembered.first)

    def build(stack: ExitStack, finished: IRModule, costs: list[dict[str, Any]]) -> Model:
        return _load_probe(stack, imported, finished, backend, costs)

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
    clock = _Clock(diagnostics.on_phase)
    clock.start("import")
    extension = Extension.parse(options.preprocess, options.postprocess)
    diagnostics.on_step("the cleaning up of the graph")
    found = import_model(model, options.input_shapes, extension, diagnostics.on_step)
    if isinstance(found, ImportedProgram):
        return _compile_program(output, found, backend, options, diagnostics, clock)
    imported = found
    clock.start("passes")
    runner = PassRunner(diagnostics)
    runner.dump("imported", imported.mod)
    mod = runner.run(passes, imported.mod)
    weights = mod["main"].attrs[WEIGHTS]
    if reports:  # What is described from here on is the smaller model.
        imported = replace(imported, mod=reports[0].mod)
    kernels = kernel_costs(imported.mod, mod)
    mod = runner.lower(backend, mod)
    clock.start("codegen")
    diagnostics.on_step("code generation")
    compiled = _build(backend, mod, listing=diagnostics.dump_dir is not None)
    clock.start("write")
    names = [record.name for record in runner.records]
    written = _write(output, imported, backend, compiled, weights, options, names, kernels)
    clock.stop()
    runner.dump_text("assembly.s", compiled.listing)
    runner.dump_text("manifest.json", json.dumps(written, indent=1, sort_keys=True))
    return CompileResult(
        output,
        written,
        tuple(runner.records),
        clock.laps,
        (*imported.warnings, *warnings),
        reports[0] if reports else None,
        gated[0] if gated else None,
        tuple(errors),
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
        runner.dump("imported", piece.mod)
        passes = default_passes(backend.kernels, precision=options.precision)
        mod = runner.run(select_passes(passes, options, own), piece.mod)
        weights = mod["main"].attrs[WEIGHTS]
        kernels = kernel_costs(piece.mod, mod)
        compiled = _build(backend, runner.lower(backend, mod), listing=folder is not None)
        runner.dump_text("assembly.s", compiled.listing)
        pieces.append(manifest.body(piece, compiled, weights, kernels))
        records += runner.records
    clock.start("write")
    top = manifest.header(imported, backend, options, [record.name for record in records])
    described, members = program.assemble(imported, pieces)
    written = write_artifact(output, top | described, members | manifest.licenses())
    clock.stop()
    return CompileResult(output, written, tuple(records), clock.laps, imported.warnings)


def _write(
    output: Path,
    imported: ImportedModel,
    backend: Backend,
    compiled: CompiledModule,
    weights: Iterable[tvm.runtime.Tensor],
    options: CompileOptions,
    passes: list[str],
    kernels: list[dict[str, Any]],
) -> Manifest:
    """Write the artifact of a compiled module, and return its manifest."""
    described, members = manifest.body(imported, compiled, weights, kernels)
    top = manifest.header(imported, backend, options, passes)
    return write_artifact(output, top | described, members | manifest.licenses())


def run_piece(
    imported: ImportedModel, mod: IRModule, backend: Backend, arguments: Iterable[Arrays]
) -> Iterator[list[np.ndarray]]:
    """Build a part of a model, and run it on each set of arguments."""
    inputs = tuple(f"relaxc.argument{i}" for i in range(len(mod["main"].params)))
    outputs = tuple(f"relaxc.result{i}" for i in range(len(mod["main"].ret_ty.fields)))
    part = replace(imported, mod=mod, inputs=inputs, outputs=outputs, narrow={})
    with tempfile.TemporaryDirectory(prefix="relaxc-") as folder:
        path = Path(folder) / "piece.rxc"
        write_probe(path, part, backend)
        session = load(path)
        for arrays in arguments:
            results = session.run(dict(zip(inputs, arrays, strict=True)))
            yield [results[name] for name in outputs]


def write_probe(path: Path, part: ImportedModel, backend: Backend) -> None:
    """Build a module that is only run here, without a report of its costs."""
    mod = PassRunner(Diagnostics()).run(default_passes(backend.kernels), part.mod)
    _write_finished(path, part, mod, backend, [])


def _write_finished(
    path: Path, part: ImportedModel, mod: IRModule, backend: Backend, kernels: list[dict[str, Any]]
) -> None:
    weights = mod["main"].attrs[WEIGHTS]
    compiled = _build(backend, PassRunner(Diagnostics()).lower(backend, mod), listing=False)
    _write(path, part, backend, compiled, weights, CompileOptions(), [], kernels)


def _load_probe(
    stack: ExitStack,
    imported: ImportedModel,
    mod: IRModule,
    backend: Backend,
    kernels: list[dict[str, Any]],
) -> Model:
    """Build a module that all passes have run on, and load it until the stack is left."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="relaxc-"))
    path = Path(folder) / "timed.rxc"
    _write_finished(path, imported, mod, backend, kernels)
    return load(path)


def _observe(
    imported: ImportedModel, instrumented: IRModule, backend: Backend, data: Iterable[Feed]
) -> Histograms:
    """Build an instrumented module and run it on the calibration data."""
    results = len(instrumented["main"].ret_ty.fields)
    outputs = tuple(f"relaxc.result{i}" for i in range(results))
    observed = replace(imported, mod=instrumented, outputs=outputs)
    with tempfile.TemporaryDirectory(prefix="relaxc-") as folder:
        path = Path(folder) / "instrumented.rxc"
        write_probe(path, observed, backend)
        return observe(path, data)


def _build(backend: Backend, mod: IRModule, listing: bool) -> CompiledModule:
    try:
        return backend.build(mod, listing)
    except RelaxcError:
        raise
    except Exception as err:
        raise pass_error("code generation failed", err) from err


def require_writable(path: Path) -> None:
    """Fail before the work, not after it, when the result has nowhere to go.

    Raises:
        OutputError: `path` is a folder or a device, or its folder is missing or read-only.
    """
    if path.is_dir():
        raise OutputError(f"cannot write `{path}`: it is a folder; give a file name")
    if path.exists() and not path.is_file():
        raise OutputError(f"cannot write `{path}`: it is not a regular file; give a file name")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write `{path}`: folder `{path.parent}` does not exist")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"cannot write `{path}`: folder `{path.parent}` is not writable")


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
            self.laps[self._phase] = time.perf_counter() - self._since
