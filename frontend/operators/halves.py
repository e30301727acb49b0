"""Operators of several steps on float16 and bfloat16: computed in single precision.

A step that rounds to 11 or 8 bits loses more than one that does not, and TVM has no bfloat16 for
some of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import onnx
from tvm import relax

from relaxc.frontend.operators.base import NodeContext, dtype

HALVES = frozenset({"float16", "bfloat16"})
WIDENED = frozenset(
    {
        "ArgMax",
        "ArgMin",
        "BatchNormalization",
        "Celu",
        "Conv",
        "ConvTranspose",
        "CumProd",
        "CumSum",
        "Elu",
        "Gelu",
        "GridSample",
        "HardSigmoid",
        "HardSwish",
    }
    | {"InstanceNormalization", "IsInf", "IsNaN", "LRN", "LogSoftmax", "LpNormalization", "Mish"}
    | {"MeanVarianceNormalization", "Mod", "Pow", "Resize", "Selu", "Sigmoid", "Softplus"}
    | {"AveragePool", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax"}
    | {"ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Softsign"}
    | {"EmbedLayerNormalization", "SkipLayerNormalization"}
    | {"Swish", "Tanh", "ThresholdedRelu", "Shrink", "Einsum", "Gemm", "RNN", "GRU", "LSTM"}
    | {
        "Acos",
        "Acosh",
        "Asin",
        "Asinh",
        "Atan",
        "Atanh",
        "Cos",
        "Cosh",
        "Erf",
        "Sin",
        "Sinh",
        "Tan",
    }
)


def in_single_precision(
    ctx: NodeContext, convert: Callable[[NodeContext], relax.Expr]
) -> relax.Expr:
    """Convert a node with its halves widened, and its results narrowed again."""
    given = [value is not None and _is_half(value) for value in ctx.inputs]
    if ctx.node.op_type not in WIDENED or not any(given):
        return convert(ctx)
    half = next(dtype(v) for v, is_half in zip(ctx.inputs, given) if v is not None and is_half)
    wide = [
        ctx.bb.emit(relax.op.astype(value, "float32")) if is_half and value is not None else value
        for value, is_half in zip(ctx.inputs, given)
    ]
    result = ctx.bb.normalize(convert(dataclasses.replace(ctx, inputs=wide)))
    if isinstance(result, relax.Tuple):
        # Statistics may be wider than the data.
        stays = [kind == onnx.TensorProto.FLOAT for kind in ctx.output_types]
        stays += [False] * (len(result) - len(stays))
        parts = zip(result, stays)
        return relax.Tuple([p if is_wide else _narrowed(ctx, p, half) for p, is_wide in parts])
    return _narrowed(ctx, result, half)


def _is_half(value: relax.Expr) -> bool:
    return isinstance(value.ty, relax.TensorType) and dtype(value) in HALVES


def _narrowed(ctx: NodeContext, value: relax.Expr, half: str) -> relax.Expr:
    if not isinstance(value.ty, relax.TensorType) or dtype(value) != "float32":
        return value
    return ctx.bb.emit(relax.op.astype(value, half))
