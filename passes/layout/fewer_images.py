"""A group of kernels on fewer images of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm import relax, tirx
from tvm.ir import GenericConst

from relaxc.layout import CONCAT, KERNEL, LAYOUTS, RELAYOUT, Demand, Layout
from relaxc.passes.analysis.cost import size_bytes

# Groups that do the same with every image, as far as their tensors are maps.
_BY_IMAGE = frozenset(
    (
        "conv2d",
        "conv2d_rows",
        "conv2d_transpose",
        "pool2d",
        "mean2d",
        "elementwise",
        CONCAT,
        RELAYOUT,
    )
)

Demands = Callable[[relax.Function, Layout], Sequence[Demand]]


def with_fewer_images(
    func: relax.Function, batch: int, images: int, demands: Demands
) -> relax.Function | None:
    """The group on fewer images, with the same layouts; None if they are not computed apart.

    Args:
        func: a group with layouts.
        batch: images of maps that have all.
        images: how many it is to have.
        demands: what a group asks of its parameters, if the first has a layout.
    """
    if str(func.attrs[KERNEL]) not in _BY_IMAGE or not is_batch(func.ret_ty, batch):
        return None
    for param in func.params:
        # A map of one image is broadcast to the batch, but would be a part of one image's own.
        if getattr(param.ty, "ndim", 5) >= 4 and not is_batch(param.ty, batch):
            return None
    # Rows of plain tensors are not maps, and of those that are broadcast any may be the first.
    if func.attrs[KERNEL] == "elementwise" and layouts_of(func)[-1].kind == "plain":
        return None
    types = [
        relax.TensorType([images, *dims_of(p.ty)[1:]], str(p.ty.dtype.dtype))
        if is_batch(p.ty, batch)
        else p.ty
        for p in func.params
    ]
    found = _retyped(func, types)
    if found is None or dims_of(found.ret_ty) != [images, *dims_of(func.ret_ty)[1:]]:
        return None
    if func.attrs[KERNEL] in (CONCAT, RELAYOUT):
        return found
    # Another algorithm for fewer images may need wider borders.
    layouts = layouts_of(func)
    wanted = demands(found, layouts[0])
    return found if all(d.met_by(layout) for d, layout in zip(wanted, layouts)) else None


def is_batch(ty: relax.Type, batch: int) -> bool:
    """Whether a tensor is a map of so many images."""
    dims = static_map(ty)
    return dims is not None and dims[0] == batch


def static_map(ty: relax.Type) -> list[int] | None:
    """The dimensions of a tensor (n, c, h, w), if all are known."""
    if not isinstance(ty, relax.TensorType) or not isinstance(ty.shape, relax.ShapeExpr):
        return None
    dims = dims_of(ty)
    return dims if len(dims) == 4 and all(isinstance(d, int) for d in dims) else None


def dims_of(ty: relax.Type) -> list[Any]:
    """The dimensions of a tensor, those that are known as int."""
    return [int(d) if isinstance(d, tirx.IntImm) else d for d in ty.shape.values]


def layouts_of(func: relax.Function) -> list[Layout]:
    """The layouts of a group's parameters and result."""
    return [Layout.parse(str(text)) for text in func.attrs[LAYOUTS]]


def weights_of(func: relax.Function) -> tuple[int, int]:
    """Bytes of a group's constants, and taps of the kernels that Winograd's method may take."""
    total, taps = 0, 1
    for call in _calls(func):
        constants = [a for a in call.args if isinstance(a, GenericConst)]
        total += sum(size_bytes(c) for c in constants if isinstance(c.ty, relax.TensorType))
        if str(call.op.name) == "relax.nn.conv2d" and int(call.attrs.groups) == 1:
            shape = dims_of(call.args[1].ty)
            taps = max(taps, shape[2] * shape[3])
    return total, taps


def _calls(func: relax.Function) -> list[relax.Call]:
    values = (b.value for block in func.body.blocks for b in block.bindings)
    return [value for value in values if isinstance(value, relax.Call)]


def _retyped(func: relax.Function, types: Sequence[relax.Type]) -> relax.Function | None:
    """The function on tensors of other types; None if an operator says its own shape."""
    params = [relax.Var(p.name, ty) for p, ty in zip(func.params, types)]
    replaced: dict[relax.Expr, relax.Expr] = dict(zip(func.params, params))
    builder = relax.BlockBuilder()
    if not func.body.blocks:  # a copy: its body is the parameter
        with builder.function("group", params, private=True):
            builder.emit_func_output(params[0])
        return builder.get()["group"].with_attrs(func.attrs)
    with builder.function("group", params, private=True):
        with builder.dataflow():
            for block in func.body.blocks:
                for binding in block.bindings:
                    call = binding.value
                    if not isinstance(call, relax.Call):  # another name
                        replaced[binding.var] = replaced[call]
                        continue
                    if any(isinstance(arg, relax.ShapeExpr) for arg in call.args):
                        return None
                    args = [_substituted(arg, replaced) for arg in call.args]
                    value = relax.Call(call.op, args, call.attrs, call.ty_args)
                    replaced[binding.var] = builder.emit(value, binding.var.name)
            result = builder.emit_output(replaced[func.body.body])
        builder.emit_func_output(result)
    # Emitting made another name for the result.
    canonical = relax.transform.CanonicalizeBindings()(builder.get())["group"]
    return canonical.with_attrs(func.attrs)


def _substituted(arg: relax.Expr, replaced: Mapping[relax.Expr, relax.Expr]) -> relax.Expr:
    if isinstance(arg, relax.Tuple):
        return relax.Tuple([replaced.get(item, item) for item in arg.fields])
    return replaced.get(arg, arg)
