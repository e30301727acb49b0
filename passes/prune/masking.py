"""Channels that can be switched off while a model runs.

Before:                                          After:
    def main(x):                                     def main(x, mask: Tensor((1, 4, 1, 1))):
        lv = R.nn.conv2d(x, w[4, 3, 1, 1])               lv = R.nn.conv2d(x, w[4, 3, 1, 1])
        gv = R.nn.conv2d(lv, v[5, 4, 1, 1])              lv1 = R.multiply(lv, mask)
                                                         gv = R.nn.conv2d(lv1, v[5, 4, 1, 1])

Whatever a weight sums over is multiplied by zeros and ones first. Zeros do what removal does:
nobody reads the channel. So one compiled module answers for every choice of channels.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tvm import IRModule, relax

from relaxc.errors import OptionError
from relaxc.passes.prune.dependency import Dependencies
from relaxc.passes.prune.operands import tensor_operands, with_operands


@dataclass(frozen=True)
class Masked:
    """A module whose `main` takes masks after its own parameters and gives a tuple.

    Attributes:
        mod: the module.
        axes: the channels behind the numbers of each mask.
        shapes: of the masks.
    """

    mod: IRModule
    axes: tuple[npt.NDArray[np.int64], ...]
    shapes: tuple[tuple[int, ...], ...]

    def masks(self, removed: Collection[int]) -> list[np.ndarray]:
        """What to run it with so that some channels are gone."""
        gone = np.fromiter(removed, np.int64, len(removed))
        return [
            (~np.isin(axis, gone)).astype(np.float32).reshape(shape)
            for axis, shape in zip(self.axes, self.shapes)
        ]


def mask_channels(mod: IRModule, found: Dependencies) -> Masked:
    """Multiply whatever reads removable channels by masks.

    Raises:
        OptionError: the module has branches or loops.
    """
    main = mod["main"]
    if not all(isinstance(block, relax.DataflowBlock) for block in main.body.blocks):
        raise OptionError("sensitivity and `fisher` are for models without branches and loops")
    work = _Masking(found)
    blocks = [
        relax.DataflowBlock([new for b in block.bindings for new in work.bindings(b)])
        for block in main.body.blocks
    ]
    result = main.body.body
    if not isinstance(result.ty, relax.TupleType):
        result = relax.Tuple([result])
    body = relax.BlockBuilder().normalize(relax.SeqExpr(blocks, result))
    out = mod.clone()
    out["main"] = relax.Function(
        [*main.params, *work.params], body, body.ty, main.is_pure, main.attrs
    )
    return Masked(out, tuple(work.axes), tuple(work.shapes))


class _Masking:
    def __init__(self, found: Dependencies) -> None:
        self.params: list[relax.Var] = []
        self.axes: list[npt.NDArray[np.int64]] = []
        self.shapes: list[tuple[int, ...]] = []
        self._found = found
        self._read: dict[relax.Var, list[tuple[int, int]]] = {}
        for (var, operand), axis in found.contractions:
            self._read.setdefault(var, []).append((operand, axis))
        self._done: dict[tuple[relax.Var, int, bytes], relax.Var] = {}
        self._builder = relax.BlockBuilder()

    def bindings(self, binding: relax.Binding) -> list[relax.Binding]:
        """The binding, after those of masks that it is the first to need."""
        call = binding.value
        before: list[relax.Binding] = []
        for weight, axis in self._read.get(binding.var, []):
            channels = self._found.weights[binding.var, weight][axis]
            if channels is None:
                continue
            operands = tensor_operands(call)
            # The state of a recurrence is inside: zeros are in the weights that read it.
            is_inside = call.op.name == "relax.call_tir"
            target = weight if is_inside else 1 - weight
            data = operands[target]
            key = (data, weight, channels.tobytes())
            if key not in self._done:
                position = axis if is_inside else _position(call, weight)
                before.append(self._masked(data, position, channels))
                self._done[key] = before[-1].var
            operands[target] = self._done[key]
            call = relax.Call(call.op, with_operands(call, operands), call.attrs, call.ty_args)
        if call is binding.value:
            return [binding]
        return [*before, relax.VarBinding(binding.var, self._builder.normalize(call))]

    def _masked(
        self, data: relax.Expr, position: int, channels: npt.NDArray[np.int64]
    ) -> relax.Binding:
        shape = [1] * data.ty.ndim
        shape[position] = len(channels)
        dtype = str(data.ty.dtype.dtype)
        mask = relax.Var(f"mask{len(self.params)}", relax.TensorType(shape, "float32"))
        self.params.append(mask)
        self.axes.append(channels)
        self.shapes.append(tuple(shape))
        factor = mask if dtype == "float32" else relax.op.astype(mask, dtype)
        value = self._builder.normalize(relax.op.multiply(data, self._builder.normalize(factor)))
        name = data.name if isinstance(data, relax.Var) else mask.name
        return relax.VarBinding(relax.DataflowVar(f"{name}.masked", value.ty), value)


def _position(call: relax.Call, weight: int) -> int:
    """The axis of the data that the weight sums over."""
    if str(call.op.name) != "relax.matmul":
        return 1
    left, right = (operand.ty.ndim for operand in tensor_operands(call))
    return int(left - 1 if weight == 1 else right - 2)
