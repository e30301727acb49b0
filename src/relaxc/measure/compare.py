"""How far two results of the same computation lie apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from relaxc.errors import OptionError
from relaxc.layout import Precision
from relaxc.options import Scheme


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """When two tensors agree: max|a - b| <= atol + rtol * max|b|, and their cosine >= cos.

    The error is measured against the tensor's largest value, not element by element: an element
    near zero that is the sum of large ones cannot be more exact than they are. Integers and
    booleans must be equal.

    Attributes:
        atol: absolute part.
        rtol: part relative to the reference's largest magnitude.
        cos: least cosine of the angle between the tensors.
    """

    atol: float = 1e-5
    rtol: float = 1e-3
    cos: float = 0.9999

    def __post_init__(self) -> None:
        if not (0 <= self.atol < math.inf and 0 <= self.rtol < math.inf):
            raise OptionError("atol and rtol must not be negative or infinite")
        if not -1 <= self.cos <= 1:
            raise OptionError(f"cos must lie between -1 and 1, not {self.cos}")


# What a result may lose. Sums of bfloat16 products differ from float32's by about 2**-9 of their
# norm, layer after layer: the cosine tells whether the direction survives, single elements do not.
TOLERANCES: dict[Precision, Tolerance] = {
    "float32": Tolerance(),
    "tf32": Tolerance(atol=1e-3, rtol=2e-2, cos=0.9995),
    "float16": Tolerance(atol=1e-3, rtol=2e-2, cos=0.9995),
    "bfloat16": Tolerance(atol=1e-2, rtol=0.2, cos=0.99),
    "float8": Tolerance(atol=1e-2, rtol=0.2, cos=0.99),
}

# What rounding may cost: a share of the energy of a result. The cosine is 1 - share / 2 then. Of
# numbers that err by that much, one in two millions is further off than five times the root of the
# mean square; the largest of a result is 2.5 times its own or more, so that rtol = 2 sqrt(share).
_ROUNDED, _HARDLY = 0.01, 0.001
_SHARES: dict[Scheme, float] = {
    "int8": _ROUNDED,
    "int8-dynamic": _HARDLY,
    "int8-weights": _HARDLY,
    "fp8-weights": _ROUNDED,
    "int4-weights": _ROUNDED,
}
QUANTIZED: dict[Scheme, Tolerance] = {
    scheme: Tolerance(rtol=round(2 * math.sqrt(share), 2), cos=1 - share / 2)
    for scheme, share in _SHARES.items()
}


@dataclass(frozen=True)
class Agreement:
    """One tensor of ours against the reference's.

    Attributes:
        name: the tensor.
        dtype: of the reference.
        shape: of the reference.
        max_abs: largest absolute difference; infinite where one is NaN and the other is not.
        max_rel: `max_abs` relative to the reference's largest magnitude.
        cosine: of the angle between them.
        is_ok: whether they agree within the tolerance.
        note: why they do not, when numbers do not tell.
        sqnr_db: the reference's energy to that of the difference; infinite where there is none.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    max_abs: float
    max_rel: float
    cosine: float
    is_ok: bool
    note: str = ""
    sqnr_db: float = np.inf


def compare(name: str, ours: np.ndarray, theirs: np.ndarray, tolerance: Tolerance) -> Agreement:
    """Compare a result with its reference."""
    described = (name, theirs.dtype.name, theirs.shape)
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        note = f"got {ours.dtype.name}{list(ours.shape)}"
        return Agreement(*described, np.inf, np.inf, 0.0, False, note)
    is_exact = theirs.dtype.kind in "biu"
    a, b = (np.asarray(x, np.float64).reshape(-1) for x in (ours, theirs))
    max_abs = _max_abs(a, b)
    scale = float(np.max(np.abs(b), initial=0.0, where=np.isfinite(b)))
    max_rel = max_abs / scale if scale else max_abs
    cosine = _cosine(a, b)
    limit = 0.0 if is_exact else tolerance.atol + tolerance.rtol * scale
    is_ok = max_abs <= limit and (is_exact or cosine >= tolerance.cos)
    sqnr_db = _sqnr_db(a, b)
    return Agreement(*described, max_abs, max_rel, cosine, is_ok, sqnr_db=sqnr_db)


def _sqnr_db(ours: np.ndarray, theirs: np.ndarray) -> float:
    finite = np.isfinite(ours) & np.isfinite(theirs)
    size = max(float(np.max(np.abs(theirs[finite]), initial=0.0)), 1e-300)
    signal = float(np.square(theirs[finite] / size).sum())
    noise = float(np.square((ours[finite] - theirs[finite]) / size).sum())
    if noise == 0:
        return np.inf
    return float(10 * np.log10(signal / noise)) if signal else -np.inf


def _max_abs(a: np.ndarray, b: np.ndarray) -> float:
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(a - b))
    difference[np.isnan(difference)] = np.inf
    return float(difference.max(initial=0.0))


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    finite = np.isfinite(a) & np.isfinite(b)
    a, b = a[finite], b[finite]
    # Scaled first: squares of very large or small numbers leave the range of float64.
    a, b = (x / max(float(np.max(np.abs(x), initial=0.0)), 1e-300) for x in (a, b))
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norms == 0:
        return 1.0 if np.array_equal(a, b) else 0.0
    return float(a @ b) / norms
