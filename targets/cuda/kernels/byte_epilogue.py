"""The end of a product of integers whose result are bytes, in steps of the result.

Where all that happens to the sums is that vectors and bytes are added, and negative numbers become
zero, the scales of everything are merged: a multiplication and an addition for the sum, and for
each operand. Bounds that are known here let bits of floats take the place of conversions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import relax

from relaxc.layout import Quantization
from relaxc.targets.cuda.kernels.expressions import number
from relaxc.targets.cuda.kernels.frame import Frame
from relaxc.targets.llvm.kernels.constants import array_of, is_constant
from relaxc.targets.llvm.kernels.domain import Domain
from relaxc.targets.llvm.kernels.elementwise import Epilogue, scalar_value

# A float of 1.5 * 2^23 has no bits for fractions: what is added to it is in its last bits.
_LIMIT = 2.0**22
_SUM_START = 0x4B400000


@dataclass(frozen=True)
class Rescale:
    """What makes sums of integers real, per column.

    Attributes:
        factor: by which they are multiplied.
        offset: what is added then.
        largest: the greatest absolute value that sums can have.
    """

    factor: np.ndarray
    offset: np.ndarray
    largest: np.ndarray

    @property
    def start(self) -> int:
        """With what sums begin: where they are small enough, the bits of a float."""
        return _SUM_START if float(self.largest.max()) < _LIMIT else 0


@dataclass(frozen=True)
class Merged:
    """Sums become steps of the result by `factor`, `offset`, and bytes times scales.

    Attributes:
        factor, offset: per column.
        bytes: operands as wide as the result, and their scales.
        is_positive: whether negative numbers become zero.
        zero: the byte that stands for zero.
    """

    factor: np.ndarray
    offset: np.ndarray
    bytes: tuple[tuple[relax.Expr, float], ...]
    is_positive: bool
    zero: int

    @staticmethod
    def of(epilogue: Epilogue, domain: Domain, frame: Frame, rescale: Rescale) -> Merged | None:
        """Merge it; None where more happens, or results may be too large."""
        result = Quantization.of(frame.result.element)
        if result is None:
            return None
        offset = rescale.offset.astype(np.float64)
        added: list[tuple[relax.Expr, float]] = []
        last: relax.Expr = epilogue.start
        is_positive = False
        for var, call in epilogue.bindings:
            name = str(call.op.name)
            if is_positive or not any(arg.same_as(last) for arg in call.args):
                return None
            if name == "relax.nn.relu":
                is_positive = True
            elif name == "relax.add":
                other = call.args[1 if call.args[0].same_as(last) else 0]
                if other.same_as(last) or scalar_value(other) is not None:
                    return None
                kind = str(domain.broadcasting(list(other.ty.shape.values)))
                if is_constant(other) and kind == "channel":
                    offset = offset + array_of(other).astype(np.float64).reshape(-1)
                elif kind == "full" and not is_constant(other):
                    stored = Quantization.of(frame.element_of(other))
                    if stored is None:
                        return None
                    offset = offset - float(stored.zero_point) * np.float64(stored.scale)
                    added.append((other, float(stored.scale)))
                else:
                    return None
            else:
                return None
            last = var
        step = float(np.float32(result.scale))
        merged = Merged(
            (rescale.factor / step).astype(np.float32),
            (offset / step).astype(np.float32),
            tuple((expr, scale / step) for expr, scale in added),
            is_positive,
            int(result.zero_point),
        )
        return merged if merged._largest(rescale.largest) < _LIMIT - 256 else None

    def _largest(self, sums: np.ndarray) -> float:
        """Bound of the result in steps; infinite where something is no number."""
        bound = np.abs(self.factor) * sums + np.abs(self.offset)
        whole = float(bound.max()) + 255 * sum(abs(scale) for _, scale in self.bytes)
        return whole if np.isfinite(whole) else float("inf")

    def body(self, names: list[str]) -> list[str]:
        """C++ on `float v[V]`; `names` are those of the operands' pointers."""
        lines = ["#pragma unroll", "for (int e = 0; e < V; ++e) {"]
        lines.append("  float r = v[e] * factor[e] + offset[e];")
        for name, (_, scale) in zip(names, self.bytes):
            scaled = number(float(np.float32(scale)))
            lines.append(f"  r += byte_of(o.{name}.words[e / 4], e % 4) * {scaled};")
        if self.is_positive and self.zero:  # else what is below is saturated
            lines.append("  r = fmaxf(r, 0.0f);")
        return [*lines, "  v[e] = r;", "}", f"write_bytes<V, {self.zero}>(y + at, v);"]
