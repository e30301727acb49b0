"""Convolutions and matrix products with constant weights as one thing: rows times a matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tvm
from tvm import IRModule, relax
from tvm.ir import GenericConst

from relaxc.passes.prune.segments import bindings_of

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Product:
    """A binding whose value is `data` times a constant weight, seen as a matrix.

    A row of the matrix product is what one pixel of a convolution reads: all taps of channel 0,
    then of channel 1 ...

    Attributes:
        var: the result.
        call: `relax.nn.conv2d` with one group, or `relax.matmul` by a matrix.
        taps: rows of the matrix that belong to one channel of the data.
    """

    var: relax.Var
    call: relax.Call
    taps: int

    @property
    def data(self) -> relax.Var:
        """What is multiplied."""
        return self.call.args[0]

    @property
    def is_conv(self) -> bool:
        """Whether channels are axis 1, not the last one."""
        return str(self.call.op.name) != "relax.matmul"

    @property
    def axis(self) -> int:
        """The axis of the weight that is summed over."""
        return 1 if self.is_conv else 0

    def matrix(self) -> Matrix:
        """The weight: rows per channel and tap, columns per output."""
        weight = np.asarray(self.call.args[1].value.numpy(), np.float64)
        return weight.reshape(len(weight), -1).T if self.is_conv else weight

    def with_matrix(self, matrix: Matrix) -> relax.Call:
        """The call with another weight of the same shape."""
        old = self.call.args[1].value.numpy()
        weight = matrix.T.reshape(old.shape) if self.is_conv else matrix
        const = relax.const(np.ascontiguousarray(weight, old.dtype))
        return relax.Call(self.call.op, [self.data, const], self.call.attrs)

    def rows(self, data: np.ndarray, pick: npt.NDArray[np.int64]) -> np.ndarray:
        """Some rows of the left side, by their position among the rows of the result."""
        if not self.is_conv:
            return np.asarray(data.reshape(-1, data.shape[-1])[pick])
        attrs = self.call.attrs
        top, left, bottom, right = (int(p) for p in attrs.padding)
        padded = np.pad(data, ((0, 0), (0, 0), (top, bottom), (left, right)))
        n, y, x = np.unravel_index(pick, (len(data), *self._pixels(data)))
        kernel = [int(d) for d in self.call.args[1].ty.shape.values[2:]]
        ys = (y * int(attrs.strides[0]))[:, None] + np.arange(kernel[0]) * int(attrs.dilation[0])
        xs = (x * int(attrs.strides[1]))[:, None] + np.arange(kernel[1]) * int(attrs.dilation[1])
        taken = padded.transpose(0, 2, 3, 1)[n[:, None, None], ys[:, :, None], xs[:, None, :]]
        return np.asarray(taken.transpose(0, 3, 1, 2).reshape(len(pick), -1))

    def results(self, value: np.ndarray, pick: npt.NDArray[np.int64]) -> np.ndarray:
        """The same rows of a value shaped like the result."""
        if self.is_conv:
            value = value.transpose(0, 2, 3, 1)
        return np.asarray(value.reshape(-1, value.shape[-1])[pick])

    def count(self, data: np.ndarray) -> int:
        """How many rows there are."""
        if not self.is_conv:
            return int(np.prod(data.shape[:-1]))
        return int(len(data) * np.prod(self._pixels(data)))

    def _pixels(self, data: np.ndarray) -> list[int]:
        attrs = self.call.attrs
        result = []
        for i, size in enumerate(data.shape[2:]):
            taps = int(self.call.args[1].ty.shape.values[2 + i])
            padded = size + int(attrs.padding[i]) + int(attrs.padding[i + 2])
            reach = (taps - 1) * int(attrs.dilation[i]) + 1
            result.append((padded - reach) // int(attrs.strides[i]) + 1)
        return result


def products_of(mod: IRModule, grouped: bool = False) -> list[Product]:
    """All such bindings of `main`, in order.

    Args:
        mod: the module.
        grouped: also convolutions with groups: each column is multiplied by the rows of its group.
    """
    return [p for b in bindings_of(mod) if (p := _product(b, grouped)) is not None]


def _product(binding: relax.Binding, grouped: bool) -> Product | None:
    call = binding.value
    if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.Op):
        return None
    name = str(call.op.name)
    if name not in ("relax.nn.conv2d", "relax.matmul"):
        return None
    data, weight = call.args
    if not isinstance(weight, GenericConst) or not isinstance(data, relax.Var):
        return None
    if any(str(e.ty.dtype.dtype) != "float32" for e in (data, weight)):
        return None
    if name == "relax.matmul":
        return Product(binding.var, call, 1) if weight.ty.ndim == 2 and data.ty.ndim > 1 else None
    attrs = call.attrs
    plain = (str(attrs.data_layout), str(attrs.kernel_layout)) == ("NCHW", "OIHW")
    if not plain or (int(attrs.groups) != 1 and not grouped):
        return None
    _, _, height, width = (int(d) for d in weight.ty.shape.values)
    return Product(binding.var, call, height * width)


def picked(count: int, wanted: int, seed: int) -> npt.NDArray[np.int64]:
    """Some of `count` rows, at random, in order."""
    if wanted >= count:
        return np.arange(count)
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(count, wanted, replace=False))
