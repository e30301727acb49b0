"""What a model costs before any optimization: MACs, parameters and bytes, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import IRModule, relax, tirx
from tvm.ir import GenericConst
from tvm.sym import Analyzer


def layer_costs(mod: IRModule) -> list[dict[str, Any]]:
    """Return one entry per operator of `main`: name, op, output shape, macs, params and bytes.

    Symbolic dimensions count as 1. Bytes are what an unfused execution reads and writes.
    """
    layers = []
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            value = getattr(binding, "value", None)
            if isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op):
                layers.append(_layer(binding.var, value))
    return layers


def _layer(var: relax.Var, call: relax.Call) -> dict[str, Any]:
    op, args = str(call.op.name).removeprefix("relax."), list(call.args)
    if op == "call_tir":  # an operator that the importer wrote as a loop nest
        op, args = call.args[0].name_hint, list(call.args[1].fields)
    tensors = [arg for arg in args if isinstance(arg.ty, relax.TensorType)]
    params = sum(_count(t) for t in tensors if isinstance(t, GenericConst))
    return {
        "name": var.name,
        "op": op,
        "shape": [_int(d) for d in _dims(call)],
        "macs": _MACS.get(op, _no_macs)(call),
        "params": params,
        "bytes": sum(size_bytes(t) for t in tensors) + size_bytes(call),
    }


def _conv_macs(call: relax.Call) -> int:
    weight = [_int(d) for d in _dims(call.args[1])]
    return _product(weight[1:]) * _count(call)


def _conv_transpose_macs(call: relax.Call) -> int:
    weight = [_int(d) for d in _dims(call.args[1])]
    return _product(weight[1:]) * _count(call.args[0])


def _matmul_macs(call: relax.Call) -> int:
    return _count(call) * _int(_dims(call.args[0])[-1])


def _no_macs(_call: relax.Call) -> int:
    return 0


_MACS: dict[str, Callable[[relax.Call], int]] = {
    "nn.conv1d": _conv_macs,
    "nn.conv2d": _conv_macs,
    "nn.conv3d": _conv_macs,
    "nn.conv1d_transpose": _conv_transpose_macs,
    "nn.conv2d_transpose": _conv_transpose_macs,
    "matmul": _matmul_macs,
}


def _dims(expr: relax.Expr) -> list[Any]:
    ty = expr.ty
    if isinstance(ty, relax.TupleType):
        ty = ty.fields[0]
    shape = getattr(ty, "shape", None)
    return list(shape.values) if isinstance(shape, relax.ShapeExpr) else []


def _int(dim: Any) -> int:
    if isinstance(dim, tirx.IntImm):
        return int(dim)
    analyzer = Analyzer()
    for var in tirx.analysis.undefined_vars(dim):
        analyzer.bind(var, tirx.IntImm("int64", 1))
    value = analyzer.simplify(dim)
    return int(value) if isinstance(value, tirx.IntImm) else 1


def _product(values: list[int]) -> int:
    total = 1
    for value in values:
        total *= value
    return total


def _count(expr: relax.Expr) -> int:
    return _product([_int(d) for d in _dims(expr)])


def size_bytes(expr: relax.Expr) -> int:
    """Bytes of a tensor, or of a tuple of tensors; symbolic dimensions count as 1."""
    ty = expr.ty
    if isinstance(ty, relax.TupleType):
        return sum(
            _product([_int(d) for d in f.shape.values]) * _width(f)
            for f in ty.fields
            if isinstance(f, relax.TensorType) and isinstance(f.shape, relax.ShapeExpr)
        )
    return _count(expr) * _width(ty) if isinstance(ty, relax.TensorType) else 0


def _width(ty: relax.TensorType) -> int:
    bits = int(tvm.DataType(str(ty.dtype.dtype)).bits)
    return max(1, bits // 8)
