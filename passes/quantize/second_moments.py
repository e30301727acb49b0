"""Second moments of what layers multiply their weights by, on samples, rounded as it will be.

The float module gives the data of all layers, one sample at a time; rows are summed up here,
a bounded number of each layer. Moments of layers with many inputs are large: where they do not fit
into memory together, the module runs again for the next ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import IRModule

from relaxc.passes.prune.products import Matrix, Product, picked
from relaxc.passes.prune.segments import Arrays, Run, bindings_of, piece
from relaxc.passes.quantize.affine import QuantParams

# Rows of data per row of a weight, and the fewest of all; more hardly change the estimate.
_ROWS, _LEAST = 16, 4096
_BYTES = 256 << 20
# Of sums of float32, relative to a mean square.
_NOISE = 1e-5


@dataclass(frozen=True)
class Layer:
    """A layer of the float module, and how its data will be rounded; None: not at all."""

    product: Product
    data: QuantParams | None

    @property
    def groups(self) -> int:
        """Of a convolution."""
        return int(self.product.call.attrs.groups) if self.product.is_conv else 1

    @property
    def depth(self) -> int:
        """Rows of the weight."""
        return len(self.product.matrix())

    @property
    def size_bytes(self) -> int:
        """Of its moments."""
        return 8 * self.groups * self.depth**2


def second_moments(
    teacher: IRModule, layers: Sequence[Layer], run: Run, samples: Sequence[Arrays], centered: bool
) -> Iterator[tuple[Product, Matrix]]:
    """The moments of each layer, [groups, rows, rows], per row of data.

    Args:
        teacher: the float module, which computes the data.
        layers: of it.
        run: compiles a module and runs it on arguments.
        samples: arguments of `main`.
        centered: about the mean.
    """
    for batch in _batches(layers):
        sums = [_Sums(layer, len(samples)) for layer in batch]
        wanted = list(dict.fromkeys(layer.product.data for layer in batch))
        module, params = piece(teacher, bindings_of(teacher), wanted)
        place = {var: i for i, var in enumerate(teacher["main"].params)}
        arguments = ([sample[place[var]] for var in params] for sample in samples)
        for number, results in enumerate(run(module, arguments)):
            values = dict(zip(wanted, results, strict=True))
            for one in sums:
                one.add(values[one.layer.product.data], number)
        for one in sums:
            yield one.layer.product, one.moments(centered)


def _batches(layers: Sequence[Layer]) -> Iterator[list[Layer]]:
    batch: list[Layer] = []
    for layer in layers:
        if batch and sum(one.size_bytes for one in [*batch, layer]) > _BYTES:
            yield batch
            batch = []
        batch.append(layer)
    if batch:
        yield batch


class _Sums:
    """Sums over rows of one layer's data."""

    def __init__(self, layer: Layer, samples: int) -> None:
        self.layer = layer
        shape = layer.groups, layer.depth
        self._square = np.zeros((*shape, layer.depth))
        self._sum = np.zeros(shape)
        self._count = 0
        self._wanted = -(-max(_ROWS * layer.depth, _LEAST) // samples)

    def add(self, data: np.ndarray, number: int) -> None:
        product, params = self.layer.product, self.layer.data
        pick = picked(product.count(data), self._wanted, number)
        rows = product.rows(data, pick)
        if params is not None:  # Padding is zero, which is exact.
            rows = params.dequantize(params.quantize(rows))
        parts = rows.reshape(len(rows), *self._sum.shape).transpose(1, 0, 2)
        self._square += parts.transpose(0, 2, 1) @ parts
        self._sum += parts.sum(1)
        self._count += len(rows)

    def moments(self, centered: bool) -> Matrix:
        mean = self._sum / max(self._count, 1)
        raw = self._square / max(self._count, 1)
        if not centered:
            return raw
        # Sums are float32's: what is left of a large mean is noise, and need not be positive.
        size = np.trace(raw, axis1=1, axis2=2)[:, None, None] / raw.shape[-1]
        floor = _NOISE * size * np.eye(raw.shape[-1])
        about: Matrix = raw - mean[:, :, None] * mean[:, None, :] + floor
        return about
