"""Compute convolutions of patches that do not overlap as matrix products.

Before:                                     After:
    gv = R.nn.conv2d(x, w, strides=p)           a = R.reshape(x, (n, c, h, p, v, p))
                                                b = R.permute_dims(a, [0, 2, 4, 1, 3, 5])
                                                m = R.reshape(b, (n, h * v, c * p * p))
                                                y = R.matmul(m, R.const of w, rows and columns)
                                                t = R.permute_dims(y, [0, 2, 1])
                                                gv = R.reshape(t, (n, o, h, v))
with p for the extents of kernel and stride, c channels and o outputs, h by v patches.

Only products have weights of a few bits; what embeds the patches of a vision transformer is a
tenth of a small one's artifact when all else takes four bits.
Fires when: 1. kernel and stride are the same, and more than one pixel;
            2. there are neither groups, nor dilation, nor padding;
            3. the image is a number of whole patches, known at compile time;
            4. the weight is a float32 constant, of rows that groups of a scale divide.
Leaves alone: excluded nodes.
Exact: the products are the same, summed in another order.
Must run before: quantize-weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import IRModule, relax, tirx
from tvm.ir import GenericConst

from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_main
from relaxc.passes.fuse.outline import operator_call
from relaxc.passes.quantize.exclusion import Exclusion, node_of


@dataclass(frozen=True)
class UnfoldPatches(Pass):
    """Rewrite convolutions of patches as products.

    Attributes:
        group: rows of a weight that share a scale; None: any number does.
        exclude: nodes that stay float: names, or regular expressions that match whole names.
    """

    group: int | None = None
    exclude: tuple[str, ...] = ()

    name: ClassVar[str] = "unfold-patches"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite `main`."""
        exclusion = Exclusion.of(mod, self.exclude)
        taken = {str(b.var.name) for block in mod["main"].body.blocks for b in block.bindings}
        builder = relax.BlockBuilder(mod)

        def rewrite(block: relax.BindingBlock) -> Sequence[relax.Binding]:
            result: list[relax.Binding] = []
            for binding in block.bindings:
                patch = None
                if isinstance(block, relax.DataflowBlock) and not exclusion.has(node_of(binding)):
                    patch = self._patch(binding)
                if patch is None:
                    result.append(binding)
                else:
                    result.extend(_unfolded(builder, binding, patch, taken))
            return result

        return rewrite_main(builder, rewrite)

    def _patch(self, binding: relax.Binding) -> tuple[int, int] | None:
        """Height and width of the patches that a convolution reads, if that is all it does."""
        call = operator_call(binding)
        if call is None or call.op.name != "relax.nn.conv2d":
            return None
        weight, attrs = call.args[1], call.attrs
        if not isinstance(weight, GenericConst) or str(weight.ty.dtype.dtype) != "float32":  # 4.
            return None
        if not str(attrs.data_layout).startswith("NCHW") or attrs.kernel_layout != "OIHW":
            return None
        kernel = tuple(int(n) for n in weight.ty.shape.values[2:])
        if kernel != tuple(map(int, attrs.strides)) or kernel == (1, 1):  # 1.
            return None
        is_plain = int(attrs.groups) == 1 and all(int(n) == 1 for n in attrs.dilation)
        if not is_plain or any(int(n) for n in attrs.padding):  # 2.
            return None
        for extent, step in zip(call.args[0].ty.shape.values[2:], kernel):  # 3.
            if not isinstance(extent, tirx.IntImm) or int(extent) % step:
                return None
        depth = int(np.prod(weight.value.shape[1:]))
        return None if depth % (self.group or 1) else (kernel[0], kernel[1])  # 4.


def _unfolded(
    builder: relax.BlockBuilder, binding: relax.Binding, patch: tuple[int, int], taken: set[str]
) -> list[relax.Binding]:
    data, weight = binding.value.args
    n, channels, height, width = data.ty.shape.values
    rows, columns = int(height) // patch[0], int(width) // patch[1]
    matrix = weight.value.numpy().reshape(weight.value.shape[0], -1).T
    depth, outputs = matrix.shape
    result: list[relax.Binding] = []
    node, number = node_of(binding), 0

    def emit(value: relax.Expr) -> relax.Var:
        nonlocal number
        # Numbered names are those of the same node.
        while f"{node}.{number}" in taken:
            number += 1
        taken.add(f"{node}.{number}")
        value = builder.normalize(value)
        result.append(relax.VarBinding(relax.DataflowVar(f"{node}.{number}", value.ty), value))
        return result[-1].var

    split = emit(relax.op.reshape(data, (n, channels, rows, patch[0], columns, patch[1])))
    moved = emit(relax.op.permute_dims(split, [0, 2, 4, 1, 3, 5]))
    table = emit(relax.op.reshape(moved, (n, rows * columns, depth)))
    product = emit(relax.op.matmul(table, relax.const(np.ascontiguousarray(matrix))))
    turned = emit(relax.op.permute_dims(product, [0, 2, 1]))
    image = builder.normalize(relax.op.reshape(turned, (n, outputs, rows, columns)))
    return [*result, relax.VarBinding(binding.var, image)]
