"""distill(): one ONNX model learns to do what another one does, without labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
from tvm import IRModule, relax, tirx

from relaxc.calibrate import CalibrationData, recovery_samples
from relaxc.compiler import require_writable
from relaxc.emitting import run_piece
from relaxc.errors import OptionError
from relaxc.exporting import save_model
from relaxc.frontend.export.exporter import to_onnx
from relaxc.frontend.importer import ImportedModel, from_onnx
from relaxc.manifest import describe_inputs
from relaxc.options import Diagnostics, DistillOptions, Shape
from relaxc.pass_runner import PassRunner
from relaxc.passes.pipeline import graph_passes
from relaxc.passes.prune.distill import Pair, train
from relaxc.passes.prune.segments import Arrays
from relaxc.pruning import distillation, require_logits
from relaxc.targets.registry import backend_for

Model: TypeAlias = str | os.PathLike[str] | onnx.ModelProto


@dataclass(frozen=True)
class DistillResult:
    """What training did.

    Attributes:
        path: the trained student, an ONNX file.
        errors: of the samples that were kept aside, before and after every epoch: the squared
            distance to the teacher's outputs, relative to their squares, or the divergence of
            logits. Of a run that went on from a checkpoint, those since then.
        warnings: oddities of the models.
    """

    path: Path
    errors: tuple[float, ...]
    warnings: tuple[str, ...]


def distill(
    teacher: Model,
    student: Model,
    data: CalibrationData,
    output: str | os.PathLike[str],
    options: DistillOptions | None = None,
    input_shapes: Mapping[str, Shape] | None = None,
    diagnostics: Diagnostics | None = None,
) -> DistillResult:
    """Train a model to give what another one gives for the same inputs, and write it as ONNX.

    Args:
        teacher: path of an ONNX file, or a model in memory.
        student: likewise, with inputs and outputs of the same names, types and shapes. Its
            weights are where training begins; its batch norms become a part of them.
        data: samples of real inputs, as for `compile`.
        output: the ONNX file to write.
        options: how long and how fast.
        input_shapes: input name -> dimensions, for both models.
        diagnostics: what to show on the way, and where the state is kept.

    Raises:
        ModelError: a model is unreadable, invalid or unsupported, or the student cannot be written.
        OptionError: the models do not fit, or an operator has no derivative.
        InputError: the data does not fit the models.
        OutputError: the file cannot be written.
    """
    options, diagnostics = options or DistillOptions(), diagnostics or Diagnostics()
    output = Path(output)
    require_writable(output, teacher, student)
    diagnostics.on_phase("import")
    taught = from_onnx(student, input_shapes, keeps_source=True)
    master = from_onnx(teacher, input_shapes)
    _require_pair(master, taught)
    require_logits(options, taught.outputs)
    samples = recovery_samples(describe_inputs(taught), data)
    runner = PassRunner(diagnostics)
    small = runner.run(graph_passes(), taught.mod)
    large = _in_order_of(runner.run(graph_passes(), master.mod), master, taught)
    errors: list[float] = []

    def run(piece: IRModule, arguments: Iterable[Arrays]) -> Iterator[list[np.ndarray]]:
        return run_piece(taught, piece, backend_for("llvm"), arguments)

    how = distillation(options, diagnostics.checkpoint, lambda: taught.outputs)
    trained = train(Pair(large, small), (), run, samples, how, diagnostics.on_phase, errors.append)
    diagnostics.on_phase("write")
    save_model(to_onnx(taught, small, trained), output)
    return DistillResult(output, tuple(errors), (*master.warnings, *taught.warnings))


def _require_pair(teacher: ImportedModel, student: ImportedModel) -> None:
    """Refuse models that cannot be compared.

    Raises:
        OptionError: inputs or outputs differ.
    """
    for what, theirs, ours in (
        ("inputs", teacher.inputs, student.inputs),
        ("outputs", teacher.outputs, student.outputs),
    ):
        if set(theirs) != set(ours):
            raise OptionError(
                f"teacher and student have different {what}: {_listed(theirs)} and "
                f"{_listed(ours)}; rename one model's"
            )
    large, small = _types(teacher), _types(student)
    for name, ty in small.items():
        if not _fit(large[name], ty):
            raise OptionError(
                f"`{name}` is {_spelled(large[name])} in the teacher and {_spelled(ty)} in the "
                "student; fix dimensions with `--input-shapes`, or choose another pair"
            )


def _types(model: ImportedModel) -> dict[str, relax.TensorType]:
    main = model.mod["main"]
    result = main.ret_ty
    fields = list(result.fields) if isinstance(result, relax.TupleType) else [result]
    types = [*(param.ty for param in main.params), *fields]
    return dict(zip((*model.inputs, *model.outputs), types, strict=True))


def _fit(a: relax.TensorType, b: relax.TensorType) -> bool:
    """Whether the types agree, as far as they are known: symbols are what samples say."""
    if str(a.dtype.dtype) != str(b.dtype.dtype) or a.ndim != b.ndim:
        return False
    if not all(isinstance(ty.shape, relax.ShapeExpr) for ty in (a, b)):
        return True
    pairs = zip(_dims(a), _dims(b), strict=True)
    return all(x == y for x, y in pairs if isinstance(x, int) and isinstance(y, int))


def _dims(ty: relax.TensorType) -> list[int | str]:
    return [int(d) if isinstance(d, tirx.IntImm) else str(d) for d in ty.shape.values]


def _spelled(ty: relax.TensorType) -> str:
    known = isinstance(ty.shape, relax.ShapeExpr)
    return f"{ty.dtype.dtype}{_dims(ty) if known else ''}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _in_order_of(mod: IRModule, teacher: ImportedModel, student: ImportedModel) -> IRModule:
    """The teacher with inputs and outputs in the order of the student's."""
    main = mod["main"]
    params = [main.params[teacher.inputs.index(name)] for name in student.inputs]
    blocks, result = list(main.body.blocks), main.body.body
    if len(teacher.outputs) > 1 and teacher.outputs != student.outputs:
        bound = {b.var: b.value for block in blocks for b in block.bindings}
        fields = list(bound.get(result, result).fields)
        ordered = relax.Tuple([fields[teacher.outputs.index(name)] for name in student.outputs])
        value = relax.BlockBuilder().normalize(ordered)
        last = relax.Var("outputs", value.ty)
        bindings = [*blocks[-1].bindings, relax.VarBinding(last, value)]
        blocks, result = [*blocks[:-1], type(blocks[-1])(bindings)], last
    body = relax.BlockBuilder().normalize(relax.SeqExpr(blocks, result))
    out = mod.clone()
    out["main"] = relax.Function(params, body, body.ty, main.is_pure, main.attrs)
    return out
