"""Compute only those rows that are read, where that spares a product.

Before:                                        After:
    a = R.matmul(x, w)         (1, 197, 768)       x1 = R.strided_slice(x, (1,), (0,), (1,))
    b = R.nn.gelu(a)                               a = R.matmul(x1, w)           (1, 1, 768)
    c = R.matmul(b, v)                             b = R.nn.gelu(a)
    y = R.take(c, 0, axis=1)   (1, 768)            c = R.matmul(b, v)
                                                   y = R.take(c, 0, axis=1)

Fires when: 1. everything that reads a tensor takes the same constant range of one axis: a slice,
               one index, or an operator of which only that range is read;
            2. the operator computes rows of that axis from the same rows of its operands, or from
               all of an operand (the weights of a product, the keys of attention);
            3. a product is among what becomes narrower. What lies before the first one stays as it
               is: attention reads slices where they lie.
Leaves alone: ranges that the axis may be shorter than, strides other than 1.
Exact: rows are computed as before, if by other kernels.
Must run after: quantization and pruning, which look at layers as the model has them.
Must run before: group-attention and group-ops.
Gains: a transformer that classifies by its first token computes the last layer for that token only,
but for keys and values: 7 % of a ViT of twelve layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import tvm_ffi
from tvm import IRModule, relax, tirx
from tvm.ir import GenericConst

from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_functions, with_value
from relaxc.passes.canonicalize.sink_permute import ELEMENTWISE
from relaxc.passes.fuse.outline import operator_call

_ELEMENTWISE = ELEMENTWISE | {
    f"relax.{op}"
    for op in ("negative", "sqrt", "rsqrt", "power", "where", "astype", "nn.gelu_tanh")
}
_QUANTIZATION = ("relax.quantize", "relax.dequantize")
_NORMS = ("relax.nn.layer_norm", "relax.nn.rms_norm")
_PRODUCT = "relax.matmul"


@dataclass(frozen=True)
class Cut:
    """A range of one axis, from `begin` to before `end`."""

    axis: int
    begin: int
    end: int

    def along(self, axis: int) -> Cut:
        """The same range of another axis."""
        return Cut(axis, self.begin, self.end)


@dataclass(frozen=True)
class NarrowRows(Pass):
    """Move slices of rows, and indices of single ones, before products."""

    name: ClassVar[str] = "narrow-rows"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite the dataflow blocks of every function."""
        if not any(_cuts(block) for block in _blocks(mod)):
            return mod
        # A slice of what became that slice is another name for it.
        changed = relax.transform.CanonicalizeBindings()(rewrite_functions(mod, _rewrite))
        return relax.transform.DeadCodeElimination()(changed)


def _blocks(mod: IRModule) -> list[relax.BindingBlock]:
    functions = [func for _, func in mod.functions_items() if isinstance(func, relax.Function)]
    return [block for func in functions for block in func.body.blocks]


def _cuts(block: relax.BindingBlock) -> dict[relax.Var, Cut]:
    """What becomes narrower in a block, and how."""
    if not isinstance(block, relax.DataflowBlock):
        return {}
    return _kept(list(block.bindings), _wanted(list(block.bindings)))


def _rewrite(builder: relax.BlockBuilder, block: relax.BindingBlock) -> list[relax.Binding]:
    bindings, cuts = list(block.bindings), _cuts(block)
    if not cuts:
        return bindings
    narrow: dict[relax.Expr, relax.Var] = {}
    slices: dict[tuple[relax.Expr, Cut], relax.Var] = {}
    out: list[relax.Binding] = []

    def ranged(arg: relax.Expr, cut: Cut) -> relax.Expr:
        """That range of an operand."""
        if arg in narrow:
            return narrow[arg]
        if isinstance(arg, GenericConst):
            index = (slice(None),) * cut.axis + (slice(cut.begin, cut.end),)
            part = np.ascontiguousarray(arg.value.numpy()[index])
            return relax.const(part, part.dtype.name)
        if (arg, cut) not in slices:
            call = relax.op.strided_slice(arg, [cut.axis], [cut.begin], [cut.end], [1])
            slices[arg, cut] = _emit(builder, out, call, f"{arg.name}.rows")
        return slices[arg, cut]

    for binding in bindings:
        var, call = binding.var, operator_call(binding)
        seed = None if call is None else _seed(call)
        if call is not None and seed is not None and call.args[0] in cuts:
            # Its rows are all there is.
            value = _taken(call, narrow[call.args[0]])
            out.append(with_value(binding, builder.normalize(value)))
        elif call is not None and var in cuts:
            operands = _operands(call, cuts[var])
            assert operands is not None, "what cannot be narrowed is not kept"
            args = [a if cut is None else ranged(a, cut) for a, cut in zip(call.args, operands)]
            if call.op.name == "relax.reshape":
                args[1] = _shape_within(call, cuts[var])
            value = relax.Call(call.op, args, call.attrs, call.ty_args, call.span)
            narrow[var] = _emit(builder, out, value, var.name)
        else:
            out.append(binding)
    return out


def _emit(
    builder: relax.BlockBuilder, out: list[relax.Binding], value: relax.Expr, name: str
) -> relax.Var:
    value = builder.normalize(value)
    var = relax.DataflowVar(name, value.ty)
    out.append(relax.VarBinding(var, value))
    return var


def _wanted(bindings: Sequence[relax.Binding]) -> dict[relax.Var, Cut]:
    """The range of each variable that is read; those of which everything is are left out."""
    wanted: dict[relax.Var, Cut | None] = {}

    def want(arg: relax.Expr, cut: Cut | None) -> None:
        for var in relax.analysis.free_vars(arg):
            wanted[var] = cut if wanted.get(var, cut) == cut else None

    for binding in reversed(bindings):
        call = operator_call(binding)
        if call is None or not isinstance(binding.var, relax.DataflowVar):
            wanted[binding.var] = None
        cut = wanted.get(binding.var)
        operands = None if call is None or cut is None else _operands(call, cut)
        seed = None if call is None else _seed(call)
        if operands is None:
            wanted[binding.var] = None
        if seed is not None:
            operands, wanted[binding.var] = [seed], None
        if call is None:
            want(binding.value, None)
            continue
        for i, arg in enumerate(call.args):
            want(arg, operands[i] if operands is not None and i < len(operands) else None)
    return {var: cut for var, cut in wanted.items() if cut is not None}


def _kept(bindings: Sequence[relax.Binding], cuts: dict[relax.Var, Cut]) -> dict[relax.Var, Cut]:
    """The products among the cuts, and what comes after them (3.)."""
    kept: dict[relax.Var, Cut] = {}
    for binding in bindings:
        call, cut = operator_call(binding), cuts.get(binding.var)
        if call is None or cut is None:
            continue
        if call.op.name == _PRODUCT or any(arg in kept for arg in call.args):
            kept[binding.var] = cut
    return kept


def _seed(call: relax.Call) -> Cut | None:
    """The range of its first operand that a slice or an index reads."""
    data = call.args[0] if call.args else None
    if data is None or not isinstance(data, relax.Var) or _dims(data) is None:
        return None
    if call.op.name == "relax.take" and call.attrs.axis is not None:
        at = call.args[1].value.numpy() if isinstance(call.args[1], GenericConst) else None
        if at is None or at.size != 1:
            return None
        first = int(at.reshape(-1)[0])
        if first < 0 and call.attrs.mode != "wrap":
            return None  # an error of the model's, or the first one
        return _range(data, int(call.attrs.axis), first, 1)
    if call.op.name == "relax.strided_slice":
        axes, begin, end, *step = (_numbers(arg) for arg in call.args[1:])
        if axes is None or begin is None or end is None or len(axes) != 1:
            return None
        if step and step[0] != [1] or end[0] <= begin[0] or (end[0] < 0) != (begin[0] < 0):
            return None
        return _range(data, axes[0], begin[0], end[0] - begin[0])
    return None


def _range(data: relax.Expr, axis: int, begin: int, count: int) -> Cut | None:
    """`count` elements from `begin` on, if the axis is known to have them, and more."""
    axis %= data.ty.ndim
    extent = _dims(data)[axis]
    if not isinstance(extent, int):
        return None
    begin += extent if begin < 0 else 0
    if begin < 0 or begin + count > extent or count >= extent:
        return None
    return Cut(axis, begin, begin + count)


def _taken(call: relax.Call, data: relax.Var) -> relax.Expr:
    """A slice or an index of data that have nothing else on that axis."""
    if call.op.name != "relax.take":
        return data
    at = np.zeros_like(call.args[1].value.numpy())
    args = [data, relax.const(at, at.dtype.name)]
    return relax.Call(call.op, args, call.attrs, call.ty_args, call.span)


def _operands(call: relax.Call, cut: Cut) -> list[Cut | None] | None:
    """What a range of the result needs of each operand: None is all of it.

    None where ranges of the result are not computed from ranges of operands (2.).
    """
    name = call.op.name
    rest: list[Cut | None] = [None] * (len(call.args) - 1)
    if any(isinstance(a.ty, relax.TensorType) and _dims(a) is None for a in (*call.args, call)):
        return None
    if name in _ELEMENTWISE:
        return [_broadcast(arg, call, cut) for arg in call.args]
    if name in _QUANTIZATION:
        is_along = int(call.attrs.axis) % call.ty.ndim == cut.axis
        return None if is_along and any(_dims(a) for a in call.args[1:]) else [cut, *rest]
    if name == "relax.nn.softmax" or name in _NORMS:
        axes = [call.attrs.axis] if name == "relax.nn.softmax" else call.attrs.axes
        return None if cut.axis in [int(a) % call.ty.ndim for a in axes] else [cut, *rest]
    if name == _PRODUCT:
        return _product_operands(call, cut)
    if name == "relax.permute_dims":
        axes = call.attrs.axes
        order = range(call.ty.ndim)[::-1] if axes is None else [int(a) for a in axes]
        return [cut.along(order[cut.axis])]
    if name == "relax.reshape":
        before = _same_axis(_dims(call.args[0]), _dims(call), cut.axis)
        return None if before is None else [cut.along(before), *rest]
    return None


def _product_operands(call: relax.Call, cut: Cut) -> list[Cut | None] | None:
    """Rows of a product are those of its first operand; batches, of both."""
    ranks, last = [arg.ty.ndim for arg in call.args], call.ty.ndim - 1
    if min(ranks) < 2 or cut.axis == last:
        return None
    if cut.axis == last - 1:
        return [cut.along(ranks[0] - 2), None]
    return [_broadcast(arg, call, cut) for arg in call.args]


def _broadcast(arg: relax.Expr, call: relax.Call, cut: Cut) -> Cut | None:
    """The range of an operand that is stretched to the shape of the result."""
    if not isinstance(arg.ty, relax.TensorType):
        return None
    axis = cut.axis - (call.ty.ndim - arg.ty.ndim)
    return None if axis < 0 or _dims(arg)[axis] == 1 else cut.along(axis)


def _shape_within(call: relax.Call, cut: Cut) -> relax.ShapeExpr:
    dims = list(call.ty.shape.values)
    dims[cut.axis] = tirx.IntImm("int64", cut.end - cut.begin)
    return relax.ShapeExpr(dims)


def _same_axis(before: Sequence[Any], after: Sequence[Any], axis: int) -> int | None:
    """The axis before a reshape that has the same elements as `axis` after it."""
    for i, extent in enumerate(before):
        if _same([extent], [after[axis]]) and _same(before[:i], after[:axis]):
            return i
    return None


def _same(left: Sequence[Any], right: Sequence[Any]) -> bool:
    """Whether the products of extents are equal, as far as can be seen."""
    numbers = [math.prod(d for d in dims if isinstance(d, int)) for dims in (left, right)]
    symbols = [[d for d in dims if not isinstance(d, int)] for dims in (left, right)]
    if numbers[0] != numbers[1] or len(symbols[0]) != len(symbols[1]):
        return False
    return all(map(tvm_ffi.structural_equal, *symbols))


def _dims(expr: relax.Expr) -> list[Any]:
    """The extents, as numbers where they are known; None without a shape."""
    shape = getattr(expr.ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr):
        return None  # type: ignore[return-value]
    return [int(d) if isinstance(d, tirx.IntImm) else d for d in shape.values]


def _numbers(arg: relax.Expr) -> list[int] | None:
    """A tuple of known numbers."""
    fields = list(arg.fields) if isinstance(arg, relax.Tuple) else []
    if not fields or not all(isinstance(field, tirx.IntImm) for field in fields):
        return None
    return [int(field) for field in fields]
