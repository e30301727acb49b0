"""How logical shapes map onto the (n, c, h, w) that kernels iterate over."""

from __future__ import annotations

import abc
import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from tvm import tirx
from tvm.sym import Analyzer

Dims = tuple[Any, Any, Any, Any]
Broadcasting = Literal["scalar", "channel", "full", "pixel"]


def as_int(dim: Any) -> int | None:
    """The value of a static dimension, else None."""
    if isinstance(dim, int):
        return dim
    return int(dim) if isinstance(dim, tirx.IntImm) else None


def simple(dim: Any) -> Any:
    """A static dimension as an int, a symbolic one as it is."""
    value = as_int(dim)
    return dim if value is None else value


def same(a: Any, b: Any) -> bool:
    """Whether two dimensions are provably equal."""
    left, right = as_int(a), as_int(b)
    if left is not None or right is not None:
        return left == right
    return bool(a.same_as(b)) or Analyzer().can_prove_equal(a, b)


class Domain(abc.ABC):
    """The iteration space of a kernel: the shape of its result, seen as (n, c, h, w).

    Attributes:
        shape: the result's logical shape.
    """

    shape: tuple[Any, ...]

    @property
    @abc.abstractmethod
    def dims(self) -> Dims:
        """The result's (n, c, h, w)."""

    @abc.abstractmethod
    def broadcasting(self, shape: Sequence[Any]) -> Broadcasting | None:
        """How a tensor of `shape` is broadcast against the result; None if kernels cannot.

        scalar: one element; channel: differs by n and c only; full: same shape; pixel: all but c.
        """

    @abc.abstractmethod
    def operand_dims(self, shape: Sequence[Any]) -> Dims:
        """The (n, c, h, w) of an operand."""

    @abc.abstractmethod
    def operand_array(self, values: np.ndarray) -> np.ndarray:
        """A constant operand as (n, c, h, w)."""


@dataclass(frozen=True)
class MapDomain(Domain):
    """A map: at most four dimensions, which are (n, c, h, w) already."""

    shape: tuple[Any, ...]

    @property
    def dims(self) -> Dims:
        """The result's (n, c, h, w)."""
        return self.operand_dims(self.shape)

    def operand_dims(self, shape: Sequence[Any]) -> Dims:
        """Ones in front of what is missing."""
        n, c, h, w = (1,) * (4 - len(shape)) + tuple(simple(d) for d in shape)
        return n, c, h, w

    def operand_array(self, values: np.ndarray) -> np.ndarray:
        """The axes are in order already."""
        return values.reshape(self.operand_dims(values.shape))

    def broadcasting(self, shape: Sequence[Any]) -> Broadcasting | None:
        """NumPy's rules, as far as kernels go."""
        if len(shape) > 4:
            return None
        dims = self.dims
        padded = self.operand_dims(shape)
        wide = [d != 1 for d in padded]
        if any(x and not same(a, b) for x, a, b in zip(wide, padded, dims)):
            return None
        n, c, h, w = wide
        if not any(wide):
            return "scalar"
        if not h and not w and (c or dims[1] == 1):
            return "channel"
        if all(x or d == 1 for x, d in zip(wide, dims)):
            return "full"
        if not c and all(x or d == 1 for x, d in zip((n, h, w), (dims[0], *dims[2:]))):
            return "pixel"
        return None


@dataclass(frozen=True)
class RowDomain(Domain):
    """Rows of a matrix: the last dimension is the channels, all others together the pixels."""

    shape: tuple[Any, ...]

    @property
    def dims(self) -> Dims:
        """(1, columns, 1, rows)."""
        return self.operand_dims(self.shape)

    def operand_dims(self, shape: Sequence[Any]) -> Dims:
        """All leading dimensions become rows."""
        *leading, last = [simple(d) for d in shape] if len(shape) else [1]
        return 1, last, 1, functools.reduce(operator.mul, leading, 1)

    def operand_array(self, values: np.ndarray) -> np.ndarray:
        """Rows become pixels, behind the channels."""
        _, columns, _, rows = self.operand_dims(values.shape)
        return values.reshape(rows, columns).T.reshape(1, columns, 1, rows)

    def broadcasting(self, shape: Sequence[Any]) -> Broadcasting | None:
        """NumPy's rules, where the leading dimensions are all there or all missing."""
        if len(shape) > len(self.shape):
            return None
        padded = [1] * (len(self.shape) - len(shape)) + [simple(d) for d in shape]
        result = [simple(d) for d in self.shape]
        wide = [d != 1 for d in padded]
        if any(x and not same(a, b) for x, a, b in zip(wide, padded, result)):
            return None
        if not any(wide):
            return "scalar"
        if not any(wide[:-1]) and any(d != 1 for d in result[:-1]):
            return "channel"
        if not all(x or d == 1 for x, d in zip(wide[:-1], result[:-1])):
            return None
        return "full" if wide[-1] or result[-1] == 1 else "pixel"
