"""Write any group as one loop nest over stored tensors, for TVM's default GPU schedules.

The group's body stays what it is, on logical float32 tensors; in front of it every parameter is
converted from how it lies in memory, behind it the result to how it will. TVM fuses all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax, te, tirx
from tvm.ir import GenericConst

from relaxc.layout import Layout, Quantization
from relaxc.targets.cuda.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.elementwise import scalar_value

_TO_LAST, _TO_PLAIN = (0, 2, 3, 1), (0, 3, 1, 2)


def lower_loops(name: str, func: relax.Function, layouts: Sequence[Layout]) -> Kernel:
    """A PrimFunc without a schedule that computes `func` on tensors that lie as `layouts` say."""
    assert all(layout.kind != "blocked" for layout in layouts), "blocks have a kernel of their own"
    func = relax.utils.copy_with_new_vars(func)
    body = [(b.var, b.value) for block in func.body.blocks for b in block.bindings]
    constants = _constants(body)
    builder = relax.BlockBuilder()
    params = [
        relax.Var(f"x{i}", _physical(p.ty, layout))
        for i, (p, layout) in enumerate(zip(func.params, layouts))
    ]
    extra = [
        relax.Var(f"c{i}", relax.TensorType(c.value.numpy().shape, str(c.ty.dtype.dtype)))
        for i, c in enumerate(constants)
    ]
    with builder.function("group", [*params, *extra], private=True, attrs={"Primitive": 1}):
        with builder.dataflow():
            known: dict[relax.Expr, relax.Expr] = {}
            for param, stored, layout in zip(func.params, params, layouts):
                known[param] = _loaded(builder, stored, param.ty, layout)
            values = list(zip(constants, extra))
            value: relax.Expr = known[func.params[0]]
            for var, call in body:
                value = builder.emit(_replaced(call, known, values))
                known[var] = value
            result = builder.emit_output(_stored(builder, value, func.ret_ty, layouts[-1]))
        builder.emit_func_output(result)
    gvar = builder.get().get_global_var("group")
    outer = [relax.Var(p.name, p.ty) for p in (*params, *extra)]
    mod = builder.get()
    whole = relax.BlockBuilder(mod)
    with whole.function("main", outer):
        with whole.dataflow():
            called = whole.emit_output(relax.Call(gvar, outer))
        whole.emit_func_output(called)
    mod = relax.transform.LegalizeOps()(whole.get())
    mod = relax.transform.FuseTIR()(mod)
    mod = relax.transform.DeadCodeElimination(["main"])(mod)
    (prim,) = (f for f in mod.functions.values() if isinstance(f, tirx.PrimFunc))
    prim = prim.without_attr("global_symbol") if "global_symbol" in prim.attrs else prim
    return Kernel(name, prim, [np.asarray(c.value.numpy()) for c in constants])


def _constants(body: Sequence[tuple[relax.Var, relax.Call]]) -> list[relax.Expr]:
    found: list[relax.Expr] = []
    for _, call in body:
        for arg in call.args:
            if isinstance(arg, GenericConst) and scalar_value(arg) is None:
                found += [] if any(arg.same_as(c) for c in found) else [arg]
    return found


def _replaced(
    call: relax.Call,
    known: dict[relax.Expr, relax.Expr],
    constants: Sequence[tuple[relax.Expr, relax.Var]],
) -> relax.Expr:
    if isinstance(call, relax.Var):
        return known[call]

    def new(arg: relax.Expr) -> relax.Expr:
        if isinstance(arg, relax.Tuple):
            return relax.Tuple([new(field) for field in arg.fields])
        if isinstance(arg, relax.Var):
            return known[arg]
        return next((var for c, var in constants if c.same_as(arg)), arg)

    return relax.Call(call.op, [new(arg) for arg in call.args], call.attrs, call.ty_args)


def _physical(ty: relax.TensorType, layout: Layout) -> relax.TensorType:
    shape = layout.physical_shape(list(ty.shape.values))
    stored = layout.storage if layout.element != "float32" else str(ty.dtype.dtype)
    return relax.TensorType(shape, stored)


def _loaded(
    builder: relax.BlockBuilder, var: relax.Var, ty: relax.TensorType, layout: Layout
) -> relax.Expr:
    """The logical float32 tensor behind what lies in memory."""
    if layout == Layout():
        return var
    order = _TO_PLAIN if layout.kind == "last" else tuple(range(ty.ndim))
    element, stored = layout.element, Quantization.of(layout.element)

    def load(x: te.Tensor) -> te.Tensor:
        shape = [x.shape[axis] for axis in order]

        def at(*i: Any) -> tirx.Expr:
            index = [i[order.index(axis)] for axis in range(len(order))]
            value = x(*index)
            if stored is not None:
                zero = tirx.const(stored.zero_point, "float32")
                scale = tirx.const(stored.scale, "float32")
                return (value.astype("float32") - zero) * scale
            if element == "bfloat16":
                wide = tirx.Cast("uint32", value) << tirx.const(16, "uint32")
                return tirx.reinterpret("float32", wide)
            return value.astype("float32") if element != "float32" else value

        return te.compute(shape, at, name="load")

    return builder.emit_te(load, var)


def _bfloat16_bits(number: tirx.Expr) -> tirx.Expr:
    """To the nearest, ties to even; as integers, which every code generator has."""
    bits = tirx.reinterpret("uint32", number)
    odd = (bits >> tirx.const(16, "uint32")) & tirx.const(1, "uint32")
    nearest = (bits + odd + tirx.const(0x7FFF, "uint32")) >> tirx.const(16, "uint32")
    quiet_nan = tirx.const(0x7FC0, "uint32")
    return tirx.Select(tirx.isnan(number), quiet_nan, nearest).astype("uint16")


def _stored(
    builder: relax.BlockBuilder, value: relax.Expr, ty: relax.TensorType, layout: Layout
) -> relax.Expr:
    """What will lie in memory of a logical float32 tensor."""
    if layout == Layout():
        return value
    order = _TO_LAST if layout.kind == "last" else tuple(range(ty.ndim))
    element, quantization = layout.element, Quantization.of(layout.element)

    def store(x: te.Tensor) -> te.Tensor:
        shape = [x.shape[axis] for axis in order]

        def at(*i: Any) -> tirx.Expr:
            number = x(*(i[order.index(axis)] for axis in range(len(order))))
            if element == "bfloat16":
                return _bfloat16_bits(number)
            if quantization is not None:
                inverse = np.float32(1.0) / np.float32(quantization.scale)
                nearest = tirx.nearbyint(number * tirx.const(float(inverse), "float32"))
                nearest = nearest + tirx.const(quantization.zero_point, "float32")
                low, high = (tirx.const(bound, "float32") for bound in (0.0, 255.0))
                return tirx.min(high, tirx.max(low, nearest)).astype("uint8")
            return number.astype(element) if element != "float32" else number

        return te.compute(shape, at, name="store")

    return builder.emit_te(store, value)
