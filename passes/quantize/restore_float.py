"""Leave layers float that integers make too inexact.

Before:                                  After:
    q = R.dequantize(R.quantize(x, ...))     lv = R.nn.conv2d(x, w)
    q1 = R.dequantize(int8 w, ...)
    lv = R.nn.conv2d(q, q1)
if the result's signal to noise ratio, on samples, is less than the least that is allowed, or the
noise of all layers together is more than the most.

The float module is quantized again without these layers, so that nothing around them is rounded
for their sake; ranges that were measured serve again.
Leaves alone: everything where there are no samples.
Must run after: calibrate-quantization. Must run before: correct-bias, whose measurement it shares.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import ClassVar

from tvm import IRModule

from relaxc.passes.base import Pass
from relaxc.passes.quantize.layer_errors import LayerError
from relaxc.passes.quantize.limits import Limits


@dataclass(frozen=True)
class RestoreFloat(Pass):
    """Undo the quantization of sensitive layers.

    Attributes:
        errors: of every layer of the calibrated module.
        quantize: quantizes the float module, all but some nodes.
        limits: layers that break them become float.
    """

    errors: Callable[[IRModule], list[LayerError]]
    quantize: Callable[[Collection[str]], IRModule]
    limits: Limits

    name: ClassVar[str] = "restore-float"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        """Quantize `main` again, if a layer is too inexact."""
        nodes = self.limits.inexact(self.errors(mod))
        return self.quantize(nodes) if nodes else mod
