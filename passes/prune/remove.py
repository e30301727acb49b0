"""Take channels out of every tensor of a module at once.

Before:                                          After, two of four channels removed:
    lv = R.nn.conv2d(x, w[4, 3, 1, 1])               lv = R.nn.conv2d(x, w[2, 3, 1, 1])
    lv1 = R.reshape(lv, (1, 4 * 9))                  lv1 = R.reshape(lv, (1, 2 * 9))
    gv = R.matmul(lv1, v[36, 5])                     gv = R.matmul(lv1, v[18, 5])

Weights lose indices; shapes, ranges, paddings and group counts in attributes follow.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import IRModule, relax
from tvm.ir import GenericConst

from relaxc.passes.blocks import substitute
from relaxc.passes.prune.channels import Axes, Axis
from relaxc.passes.prune.dependency import Dependencies
from relaxc.passes.prune.operands import prims, shape_of, tensor_operands, with_operands
from relaxc.passes.prune.recurrent_links import narrowed
from relaxc.recurrent.described import with_units


def remove_channels(mod: IRModule, found: Dependencies, removed: Collection[int]) -> IRModule:
    """The module without some of its channels.

    Args:
        mod: what `found` is about.
        found: its channels.
        removed: numbers of channels, from `found.groups`.
    """
    if not removed:
        return mod
    main = mod["main"]
    removal = _Removal(mod, found, np.array(sorted(removed), np.int64))
    blocks = [
        type(block)([removal.binding(b) for b in block.bindings]) for block in main.body.blocks
    ]
    body = removal.builder.normalize(relax.SeqExpr(blocks, removal.substituted(main.body.body)))
    out = removal.builder.get()
    out["main"] = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs)
    return out


class _Removal:
    """Rewrites bindings one by one."""

    def __init__(self, mod: IRModule, found: Dependencies, removed: npt.NDArray[np.int64]) -> None:
        self.builder = relax.BlockBuilder(mod.clone())
        self._found = found
        self._removed = removed
        self._replaced: dict[relax.Var, relax.Expr] = {}
        # Equal cuts of a weight stay one weight.
        self._cut: dict[tuple[Any, ...], relax.Expr] = {}

    def binding(self, binding: relax.Binding) -> relax.Binding:
        """A binding of the smaller module."""
        var, value = binding.var, binding.value
        if isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op):
            value = self._call(var, value)
        else:
            value = self.substituted(value)
        if isinstance(binding, relax.MatchCast):
            new = type(var)(var.name, binding.ty)
            self._replaced[var] = new
            return relax.MatchCast(new, value, binding.ty)
        value = self.builder.normalize(value)
        new = type(var)(var.name, value.ty)
        self._replaced[var] = new
        return relax.VarBinding(new, value)

    def substituted(self, expr: relax.Expr) -> relax.Expr:
        """An expression in terms of the new variables."""
        return substitute(expr, self._replaced)

    def kept(self, axis: Axis) -> npt.NDArray[np.bool_] | None:
        """Which indices of an axis stay; None if all do."""
        if axis is None:
            return None
        mask = ~np.isin(axis, self._removed)
        return None if mask.all() else mask

    def _call(self, var: relax.Var, call: relax.Call) -> relax.Call:
        operands = []
        axes = []
        for position, operand in enumerate(tensor_operands(call)):
            if isinstance(operand, GenericConst):
                axes.append(self._found.weights.get((var, position), ()))
                operands.append(self._smaller(operand, axes[-1]))
            else:
                axes.append(self._found.values[operand][0])
                operands.append(self._replaced.get(operand, operand))
        results = self._found.values[var]
        touched = any(self.kept(axis) is not None for a in (*axes, *results) for axis in a)
        adapt = _ADAPTED.get(str(call.op.name)) if touched else None
        args = [self.substituted(a) if _is_shape(a) else a for a in with_operands(call, operands)]
        if adapt is None:
            return relax.Call(call.op, args, call.attrs, call.ty_args)
        return adapt(self, call, args, axes, results)

    def _smaller(self, weight: GenericConst, axes: Axes) -> relax.Expr:
        masks = [(a, mask) for a, axis in enumerate(axes) if (mask := self.kept(axis)) is not None]
        if not masks:
            return weight
        key = (weight, *((a, mask.tobytes()) for a, mask in masks))
        if key not in self._cut:
            array = weight.value.numpy()
            for axis, mask in masks:
                array = np.compress(mask, array, axis)
            self._cut[key] = relax.const(np.ascontiguousarray(array), array.dtype.name)
        return self._cut[key]


def _is_shape(arg: relax.Expr) -> bool:
    return isinstance(arg, relax.Var) and isinstance(arg.ty, relax.ShapeType)


def _count(removal: _Removal, axis: Axis, dim: Any) -> Any:
    mask = removal.kept(axis)
    return dim if mask is None else int(mask.sum())


def _conv(
    removal: _Removal, call: relax.Call, args: list[Any], axes: list[Axes], _results: Sequence[Axes]
) -> relax.Call:
    """Groups disappear as a whole."""
    attrs = call.attrs
    mask = removal.kept(axes[0][1])
    groups = int(attrs.groups)
    if groups == 1 or mask is None:
        return relax.Call(call.op, args, attrs, call.ty_args)
    return _CONVOLUTIONS[str(call.op.name)](
        *args,
        strides=list(attrs.strides),
        padding=list(attrs.padding),
        dilation=list(attrs.dilation),
        groups=groups * int(mask.sum()) // len(mask),
        data_layout=attrs.data_layout,
        kernel_layout=attrs.kernel_layout,
        out_layout=attrs.out_layout,
        out_dtype=attrs.out_dtype,
    )


def _pad(
    removal: _Removal, call: relax.Call, args: list[Any], _axes: list[Axes], results: Sequence[Axes]
) -> relax.Call:
    """Of the channels that padding adds, some are gone as well."""
    attrs = call.attrs
    widths = [int(w) for w in attrs.pad_width]
    for a, axis in enumerate(results[0]):
        mask = removal.kept(axis)
        if mask is not None:
            before, after = widths[2 * a], widths[2 * a + 1]
            widths[2 * a] = int(mask[:before].sum())
            widths[2 * a + 1] = int(mask[len(mask) - after :].sum())
    return relax.op.nn.pad(args[0], widths, attrs.pad_mode, attrs.pad_value)


_CONVOLUTIONS: dict[str, Callable[..., relax.Call]] = {
    "relax.nn.conv1d": relax.op.nn.conv1d,
    "relax.nn.conv2d": relax.op.nn.conv2d,
    "relax.nn.conv3d": relax.op.nn.conv3d,
}


def _reshape(
    removal: _Removal, call: relax.Call, args: list[Any], _axes: list[Axes], results: Sequence[Axes]
) -> relax.Call:
    """The new shape has as many indices as are left."""
    if str(call.op.name) not in ("relax.reshape", "relax.broadcast_to"):
        return relax.Call(call.op, args, call.attrs, call.ty_args)
    dims = [_count(removal, axis, dim) for axis, dim in zip(results[0], shape_of(call))]
    return relax.Call(call.op, [args[0], relax.ShapeExpr(dims)], call.attrs, call.ty_args)


def _slice(
    removal: _Removal, call: relax.Call, args: list[Any], axes: list[Axes], _results: Sequence[Axes]
) -> relax.Call:
    """Ranges of channels: from the count before the range to the count before its end."""
    which, begins, ends = (prims(arg) or [] for arg in call.args[1:4])
    for i, axis in enumerate(which):
        mask = removal.kept(axes[0][axis])
        if mask is not None:
            begin, end, _ = slice(begins[i], ends[i]).indices(len(mask))
            begins[i], ends[i] = int(mask[:begin].sum()), int(mask[:end].sum())
    ranges = [relax.Tuple([tvm.tirx.IntImm("int64", n) for n in r]) for r in (begins, ends)]
    return relax.Call(call.op, [*args[:2], *ranges, *args[4:]], call.attrs, call.ty_args)


def _split(
    removal: _Removal, call: relax.Call, args: list[Any], axes: list[Axes], results: Sequence[Axes]
) -> relax.Call:
    """Cuts move to where the kept channels before them end."""
    axis = int(call.attrs.axis) % len(axes[0])
    mask = removal.kept(axes[0][axis])
    if mask is None:
        return relax.Call(call.op, args, call.attrs, call.ty_args)
    counts = [len(ids) for part in results if (ids := part[axis]) is not None]
    cuts = [int(mask[:cut].sum()) for cut in np.cumsum(counts)[:-1]]
    return relax.op.split(args[0], cuts, axis)


def _full(
    removal: _Removal, call: relax.Call, args: list[Any], _axes: list[Axes], results: Sequence[Axes]
) -> relax.Call:
    dims = [_count(removal, axis, dim) for axis, dim in zip(results[0], shape_of(call))]
    return relax.Call(call.op, [relax.ShapeExpr(dims), *args[1:]], call.attrs, call.ty_args)


def _recurrence(
    removal: _Removal, call: relax.Call, args: list[Any], _axes: list[Axes], results: Sequence[Axes]
) -> relax.Call:
    """The same loops, of the units that are left."""
    mask = removal.kept(results[0][-1])
    if mask is None:
        return relax.Call(call.op, args, call.attrs, call.ty_args)
    hidden, gvar = int(mask.sum()), call.args[0]
    func = with_units(removal.builder.get()[gvar], hidden)
    fewer = removal.builder.add_func(func, gvar.name_hint)
    return relax.call_tir(fewer, list(args[1].fields), narrowed(call, hidden))


_ADAPTED: dict[str, Callable[..., relax.Call]] = {
    **dict.fromkeys(_CONVOLUTIONS, _conv),
    "relax.nn.pad": _pad,
    "relax.reshape": _reshape,
    "relax.broadcast_to": _reshape,
    "relax.strided_slice": _slice,
    "relax.split": _split,
    "relax.full": _full,
    "relax.call_tir": _recurrence,  # nothing else that it calls loses channels
}
