"""The matrices of short convolutions with few multiplications, after Cook and Toom.

Points are 0, +-2/3, +-3/2 (F(4,3)): the textbook's 0, +-1, +-2 double the error at the same cost.
Error, relative to the norm: F(4,3) 1.1x to 2.1x of direct convolution's, F(2,3) below it; four of
seven taps at stride 2, along one axis, 2x.
Reference: Winograd, Arithmetic Complexity of Computations, 1980; points after Barabasz et al.,
Error Analysis and Improving the Accuracy of Winograd Convolution, 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from relaxc.targets.llvm.kernels.builder import Expr, KernelBuilder

# Of six, pairs alone err by a quarter less than five of seven and zero.
_SIX = (1 / 3, 0.85, 2.0)
_POINTS: dict[int, tuple[float, ...]] = {0: (), 1: (1.0,), 2: (2 / 3, 3 / 2), 3: (0.6, 1.0, 5 / 3)}


@dataclass(frozen=True)
class Transform:
    """One axis of F(outputs, taps): y = AT [(G w) * (BT x)].

    With a stride of two the even inputs meet the even taps and the odd inputs the odd ones: two
    convolutions of stride one, whose products are summed by AT.

    Attributes:
        outputs: outputs per tile, m.
        taps: kernel size, r; 1 leaves the axis as it is.
        stride: 1 or 2.
    """

    outputs: int
    taps: int
    stride: int = 1

    @property
    def size(self) -> int:
        """Inputs per tile, which are also its multiplications."""
        return (self.outputs - 1) * self.stride + self.taps

    @property
    def order(self) -> list[int]:
        """The inputs of a tile in the order of BT's columns: by remainder modulo the stride."""
        return [i for phase in range(self.stride) for i in range(phase, self.size, self.stride)]

    def matrices(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """BT, G and AT."""
        if self.stride == 1:
            return _cook_toom(self.outputs, self.taps)
        bt, at = np.zeros((self.size, self.size)), np.zeros((self.outputs, self.size))
        g = np.zeros((self.size, self.taps))
        first = 0
        for phase in range(self.stride):
            taps = range(phase, self.taps, self.stride)
            parts = _cook_toom(self.outputs, len(taps))
            last = first + len(parts[0])
            bt[first:last, first:last], g[first:last, taps], at[:, first:last] = parts
            first = last
        return bt, g, at


def _cook_toom(outputs: int, taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """BT, G and AT over the points above and infinity, rows of BT scaled to 1."""
    n = outputs + taps - 1
    if taps == 1:
        return np.eye(n), np.ones((n, 1)), np.eye(n)
    points = [0.0] + [s for p in _POINTS[(n - 1) // 2] for s in (p, -p)]
    points = [s for p in _SIX for s in (p, -p)] if n == 7 else points[: n - 1]

    def vandermonde(columns: int) -> np.ndarray:
        rows = [[p**j for j in range(columns)] for p in points]
        return np.array([*rows, [0.0] * (columns - 1) + [1.0]])

    bt = np.linalg.inv(vandermonde(n)).T
    scale = np.array([abs(row[np.abs(row) > 1e-9][-1]) for row in bt[:-1]] + [1.0])
    bt = bt / scale[:, None]
    bt[np.abs(bt) < 1e-9] = 0.0
    nearly = np.abs(np.abs(bt) - 1) < 1e-12
    bt[nearly] = np.sign(bt[nearly])
    return bt, vandermonde(taps) * scale[:, None], vandermonde(outputs).T


def linear(b: KernelBuilder, matrix: np.ndarray, values: list[Expr]) -> list[Expr]:
    """matrix @ values, skipping zeros and ones and sharing work between rows of points p and -p.

    Such rows agree in the even columns and differ in sign in the odd ones (or the reverse), so
    that both come from one sum and one difference. Where a matrix has few rows, columns that agree
    but for signs are summed and subtracted once for all rows.
    """
    if matrix.shape[0] > 2 and matrix.shape[0] < matrix.shape[1]:
        matrix, values = _paired(b, matrix, values)
        return [_sum(b, row, values) for row in matrix]
    out: dict[int, Expr] = {}
    columns = np.arange(matrix.shape[1])
    for i, row in enumerate(matrix):
        if i in out:
            continue
        for sign in (1.0, -1.0):
            mirrored = row * np.where(columns % 2, -sign, sign)
            twin = next(
                (
                    j
                    for j in range(i + 1, len(matrix))
                    if np.allclose(matrix[j], mirrored, atol=1e-9)
                ),
                None,
            )
            even, odd = row * (columns % 2 == 0), row * (columns % 2)
            if twin is not None and np.any(even) and np.any(odd):
                e, o = _sum(b, even, values), _sum(b, odd, values)
                out[i] = b.let(e + o)
                out[twin] = b.let(e - o if sign > 0 else o - e)
                break
        else:
            out[i] = _sum(b, row, values)
    return [out[i] for i in range(len(matrix))]


def _paired(
    b: KernelBuilder, matrix: np.ndarray, values: list[Expr]
) -> tuple[np.ndarray, list[Expr]]:
    """The same with sums and differences in place of pairs of columns that differ in signs only."""
    columns = list(matrix.T)
    out_columns: list[np.ndarray] = []
    out: list[Expr] = []
    while columns:
        first, value = columns[0], values[0]
        twin = next(
            (
                j
                for j in range(1, len(columns))
                if np.allclose(abs(columns[j]), abs(first), atol=1e-9)
                and np.count_nonzero(first) > 2
            ),
            None,
        )
        if twin is None:
            out_columns.append(first)
            out.append(value)
        else:
            out_columns += [(first + columns[twin]) / 2, (first - columns[twin]) / 2]
            out += [b.let(value + values[twin]), b.let(value - values[twin])]
        keep = [j for j in range(1, len(columns)) if j != twin]
        columns, values = [columns[j] for j in keep], [values[j] for j in keep]
    return np.array(out_columns).T, out


def _sum(b: KernelBuilder, row: np.ndarray, values: list[Expr]) -> Expr:
    total: Expr | None = None
    for factor, value in zip(row, values):
        if factor == 0.0:
            continue
        if abs(factor) == 1.0 and total is not None:
            total = total + value if factor > 0 else total - value
            continue
        term = value if factor == 1.0 else b.splat(float(factor)) * value
        total = term if total is None else total + term
    return b.let(b.splat(0.0) if total is None else total)
