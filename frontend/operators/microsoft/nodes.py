"""What the converters of this domain share: other nodes in place of theirs, and what they lack."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from onnx import helper
from tvm import relax

from relaxc.frontend.operators.base import NodeContext, dtype


def standard_node(
    ctx: NodeContext, op_type: str, inputs: list[relax.Expr | None], **attrs: Any
) -> NodeContext:
    """The context of an ONNX node on `inputs`, to be given to its converter."""
    node = helper.make_node(
        op_type, [f"i{k}" for k in range(len(inputs))], ["o"], ctx.node.name, **attrs
    )
    types = [0 if x is None else helper.np_dtype_to_tensor_dtype(_numpy(x)) for x in inputs]
    return dataclasses.replace(
        ctx,
        node=node,
        attrs={k: tuple(v) if isinstance(v, list) else v for k, v in attrs.items()},
        inputs=inputs,
        shapes=[None] * len(inputs),
        types=types,
        output_types=[0],
    )


def _numpy(value: relax.Expr) -> np.dtype:
    kind = dtype(value)
    return np.dtype("float32" if kind == "bfloat16" else kind)


def refuse_attributes(ctx: NodeContext, **allowed: Any) -> None:
    """Refuse attributes whose value is not the one that means nothing.

    Raises:
        ValueError: an attribute has another value; it is named.
    """
    for name, harmless in allowed.items():
        given = ctx.attrs.get(name, harmless)
        given = given.decode() if isinstance(given, bytes) else given
        if given != harmless:
            raise ValueError(f"the attribute `{name}` = {given} is not supported")


def refuse_inputs(ctx: NodeContext, **positions: int) -> None:
    """Refuse optional inputs that are present.

    Raises:
        ValueError: one is; it is named.
    """
    for name, index in positions.items():
        if ctx.has(index):
            raise ValueError(f"the input `{name}` is not supported")


def refuse_outputs(ctx: NodeContext, **positions: int) -> None:
    """Refuse optional outputs that are asked for.

    Raises:
        ValueError: one is; it is named.
    """
    for name, index in positions.items():
        if index < len(ctx.node.output) and ctx.node.output[index]:
            raise ValueError(f"the output `{name}` is not supported")


def scalar(value: float, like: relax.Expr) -> relax.Expr:
    """A constant of another tensor's type."""
    return relax.const(value, dtype(like))
