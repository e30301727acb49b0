"""`quantize` as loop nests (TVM's rounds halves away from zero, ONNX's to even), and constants of
float8, which machine code has no type for, as float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import ir, relax, te, tirx
from tvm.ir import GenericConst


def quantize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """saturate(round_to_even(x / scale) + zero_point), per tensor or along an axis."""
    x, scale, zero = call.args
    dtype = str(call.ty.dtype.dtype)
    if not np.issubdtype(np.dtype(dtype), np.integer):
        return call
    axis = int(call.attrs.axis)
    axis += call.ty.ndim if axis < 0 else 0

    def compute(data: te.Tensor, *params: te.Tensor) -> te.Tensor:
        def read(param: te.Tensor, indices: tuple[Any, ...]) -> Any:
            if all(int(d) == 1 for d in param.shape):
                return param[(0,) * len(param.shape)]
            return param[indices[axis]]

        def at(*indices: Any) -> Any:
            scaled = tirx.nearbyint(data[indices] / read(params[0], indices))
            whole = scaled + read(params[1], indices).astype("float32")
            low, high = (float(f(dtype).value) for f in (tirx.min_value, tirx.max_value))
            return tirx.max(tirx.min(whole, high), low).astype(dtype)

        return te.compute(data.shape, at, name="quantized")

    return builder.call_te(compute, x, scale, zero, primfunc_name_hint="quantize")


def dequantize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """scale * (x - zero_point); of a constant of float8 that no kernel reads, its value."""
    if not str(call.args[0].ty.dtype.dtype).startswith("float8"):
        return ir.Op.get("relax.dequantize").get_attr("FLegalize")(builder, call)
    assert all(isinstance(arg, GenericConst) for arg in call.args), "float8 is for constants"
    numbers, scale, zero = (arg.value.numpy() for arg in call.args)
    shape = [1] * numbers.ndim
    if scale.ndim:
        shape[int(call.attrs.axis)] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    real = (numbers.astype(np.float32) - zero.astype(np.float32)) * scale
    return relax.const(real.astype(np.float32), "float32")
