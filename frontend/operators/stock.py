"""The converters that ship with TVM."""

from __future__ import annotations

from typing import Any

from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from relaxc.frontend.operators.base import NodeContext


def has_stock_converter(op_type: str) -> bool:
    """Whether TVM converts an operator of the default domain."""
    return op_type in onnx_frontend._get_convert_map()


def convert_with_tvm(ctx: NodeContext) -> relax.Expr:
    """Convert a node as TVM does."""
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
