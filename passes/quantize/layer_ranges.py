"""What the data of quantized layers hold, beside the range that integers stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm import IRModule

from relaxc.passes.prune.segments import bindings_of
from relaxc.passes.quantize.exclusion import node_of
from relaxc.passes.quantize.histogram import Histogram
from relaxc.passes.quantize.layer_errors import rounded_calls

# Shares of the values below each quantile.
SHARES = (0.0, 0.0001, 0.01, 0.25, 0.5, 0.75, 0.99, 0.9999, 1.0)


@dataclass(frozen=True)
class LayerRange:
    """The data of one layer.

    Attributes:
        node: the ONNX node.
        quantiles: for each of `SHARES`, from the least value that was seen to the greatest.
        low, high: what the least and the greatest integer stand for.
    """

    node: str
    quantiles: tuple[float, ...]
    low: float
    high: float


def layer_ranges(quantized: IRModule, seen: Callable[[str], Histogram | None]) -> list[LayerRange]:
    """The ranges of every quantized layer, in the order of the module.

    Args:
        quantized: the module after calibration.
        seen: the histogram of a value, by the name of its variable.
    """
    nodes = {str(binding.var.name): node_of(binding) for binding in bindings_of(quantized)}
    found: list[LayerRange] = []
    for name, layer in rounded_calls(quantized).items():
        histogram, params = seen(layer.source), layer.data_params()
        if histogram is None or histogram.is_empty or params.scale.ndim:
            continue
        info = np.iinfo(params.zero_point.dtype)
        ends = params.dequantize(np.array([info.min, info.max], params.dtype))
        quantiles = tuple(histogram.quantile(share) for share in SHARES)
        found.append(LayerRange(nodes[name], quantiles, float(ends[0]), float(ends[1])))
    return found
