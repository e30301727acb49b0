"""Training with rounding in the loop: what is rounded, and how derivatives pass through it.

Data: the pair of quantize and dequantize becomes, for derivatives, what clipping is.

Before:                                  After:
    q = R.quantize(x, s, z)                  c = R.clip(x, low, high)
    y = R.dequantize(q, s, z)                y = c + no_grad(s * round(c / s) - c)

Weights that are stored as integers are real numbers while they are trained, and shown rounded to
the scales that they have; the derivative is that of what was shown (straight-through estimator:
Bengio et al., 2013; Jacob et al., CVPR 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from relaxc.passes.quantize.affine import QuantParams


@dataclass(frozen=True)
class RoundedWeight:
    """A weight that is stored as integers.

    Attributes:
        params: how they map to real numbers.
        integers: as they are now.
        low, high: the integers that may be used; four bits lie in bytes, too.
    """

    params: QuantParams
    integers: np.ndarray
    low: int
    high: int

    @classmethod
    def of(cls, value: relax.Expr) -> RoundedWeight | None:
        """The weight that a dequantized constant is, if this is one."""
        if not _is_call(value, "relax.dequantize"):
            return None
        if not all(isinstance(arg, GenericConst) for arg in value.args):
            return None
        integers, scale, zero = (np.array(arg.value.numpy()) for arg in value.args)
        if integers.dtype.kind not in "iu":  # float8 stays as it is
            return None
        axis = int(value.attrs.axis) if scale.ndim else None
        if axis is not None:
            axis %= integers.ndim
        is_wide = integers.dtype.itemsize > 1
        info = np.iinfo(integers.dtype)
        low, high = (info.min, info.max) if is_wide else (integers.min(), integers.max())
        params = QuantParams(scale, zero.astype(integers.dtype), axis)
        return cls(params, integers, int(low), int(high))

    def values(self) -> np.ndarray:
        """The real numbers."""
        return self.params.dequantize(self.integers)

    def nearest(self, weight: np.ndarray) -> np.ndarray:
        """The integers of other real numbers."""
        rounded: np.ndarray = np.clip(self.params.quantize(weight), self.low, self.high)
        return rounded.astype(self.integers.dtype)

    def shown(self, weight: np.ndarray) -> np.ndarray:
        """Real numbers, rounded."""
        return self.params.dequantize(self.nearest(weight))

    def clipped(self, weight: np.ndarray) -> np.ndarray:
        """Real numbers no further out than the last integers: where nothing would bring them back.

        Scales may be negative.
        """
        ends = [
            self.params.dequantize(np.full(weight.shape, n, self.integers.dtype))
            for n in (self.low, self.high)
        ]
        held: np.ndarray = np.clip(weight, np.minimum(*ends), np.maximum(*ends))
        return held


@dataclass(frozen=True)
class RoundedData:
    """What a pair of quantize and dequantize does to a value.

    Attributes:
        value: what is rounded.
        scale: between neighbours.
        low, high: the ends of the range.
    """

    value: relax.Var
    scale: float
    low: float
    high: float

    def shown(self, builder: relax.BlockBuilder, value: relax.Expr) -> relax.Expr:
        """The same with a derivative."""
        op, scale = relax.op, relax.const(self.scale, "float32")
        held = builder.emit(op.clip(value, self.low, self.high))
        steps = builder.emit(op.round(builder.emit(op.divide(held, scale))))
        rounded = builder.emit(op.multiply(steps, scale))
        added = builder.emit(op.subtract(rounded, held))
        return op.add(held, builder.emit(op.grad.no_grad(added)))


def rounded_data(bindings: Sequence[relax.Binding]) -> dict[relax.Var, RoundedData]:
    """Variables that are a value rounded, with one scale, and back."""
    found: dict[relax.Var, RoundedData] = {}
    bound = {b.var: b.value for b in bindings}
    for binding in bindings:
        call = binding.value
        if not _is_call(call, "relax.dequantize") or not isinstance(call.args[0], relax.Var):
            continue
        inner = bound.get(call.args[0])
        if (
            inner is None
            or not _is_call(inner, "relax.quantize")
            or not isinstance(inner.args[0], relax.Var)
        ):
            continue
        constants = [*call.args[1:], *inner.args[1:]]
        if not all(isinstance(arg, GenericConst) for arg in constants):
            continue
        scale, zero, other, origin = (arg.value.numpy() for arg in constants)
        if scale.size != 1 or scale != other or zero != origin:
            continue
        info, step, middle = np.iinfo(str(inner.ty.dtype.dtype)), float(scale), int(zero)
        ends = ((n - middle) * step for n in (info.min, info.max))
        found[binding.var] = RoundedData(inner.args[0], step, *ends)
    return found


def _is_call(value: object, name: str) -> bool:
    return isinstance(value, relax.Call) and str(getattr(value.op, "name", "")) == name
