"""Converters from ONNX operators to Relax, by family.

`convert(context)` uses ours first and falls back to the converter that ships with TVM.
"""

from __future__ import annotations

from tvm import relax

from relaxc.frontend.operators import (
    arithmetic,
    casts,
    classical,
    classifiers,
    convolution,
    cumulative,
    elementwise,
    fourier,
    grids,
    guarded,
    indexing,
    matrices,
    microsoft,
    ngrams,
    normalization,
    pad,
    pooling,
    quantize,
    recurrent,
    reduce,
    resize,
    selection,
    shape,
    slicing,
    suppression,
    trees,
)
from relaxc.frontend.operators.base import Converter, NodeContext, operator_name
from relaxc.frontend.operators.broadcast import BROADCASTING, with_equal_dimensions
from relaxc.frontend.operators.halves import in_single_precision
from relaxc.frontend.operators.stock import convert_with_tvm, has_stock_converter

# Control flow is handled by the importer itself, because it needs the graph around it.
CONTROL_FLOW = frozenset({"If"})

# TVM has converters for these, which are wrong or partial; ONNX's own function bodies are neither.
INLINED = frozenset(
    {"Attention", "Mish", "RMSNormalization"} | {"GroupNormalization", "NegativeLogLikelihoodLoss"}
)

# By operator; those of other domains read `domain::Operator`.
CONVERTERS: dict[str, Converter] = {
    **arithmetic.CONVERTERS,
    **casts.CONVERTERS,
    **classical.CONVERTERS,
    **classifiers.CONVERTERS,
    **convolution.CONVERTERS,
    **cumulative.CONVERTERS,
    **elementwise.CONVERTERS,
    **fourier.CONVERTERS,
    **grids.CONVERTERS,
    **indexing.CONVERTERS,
    **matrices.CONVERTERS,
    **microsoft.CONVERTERS,
    **ngrams.CONVERTERS,
    **normalization.CONVERTERS,
    **pad.CONVERTERS,
    **pooling.CONVERTERS,
    **quantize.CONVERTERS,
    **recurrent.CONVERTERS,
    **reduce.CONVERTERS,
    **guarded.CONVERTERS,
    **resize.CONVERTERS,
    **selection.CONVERTERS,
    **shape.CONVERTERS,
    **slicing.CONVERTERS,
    **suppression.CONVERTERS,
    **trees.CONVERTERS,
}


def is_supported(name: str) -> bool:
    """Whether an operator can be imported; `name` is what `operator_name` returns."""
    stock = has_stock_converter(name) and name not in INLINED
    return name in CONTROL_FLOW or name in CONVERTERS or stock


def convert(ctx: NodeContext) -> relax.Expr:
    """Convert one node of any domain."""
    name = operator_name(ctx.node)
    if name in BROADCASTING:
        ctx = with_equal_dimensions(ctx)
    return in_single_precision(ctx, CONVERTERS.get(name, convert_with_tvm))
