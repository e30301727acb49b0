"""Products of a few rows with constant weights: as fast as these can be read."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax

from relaxc.layout import Element, Layout
from relaxc.targets.cuda.groups.base import Context, Group
from relaxc.targets.cuda.groups.tiled import workload_of
from relaxc.targets.cuda.kernels import gemm, gemv, gemv_streamed, tilings
from relaxc.targets.cuda.kernels.byte_epilogue import Rescale
from relaxc.targets.cuda.kernels.elements import element_bytes, element_of
from relaxc.targets.cuda.kernels.epilogue import epilogue_text
from relaxc.targets.cuda.kernels.frame import Frame, as_element
from relaxc.targets.cuda.kernels.gemv_streamed import Split
from relaxc.targets.cuda.kernels.kernel import Kernel
from relaxc.targets.cuda.kernels.packing import Packed
from relaxc.targets.cuda.tuning import MATVEC
from relaxc.targets.llvm.kernels.constants import (
    GroupedWeight,
    array_of,
    grouped,
    is_constant,
    quantized,
)
from relaxc.targets.llvm.kernels.domain import RowDomain, as_int
from relaxc.targets.tuning.task import Choice


def count(anchor: relax.Call) -> int | None:
    """How many rows a product with a constant has; None if they are many, or not known."""
    if str(anchor.op.name) != "relax.matmul":
        return None
    left, right = anchor.args
    if not is_constant(right) or right.ty.ndim != 2:
        return None
    dims = [as_int(dim) for dim in left.ty.shape.values[:-1]]
    if any(dim is None for dim in dims):
        return None
    rows = functools.reduce(operator.mul, (int(dim) for dim in dims if dim is not None), 1)
    return rows if 0 < rows <= gemv.MAX_ROWS else None


def split_of(anchor: relax.Call, context: Context, is_paired: bool = False) -> Split | None:
    """How the copy engine serves such a product; None where it can't."""
    rows = count(anchor)
    if rows is None or not context.gpu.has_bulk_copies:
        return None
    depth, columns = (int(dim) for dim in anchor.args[1].ty.shape.values)
    weight = _integers(anchor.args[1])
    bits = 8 * element_bytes(context.mode) if weight is None else weight.bits
    extra = 0 if weight is None else gemv_streamed.extra_bytes(weight)
    columns *= 2 if is_paired else 1
    return gemv_streamed.choose_split(
        *(rows, columns, depth, bits, context.gpu, extra), is_paired=is_paired
    )


def can_pair(anchor: relax.Call, other: relax.Call, context: Context) -> bool:
    """Whether one kernel serves two products of equal shapes: their weights are stored alike."""
    weights = [_integers(call.args[1]) for call in (anchor, other)]
    stored = {w and (w.bits, w.size, w.middle, gemv_streamed.scale_type(w)) for w in weights}
    return len(stored) == 1 and split_of(anchor, context, is_paired=True) is not None


def lower(group: Group, layouts: Sequence[Layout], context: Context) -> Kernel:
    """Write the kernel."""
    rows = count(group.anchor)
    assert rows is not None
    depth, columns = (int(d) for d in group.anchor.args[1].ty.shape.values)
    frame = Frame("matvec", group.func, layouts)
    frame.label = tilings.label(rows, columns, depth)
    split = split_of(group.anchor, context, group.other is not None)
    if split is None:
        return _lower_unstreamed(group, layouts, context, rows, frame)
    sizes = (rows, columns, depth)
    calls = [group.anchor] if group.other is None else [group.anchor, group.other[1]]
    weights = [_integers(call.args[1]) for call in calls]
    element: Element = "int8"
    about = None
    if any(weight is None for weight in weights):
        element = element_of(context.mode)
        split = _chosen(group, sizes, split, (frame.elements[group.data], layouts[-1]), context)
        arrays = [as_element(array_of(call.args[1]), element) for call in calls]
        whole = _interleaved(arrays)
        packed = gemv_streamed.pack(whole, split)
        about = Packed(whole.shape[0], whole.shape[1], whole.dtype.name, split.packing)
        weight = None
    else:
        weight = _joined([w for w in weights if w is not None])
        packed = gemv_streamed.pack_grouped(weight, split)
    pointer = frame.constant(packed.view(np.int8), "int8", about)
    norm: Sequence[str] = ()
    if group.prologue is not None:
        attrs, affine = group.prologue.attrs, [frame.pointer(a) for a in group.prologue.args[1:]]
        is_centered = str(group.prologue.op.name) == "relax.nn.layer_norm"
        scale, offset = (*affine, None, None)[:2]
        norm = gemv_streamed.norm_lines(float(attrs.epsilon), is_centered, scale, offset)
    text = gemv_streamed.source(
        sizes,
        split,
        (frame.pointer(group.data), frame.elements[group.data]),
        (pointer, element),
        epilogue_text(
            group.epilogue,
            RowDomain(tuple(group.result_shape)),
            frame,
            other=None if group.other is None else group.other[0],
        ),
        weight,
        group.other is not None,
        norm,
    )
    return frame.finish(text, [split.blocks], split.warps * 32, split.shared_bytes(rows))


def _chosen(
    group: Group,
    sizes: tuple[int, int, int],
    usual: Split,
    stored: tuple[Element, Layout],
    context: Context,
) -> Split:
    """How a product of floats is divided: as was measured, or as usual."""
    rows, columns, depth = sizes
    is_paired = group.other is not None
    bits = 8 * element_bytes(context.mode)
    every = [usual]
    every += gemv_streamed.every_split(
        *(rows, columns * (2 if is_paired else 1), depth, bits, context.gpu), is_paired=is_paired
    )
    fields: dict[str, Any] = {"rows": rows, "columns": columns, "depth": depth}
    fields |= {"is_paired": is_paired, "precision": context.mode}
    fields["norm"] = ""
    if group.prologue is not None:
        fields["norm"] = str(group.prologue.op.name).rpartition(".")[2]
    layouts = Layout(element=stored[0]), stored[1]
    domain = RowDomain(tuple(group.result_shape))
    workload = workload_of(MATVEC, group, domain, layouts, **fields)
    choices = {split: _as_choice(split) for split in every}
    choice = context.choose(workload, lambda: list(choices.values()))
    return next((split for split, known in choices.items() if known == choice), usual)


def _as_choice(split: Split) -> Choice:
    """A division as records have it."""
    return {"depth_warps": split.depth_warps, "columns": split.columns, "groups": split.groups}


def _lower_unstreamed(
    group: Group, layouts: Sequence[Layout], context: Context, rows: int, frame: Frame
) -> Kernel:
    """By loads of threads."""
    left, right = group.anchor.args
    depth, columns = (int(d) for d in right.ty.shape.values)
    integers, element = quantized(right, 1), element_of(context.mode)
    weight, rescale = array_of(right), None
    if integers is not None:  # the data are read as numbers: only weights are to be scaled
        weight, element = integers.integers, "int8"
        scale = np.broadcast_to(integers.scale, (columns,))
        nothing = np.zeros(columns, np.float32)
        rescale = Rescale(scale, nothing, nothing + np.inf)
    packed = gemm.pack_weights(weight, gemv.TILING, "int8" if integers else context.mode)
    text = gemv.source(
        (rows, columns, depth),
        (frame.pointer(left), frame.elements[left]),
        (frame.constant(packed, element), element),
        epilogue_text(group.epilogue, RowDomain(tuple(group.result_shape)), frame, rescale),
    )
    shared = gemv.shared_bytes((rows, columns, depth), frame.elements[left])
    return frame.finish(text, gemv.grid(columns), gemv.THREADS, shared)


def _integers(weight: relax.Expr) -> GroupedWeight | None:
    """A weight of four or eight bits that can stay so."""
    found = grouped(weight)
    return found if found is not None and gemv_streamed.can_pack(found) else None


def _interleaved(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Columns of several matrices in turn."""
    return np.stack(arrays, axis=-1).reshape(len(arrays[0]), -1)


def _joined(weights: Sequence[GroupedWeight]) -> GroupedWeight:
    if len(weights) == 1:
        return weights[0]
    first = weights[0]
    parts = ("integers", "scale", "zero_point")
    return GroupedWeight(
        first.kind, *(_interleaved([getattr(w, part) for w in weights]) for part in parts)
    )
