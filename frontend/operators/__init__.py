"""Converters from ONNX operators to Relax, by family.

`convert(context)` uses ours first and falls back to the converter that ships with TVM.
"""

from __future__ import annotations

from typing import Any

from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from relaxc.frontend.operators import arithmetic, casts, elementwise, indexing, pad, recurrent, reduce, shape, slicing
from relaxc.frontend.operators.base import Converter, NodeContext
from relaxc.frontend.operators.broadcast import BROADCASTING, with_equal_dimensions

# Control flow is handled by the importer itself, because it needs the graph around it.
CONTROL_FLOW = frozenset({"If"})

# TVM has converters for these, which are wrong or partial; ONNX's own function bodies are neither.
INLINED = frozenset(
    {"AffineGrid", "Attention", "Mish", "RMSNormalization", "SpaceToDepth"}
    | {"GroupNormalization", "NegativeLogLikelihoodLoss"}
)

CONVERTERS: dict[str, Converter] = {
    **arithmetic.CONVERTERS,
    **casts.CONVERTERS,
    **elementwise.CONVERTERS,
    **indexing.CONVERTERS,
    **recurrent.CONVERTERS,
    **reduce.CONVERTERS,
    **shape.CONVERTERS,
    **slicing.CONVERTERS,
    **pad.CONVERTERS,
}


def is_supported(op_type: str) -> bool:
    """Whether an operator of the default domain can be imported."""
    stock = op_type in onnx_frontend._get_convert_map() and op_type not in INLINED
    return op_type in CONTROL_FLOW or op_type in CONVERTERS or stock


def convert(ctx: NodeContext) -> relax.Expr:
    """Convert one node of the default domain."""
    if ctx.node.op_type in BROADCASTING:
        ctx = with_equal_dimensions(ctx)
    own = CONVERTERS.get(ctx.node.op_type)
    return _convert_with_tvm(ctx) if own is None else own(ctx)


def _convert_with_tvm(ctx: NodeContext) -> relax.Expr:
    stock: dict[str, Any] = onnx_frontend._get_convert_map()
    inputs = onnx_frontend.onnx_input()
    inputs.extend(ctx.inputs)
    attrs = {
        **ctx.attrs,
        "tvm_custom": {"name": ctx.node.name, "num_outputs": len(ctx.node.output)},
    }
    run = stock[ctx.node.op_type].get_converter(ctx.opset)
    result: relax.Expr = run(ctx.bb, inputs, attrs, [{}, {}])
    return result
