"""Matrix products on tensor cores: with constant weights, or of two activations."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tvm import relax

from relaxc.layout import ARITHMETIC, PLAIN, ROWS_E4M3, Demand, Element, Layout
from relaxc.targets.cuda.groups import eight_bits, few_rows, two_of_four
from relaxc.targets.cuda.groups.base import (
    NORMS,
    Context,
    Group,
    GroupKernel,
    is_float,
    is_row_epilogue,
)
from relaxc.targets.cuda.groups.tiled import tiling_for, workload_of
from relaxc.targets.cuda.kernels import gemm, tilings
from relaxc.targets.cuda.kernels.elements import element_bytes, element_of
from relaxc.targets.cuda.kernels.epilogue import epilogue_text, vector_width
from relaxc.targets.cuda.kernels.frame import Frame
from relaxc.targets.cuda.kernels.kernel import Kernel
from relaxc.targets.cuda.tuning import MATMUL
from relaxc.targets.llvm.kernels.constants import array_of, is_constant, quantized
from relaxc.targets.llvm.kernels.domain import RowDomain, as_int, same


class Matmul(GroupKernel):
    """(..., rows, depth) @ (depth, columns), or a batch of such, with an elementwise epilogue."""

    name = "matmul"
    is_product = True

    def anchors(self, call: relax.Call, context: Context) -> bool:
        """Whether the sizes are known, those of rows aside, and batches are not broadcast."""
        if str(call.op.name) != "relax.matmul" or not all(map(is_float, (*call.args, call))):
            return False
        left, right = (list(arg.ty.shape.values) for arg in call.args)
        if is_constant(call.args[0]) or len(left) < 2:
            return False
        if any(as_int(d) is None for d in (left[-1], *right)):
            return False
        if len(right) == 2:
            return True
        equal = len(left) == len(right) and all(same(a, b) for a, b in zip(left[:-2], right[:-2]))
        return equal and not is_constant(call.args[1])

    def is_epilogue(self, call: relax.Call, anchor: relax.Call) -> bool:
        """Elementwise operators on rows."""
        return is_row_epilogue(call, RowDomain(tuple(anchor.ty.shape.values)))

    def absorbs(self, anchor: relax.Call, call: relax.Call, context: Context) -> bool:
        """Norms of whole rows, where the kernel of a few rows has them in registers."""
        if str(call.op.name) not in NORMS or not all(map(is_constant, call.args[1:])):
            return False
        data, axes = call.args[0], [int(axis) % int(call.ty.ndim) for axis in call.attrs.axes]
        if not isinstance(data, relax.Var) or axes != [int(call.ty.ndim) - 1]:
            return False
        return few_rows.split_of(anchor, context) is not None

    def is_pair(self, anchor: relax.Call, other: relax.Call, context: Context) -> bool:
        """Equal shapes, and constant matrices of floats, or such whose integers stay so."""
        if not self.anchors(other, context) or anchor.args[1].ty.ndim != 2:
            return False
        weights = (anchor.args[1], other.args[1])
        columns = as_int(anchor.args[1].ty.shape.values[1])
        if not all(map(is_constant, weights)) or columns is None or columns % 4:
            return False
        shapes = [[int(d) for d in weight.ty.shape.values] for weight in weights]
        if shapes[0] != shapes[1]:
            return False
        if few_rows.count(anchor) is not None:
            return few_rows.can_pair(anchor, other, context)
        if all(two_of_four.can_be(call, context) for call in (anchor, other)):
            return False
        return all(quantized(weight, 1) is None for weight in weights)

    def demands(self, group: Group, data: Layout, context: Context) -> list[Demand]:
        """Row-major matrices."""
        return [Demand(("plain",)) for _ in group.func.params]

    def result_layout(self, group: Group, params: Sequence[Layout]) -> Layout:
        """Row-major."""
        return PLAIN

    def elements(self, group: Group, context: Context) -> dict[relax.Var, Element]:
        """The operands as the tensor cores take them."""
        wanted = element_of(context.mode)
        if group.integers(1) is not None:
            return {}
        if group.prologue is not None:  # it reads rows as numbers
            return {}
        if eight_bits.is_worthwhile(group, context):
            wanted = ROWS_E4M3
        return {arg: wanted for arg in group.anchor.args if isinstance(arg, relax.Var)}

    def lower(self, group: Group, layouts: Sequence[Layout], context: Context) -> Kernel:
        """Write the kernel."""
        if few_rows.count(group.anchor) is not None:
            return few_rows.lower(group, layouts, context)
        left, right = group.anchor.args
        frame = Frame("matmul", group.func, layouts)
        is_float8 = frame.elements[left] == ROWS_E4M3
        context = context.in_eight_bits() if is_float8 else context.of(group, 1)
        is_weight = is_constant(right)
        shape = [_simple(d) for d in left.ty.shape.values]
        is_batched = right.ty.ndim > 2
        depth, columns = shape[-1], int(right.ty.shape.values[-1])
        leading = shape[:-2] if is_batched else []
        batch = functools.reduce(operator.mul, leading, 1)
        rows = shape[-2] if is_batched else functools.reduce(operator.mul, shape[:-1], 1)
        is_paired = group.other is not None
        columns *= 2 if is_paired else 1
        frame.label = tilings.label(rows, columns, depth, context.mode)
        domain = RowDomain(tuple(group.result_shape))
        sizes = (as_int(rows), columns, depth, as_int(batch))
        stored = Layout(element=frame.elements[left]), layouts[-1]
        fields = dict(zip(("rows", "columns", "depth", "batch"), sizes))
        tiling = tiling_for(
            context,
            sizes,
            workload_of(MATMUL, group, domain, stored, **fields, is_paired=is_paired),
            packed=is_weight,
            is_fetched=not is_batched and depth % (16 // element_bytes(context.mode)) == 0,
        )
        is_sparse = two_of_four.is_worthwhile(group, context)
        if is_sparse:
            tiling = two_of_four.tiling_for(as_int(rows), columns, context.gpu)
            frame.label += "_2of4"
        per_chunk = 16 // element_bytes(context.mode)
        a = gemm.Operand(
            frame.pointer(left),
            frame.elements[left],
            depth % per_chunk == 0,
            {"A_ROW": depth, "A_BATCH": 0},
            is_matrix=not is_batched and depth % per_chunk == 0,
        )
        rescale = scale = None
        if is_sparse:
            element = element_of(context.mode)
            left_over = two_of_four.packed(array_of(right), element, tiling.columns)
            b = gemm.Operand(frame.constant(left_over, "int8"), "int8", True, {"B_BATCH": 0})
        elif is_weight:
            tiling = gemm.fitted(tiling, a, depth, context.mode)
            integers = group.integers(1)
            weight = array_of(right) if integers is None else integers.weight.integers
            if integers is not None:
                rescale = integers.rescale(weight)
            if group.other is not None:
                weight = gemm.paired(weight, array_of(group.other[1].args[1]))
            if is_float8:
                weight, scale = eight_bits.rounded(weight)
            packed = gemm.pack_weights(weight, tiling, context.mode)
            element = element_of(context.mode)
            pointer = frame.constant(packed, element, gemm.packed_as(weight, tiling, context.mode))
            b = gemm.Operand(pointer, element, True, {"B_BATCH": 0})
        else:
            size = depth * columns if is_batched else 0
            b = gemm.Operand(
                frame.pointer(right),
                frame.elements[right],
                columns % per_chunk == 0,
                {"B_BATCH": size},
                ("B_ROWS_ARE_K",),
            )
        if is_batched:
            # The rows of a batch may be symbolic only where there is no batch.
            a.constants["A_BATCH"] = int(rows) * depth
        text = gemm.source(
            context.mode,
            tiling,
            columns,
            depth,
            a,
            b,
            gemm.PAIRED if is_paired or is_sparse else vector_width(columns, layouts[-1]),
            epilogue_text(
                *(group.epilogue, domain, frame, rescale),
                other=None if group.other is None else group.other[0],
                scale=scale,
            ),
            is_paired,
        )
        kernel = gemm.finish(frame, text, rows, columns, batch, tiling, a, context.gpu)
        if is_sparse:
            return two_of_four.marked(kernel, array_of(right))
        if not is_float8:
            return kernel
        return replace(kernel, func=kernel.func.with_attr(ARITHMETIC, "float8"))


def _simple(dim: Any) -> Any:
    value = as_int(dim)
    return dim if value is None else value
