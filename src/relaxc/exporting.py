"""export(): prune and quantize as `compile` does, and write the result as ONNX."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import external_data_helper, numpy_helper

from relaxc.calibrate import CalibrationData
from relaxc.compiler import require_writable
from relaxc.correcting import correction_on
from relaxc.errors import ModelError, OptionError, OutputError
from relaxc.frontend.export.exporter import to_onnx
from relaxc.frontend.export.graph import Graph
from relaxc.frontend.extension import Extension
from relaxc.frontend.importer import from_onnx
from relaxc.latency import kernel_clock
from relaxc.options import CompileOptions, Diagnostics
from relaxc.pass_runner import PassRunner, select_passes
from relaxc.passes.pipeline import graph_passes
from relaxc.passes.prune.prune_channels import PruneReport
from relaxc.passes.quantize.layer_errors import LayerError
from relaxc.probes import Probes
from relaxc.pruning import pruning_passes, require_outputs, require_samples
from relaxc.quantizing import Study, is_calibrated, quantization_passes
from relaxc.replacing import replacing
from relaxc.targets.registry import backend_for

# Protobuf holds 2 GB; more than this goes into a file beside the model.
_INLINE_BYTES = 1 << 30


@dataclass(frozen=True)
class ExportResult:
    """What was written.

    Attributes:
        path: the ONNX file.
        weight_bytes: of its weights, in the source and now.
        zeros: the share of zeros in its weights, now.
        nodes: how many it has.
        opset: of its operators.
        warnings: oddities of the model and the data.
        pruned: what pruning removed, if it was asked for.
        quantized: how much rounding to int8 costs each layer, where that was measured.
    """

    path: Path
    weight_bytes: tuple[int, int]
    zeros: float
    nodes: int
    opset: int
    warnings: tuple[str, ...]
    pruned: PruneReport | None = None
    quantized: tuple[LayerError, ...] = ()


def export(
    model: str | os.PathLike[str] | onnx.ModelProto,
    output: str | os.PathLike[str],
    options: CompileOptions | None = None,
    diagnostics: Diagnostics | None = None,
    calibration_data: CalibrationData | None = None,
    recovery_data: CalibrationData | None = None,
) -> ExportResult:
    """Write a pruned or quantized model as ONNX, for other runtimes.

    Inputs, outputs and nodes keep their names. Batch norms are part of the weights; integers are
    written as QuantizeLinear and DequantizeLinear. No layer is timed: all that can be quantized is.

    Args:
        model: path of the ONNX file, or a model in memory.
        output: the ONNX file to write; an existing one is replaced.
        options: what to prune and to quantize; the target says what channel counts are rounded to.
        diagnostics: what to show on the way.
        calibration_data, recovery_data: as of `compile`.

    Raises:
        ModelError: the model is unreadable, invalid or unsupported, or a node cannot be written
            as ONNX.
        OptionError: an option does not fit.
        InputError: the data does not fit the model.
        OutputError: the file cannot be written.
    """
    options, diagnostics = options or CompileOptions(), diagnostics or Diagnostics()
    output = Path(output)
    require_writable(output, model)
    _require_exportable(options)
    if is_calibrated(options) and calibration_data is None:
        raise OptionError("quantization needs calibration data; give samples of real inputs")
    require_samples(options, recovery_data is not None)
    diagnostics.on_phase("import")
    extension = Extension.parse(options.preprocess, options.postprocess)
    imported = from_onnx(model, options.input_shapes, extension, keeps_source=True)
    require_outputs(options, imported.outputs)
    probes = Probes(backend_for("llvm"), calibration_data, recovery_data)
    probes.imported = imported
    reports: list[PruneReport] = []
    measured: list[Study] = []
    pruning = pruning_passes(
        options,
        backend_for(options.target),
        probes.run,
        probes.samples,
        reports.append,
        diagnostics.on_phase,
        diagnostics.checkpoint,
        kernel_clock(backend_for(options.target), probes.build, probes.feed),
        lambda: imported.outputs,
    )
    correction = correction_on(probes, diagnostics, measured.append)
    quantization = quantization_passes(options.quantize, probes.collect, correction)
    passes = select_passes(graph_passes(quantization, pruning), options, diagnostics)
    changing = {id(p) for p in (*pruning, *quantization)}
    diagnostics.on_phase("passes")
    runner = PassRunner(diagnostics)
    before = runner.run([p for p in passes if id(p) not in changing], imported.mod)
    mod = runner.run([p for p in passes if id(p) in changing], before)
    diagnostics.on_phase("write")
    scheme = None if options.quantize is None else options.quantize.scheme
    least = {"int4-weights": Graph.FOUR_BITS, "fp8-weights": Graph.FLOAT8}.get(scheme or "", 0)
    proto = to_onnx(imported, before, mod, least)
    assert imported.source is not None
    was = sum(array.nbytes for array in imported.source.weights.values())
    was += sum(_size(tensor) for tensor in imported.source.proto.graph.initializer)
    result = ExportResult(
        output,
        (was, sum(map(_size, proto.graph.initializer))),
        _zeros(proto),
        len(proto.graph.node),
        int(next(e.version for e in proto.opset_import if not e.domain)),
        (*imported.warnings, *probes.warnings),
        reports[0] if reports else None,
        tuple(layer for study in measured for layer in study.layers()),
    )
    save_model(proto, output)
    return result


def save_model(proto: onnx.ModelProto, output: Path) -> None:
    """Write a model whole or not at all; large weights go into a file beside it.

    Raises:
        OutputError: it cannot be written.
        ModelError: the model is invalid, which is a bug of relaxc.
    """
    tensors = {t.name: t for t in proto.graph.initializer}
    try:
        if sum(map(_size, tensors.values())) > _INLINE_BYTES:
            _move_out(tensors, output.with_name(output.name + ".data"))
        else:
            onnx.checker.check_model(proto)
        with replacing(output) as file:
            file.write(proto.SerializeToString(deterministic=True))
    except onnx.checker.ValidationError as err:
        raise ModelError(
            f"the model to be written is no valid ONNX: {str(err).splitlines()[0]}; this is a bug "
            "of relaxc, please report it with the model"
        ) from err
    except OSError as err:
        raise OutputError(f"cannot write `{output}`: {err.strerror or err}") from err


def _move_out(tensors: Mapping[str, onnx.TensorProto], path: Path) -> None:
    """Write tensors to a file of their own, and leave where they are."""
    offset = 0
    with replacing(path) as file:
        for tensor in tensors.values():
            data = tensor.raw_data
            if len(data) < 1024:
                continue
            file.write(data)
            external_data_helper.set_external_data(tensor, path.name, offset, len(data))
            tensor.ClearField("raw_data")
            offset += len(data)


def _require_exportable(options: CompileOptions) -> None:
    if options.quantize is not None and options.quantize.scheme == "int8-dynamic":
        raise OptionError(
            "`int8-dynamic` finds ranges as our kernels run, which ONNX cannot say; export with "
            "`int8` or `int8-weights`"
        )
    if options.precision != "float32":
        raise OptionError(
            f"precision `{options.precision}` is about kernels; a model is exported in float32"
        )


def _size(tensor: onnx.TensorProto) -> int:
    if tensor.raw_data:
        return len(tensor.raw_data)
    return int(numpy_helper.to_array(tensor).nbytes)


def _zeros(proto: onnx.ModelProto) -> float:
    """The share of zeros among numbers of weights: tensors of two axes or more."""
    arrays = [numpy_helper.to_array(t) for t in proto.graph.initializer if len(t.dims) > 1]
    count = sum(array.size for array in arrays)
    return float(sum(np.sum(array == 0) for array in arrays) / max(1, count))
