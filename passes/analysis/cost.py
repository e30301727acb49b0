"""What a model costs before any optimization: MACs, parameters and bytes, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import IRModule, relax, tirx
from tvm.ir import GenericConst
from tvm.sym import Analyzer

from relaxc.recurrent.described import description


def layer_costs(mod: IRModule) -> list[dict[str, Any]]:
    """Return one entry per operator of `main`: name, op, output shape, macs, params and bytes.

    Symbolic dimensions count as 1. Bytes are what an unfused execution reads and writes.
    """
    layers = []
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            value = getattr(binding, "value", None)
            if isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op):
                layers.append(_layer(mod, binding.var, value))
    return layers


def _layer(mod: IRModule, var: relax.Var, call: relax.Call) -> dict[str, Any]:
    op, args = str(call.op.name).removeprefix("relax."), list(call.args)
    if op == "call_tir":  # an operator that the importer wrote as a loop nest
        op, args = _loop_nest(mod, call.args[0].name_hint), list(call.args[1].fields)
    tensors = [arg for arg in args if isinstance(arg.ty, relax.TensorType)]
    params = sum(_count(t) for t in tensors if isinstance(t, GenericConst))
    return {
        "name": var.name,
        "op": op,
        "shape": [_int(d) for d in _dims(call)],
        "macs": _int(macs(mod, call)),
        "params": params,
        "bytes": sum(size_bytes(t) for t in tensors) + size_bytes(call),
    }


def _loop_nest(mod: IRModule, name: str) -> str:
    """The operator behind a loop nest: TVM numbers those after the first, as in `pad1`."""
    stem = name.rstrip("0123456789")
    return stem if stem in {gvar.name_hint for gvar in mod.get_global_vars()} else name


def macs(mod: IRModule, expr: relax.Expr) -> Any:
    """Multiply-accumulate operations of a call, as an expression of its dimensions.

    Zero for anything but convolutions, matrix products and recurrent layers.
    """
    if not isinstance(expr, relax.Call) or not isinstance(expr.op, tvm.ir.Op):
        return 0
    if expr.op.name == "relax.call_tir":
        return 0 if description(mod[expr.args[0]]) is None else _recurrent_macs(expr)
    return _MACS.get(str(expr.op.name).removeprefix("relax."), _no_macs)(expr)


def _conv_macs(call: relax.Call) -> Any:
    return _product(_dims(call.args[1])[1:]) * _product(_dims(call))


def _conv_transpose_macs(call: relax.Call) -> Any:
    return _product(_dims(call.args[1])[1:]) * _product(_dims(call.args[0]))


def _matmul_macs(call: relax.Call) -> Any:
    return _product(_dims(call)) * _dims(call.args[0])[-1]


def _recurrent_macs(call: relax.Call) -> Any:
    """Every step multiplies the state of every sequence by all weights."""
    gates, weight, *_states = call.args[1].fields
    return _product(_dims(weight)) * _product(_dims(gates)[:2])


def _no_macs(_call: relax.Call) -> Any:
    return 0


_MACS: dict[str, Callable[[relax.Call], Any]] = {
    "nn.conv1d": _conv_macs,
    "nn.conv2d": _conv_macs,
    "nn.conv3d": _conv_macs,
    "nn.conv1d_transpose": _conv_transpose_macs,
    "nn.conv2d_transpose": _conv_transpose_macs,
    "nn.conv3d_transpose": _conv_transpose_macs,
    "matmul": _matmul_macs,
}


def _dims(expr: relax.Expr) -> list[Any]:
    ty = expr.ty
    if isinstance(ty, relax.TupleType):
        ty = ty.fields[0]
    return _type_dims(ty)


def _type_dims(ty: relax.Type) -> list[Any]:
    shape = getattr(ty, "shape", None)
    return list(shape.values) if isinstance(shape, relax.ShapeExpr) else []


def _int(value: Any) -> int:
    """A number, symbols in it counted as 1; 1 where that does not help."""
    if isinstance(value, int | tirx.IntImm):
        return int(value)
    analyzer = Analyzer()
    for var in tirx.analysis.undefined_vars(value):
        analyzer.bind(var, tirx.IntImm("int64", 1))
    value = analyzer.simplify(value)
    return int(value) if isinstance(value, tirx.IntImm) else 1


def _product(values: list[Any]) -> Any:
    total: Any = 1
    for value in values:
        total = total * (int(value) if isinstance(value, tirx.IntImm) else value)
    return total


def _count(expr: relax.Expr) -> int:
    return _int(_product(_dims(expr)))


def size(ty: relax.Type) -> Any:
    """Bytes of a tensor or of a tuple of tensors, as an expression of the dimensions."""
    if isinstance(ty, relax.TupleType):
        return sum((size(field) for field in ty.fields), 0)
    if not isinstance(ty, relax.TensorType) or not isinstance(ty.shape, relax.ShapeExpr):
        return 0
    return _product(_type_dims(ty)) * _width(ty)


def size_bytes(expr: relax.Expr) -> int:
    """Bytes of a tensor, or of a tuple of tensors; symbolic dimensions count as 1."""
    return _int(size(expr.ty))


def _width(ty: relax.TensorType) -> int:
    bits = int(tvm.DataType(str(ty.dtype.dtype)).bits)
    return max(1, bits // 8)
