"""Measure the range of every marked value on the user's data, and quantize.

Before:                                        After:
    q = marker(x, "activation", 0)                 lv = R.quantize(x, scale, zero_point)
    q1 = marker(w, "weight", 0)                    q = R.dequantize(lv, scale, zero_point)
    lv = R.nn.conv2d(q, q1)                        q1 = R.dequantize(int8 w, scales, zeros, axis=0)
                                                   lv = R.nn.conv2d(q, q1)

Runs an instrumented copy of the module: each marked value is handed to an observer, which keeps a
histogram; nothing else of a sample outlives its run.
Must run after: annotate-quantization. Must run before: anything that groups operators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import tvm
from tvm import IRModule, relax

from relaxc.errors import OptionError
from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_main
from relaxc.passes.fuse.outline import operator_call
from relaxc.passes.quantize.affine import QuantParams, activation_params, weight_params
from relaxc.passes.quantize.annotate import ANCHORS
from relaxc.passes.quantize.calibration import METHODS
from relaxc.passes.quantize.exclusion import Exclusion, node_of
from relaxc.passes.quantize.histogram import Histogram
from relaxc.passes.quantize.instrument import instrument
from relaxc.passes.quantize.marker import Marker, read_marker

# Given an instrumented module, the histogram of each observer.
Collect = Callable[[IRModule], Mapping[int, Histogram]]


@dataclass(frozen=True)
class CalibrateQuantization(Pass):
    """Replace markers by quantization with measured ranges.

    Attributes:
        collect: compiles and runs an instrumented module on the calibration data.
        method: how a range is read off a histogram; a key of `calibration.METHODS`.
        symmetric: whether activations that may be negative get the zero point 128.
        layers: nodes, or regular expressions, whose data's ranges are read in another way.
        is_complete: whether all nodes are there; else `layers` may name others.
    """

    collect: Collect
    method: str = "minmax"
    symmetric: bool = False
    layers: Mapping[str, str] = field(default_factory=dict, hash=False)
    is_complete: bool = True

    name: ClassVar[str] = "calibrate-quantization"
    required: ClassVar[bool] = True

    def apply(self, mod: IRModule) -> IRModule:
        """Calibrate `main`."""
        markers = [m for b in mod["main"].body.blocks for v in b.bindings if (m := read_marker(v))]
        if not markers:
            return mod
        seen = self.collect(instrument(mod))
        methods = self._methods(mod)
        params = {
            number: self._params(histogram, methods.get(number, self.method))
            for number, histogram in seen.items()
        }

        def quantize(block: relax.BindingBlock) -> Sequence[relax.Binding]:
            result: list[relax.Binding] = []
            for binding in block.bindings:
                marker = read_marker(binding)
                if marker is None:
                    result.append(binding)
                elif marker.kind == "weight":
                    result.append(_quantized_weight(binding.var, marker))
                elif marker.number in params or self.is_complete:
                    result.extend(_quantized(binding.var, marker.value, params[marker.number]))
                else:  # what a layer gives that has become float: nobody has seen its range
                    result.append(relax.VarBinding(binding.var, marker.value))
            return result

        calibrated = rewrite_main(relax.BlockBuilder(mod), quantize)
        return (
            calibrated if self.is_complete else relax.transform.CanonicalizeBindings()(calibrated)
        )

    def _methods(self, mod: IRModule) -> dict[int, str]:
        """Observers whose range is read in a way of their own.

        Raises:
            OptionError: a pattern matches no quantized node.
        """
        bindings = [b for block in mod["main"].body.blocks for b in block.bindings]
        markers = {b.var: m for b in bindings if (m := read_marker(b)) is not None}
        found: dict[int, str] = {}
        for pattern, method in self.layers.items():
            patterns, is_known = Exclusion((pattern,)), False
            for binding in bindings:
                call = operator_call(binding)
                marker = None if call is None else markers.get(call.args[0])
                is_product = call is not None and str(call.op.name) in ANCHORS
                if marker is not None and is_product and patterns.has(node_of(binding)):
                    found[marker.number] = method
                    is_known = True
            if not is_known and self.is_complete:
                raise OptionError(
                    f"`{pattern}` has a calibration method of its own, but no node that is "
                    "quantized has such a name"
                )
        return found

    def _params(self, histogram: Histogram, method: str) -> QuantParams:
        low, high = METHODS[method](histogram, self.symmetric)
        return activation_params(low, high, self.symmetric)


def _quantized(var: relax.Var, value: relax.Expr, params: QuantParams) -> list[relax.Binding]:
    scale, zero = _constant(params.scale), _constant(params.zero_point)
    builder = relax.BlockBuilder()
    integers = builder.normalize(relax.op.quantize(value, scale, zero, out_dtype=params.dtype.name))
    held = relax.DataflowVar(f"{var.name}.integers", integers.ty)
    real = builder.normalize(relax.op.dequantize(held, scale, zero))
    return [relax.VarBinding(held, integers), relax.VarBinding(var, real)]


def _quantized_weight(var: relax.Var, marker: Marker) -> relax.Binding:
    weight = np.asarray(marker.value.value.numpy())
    params = weight_params(weight, marker.axis)
    call = relax.op.dequantize(
        _constant(params.quantize(weight)),
        _constant(params.scale),
        _constant(params.zero_point),
        axis=-1 if params.axis is None else params.axis,
    )
    return relax.VarBinding(var, relax.BlockBuilder().normalize(call))


def _constant(array: np.ndarray) -> tvm.ir.GenericConst:
    return relax.const(array, array.dtype.name)
