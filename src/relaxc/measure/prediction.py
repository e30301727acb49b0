"""How long a model takes, predicted from what it computes and what this machine can do.

    T = sum over the layers with products of max(2 MACs / peak, bytes / bandwidth)

`peak` is the measured rate of multiply-adds of the element type; `bytes` are those of operands and
results in that type, and `bandwidth` that of the smallest level of the memory hierarchy that they
fit into. All other layers are taken to be fused with these; of a model without any product, every
layer counts with its bytes. Layers do not overlap.

Reference: Williams, Waterman, Patterson, Roofline, CACM 52(4), 2009, layer by layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from relaxc.measure.roofline import Roofline

# Bytes of an element; layers are counted in those of float32.
_WIDTHS = {"float32": 4, "bfloat16": 2, "int8": 1}


def predicted_seconds(
    layers: Iterable[Mapping[str, Any]], roofline: Roofline, dtype: str = "float32"
) -> float:
    """The time of one inference.

    Args:
        layers: `macs` and `bytes` of each, as in an artifact's manifest.
        roofline: of the machine.
        dtype: what it computes on: `float32`, `bfloat16` or `int8`.
    """
    share = _WIDTHS[dtype] / _WIDTHS["float32"]
    listed = list(layers)
    counted = [layer for layer in listed if layer["macs"]] or listed
    return sum(
        roofline.seconds(2 * layer["macs"], share * layer["bytes"], dtype) for layer in counted
    )


def predicted_by_dtype(layers: Iterable[Mapping[str, Any]], roofline: Roofline) -> dict[str, float]:
    """The same for every element type that the machine multiplies."""
    listed = list(layers)
    return {
        dtype: predicted_seconds(listed, roofline, dtype)
        for dtype in roofline.operations_per_s
        if dtype in _WIDTHS
    }
