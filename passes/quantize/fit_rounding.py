"""Round weights so that what layers compute from rounded data changes least.

Before:                                  After:
    w = R.dequantize(int8 W, s, z, axis=0)   w = R.dequantize(int8 W', s', z, axis=0)
    lv = R.nn.conv2d(q, w)                   lv = R.nn.conv2d(q, w)

The float module is run on samples; each layer's data are rounded as the layer rounds them, and
their second moments C say what an error of the weights costs: tr((Q - W)' C (Q - W)). Scales that
cost least are searched for, channel by channel; then integers, row by row, each row making up for
the errors of those before, and at last one by one (`round_weights.py`).
C is taken about the mean where biases are corrected afterwards: they take up the mean anyway.
Weights of zero, which pruning leaves, stay zero.
Fires when: 1. a convolution (two dimensions, groups too) or a product by a matrix is computed on
               rounded data and a rounded weight; 2. samples are there.
Leaves alone: other layers, rounded to nearest; scales of whole weights (`per_channel=False`).
Must run after: calibrate-quantization. Must run before: restore-float, correct-bias, which measure
what is left.
Reference: Frantar et al., GPTQ: accurate post-training quantization for generative pre-trained
transformers, ICLR 2023; the objective is that of Nagel et al., Up or down? Adaptive rounding for
post-training quantization, ICML 2020, equation 13.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from tvm import IRModule, relax

from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_main
from relaxc.passes.prune.products import Matrix, Product, products_of
from relaxc.passes.prune.segments import Arrays, Run
from relaxc.passes.quantize.layer_errors import RoundedLayer, rounded_calls
from relaxc.passes.quantize.round_weights import Grid, round_compensated, search_grid
from relaxc.passes.quantize.second_moments import Layer, second_moments

# [rows, columns] of a weight as integers, and the scale of each column.
Fitted = tuple[Matrix, np.ndarray]
Named = dict[str, np.ndarray]
# Given all that shapes them (modules, samples, words) and what finds them: arrays, by name.
Once = Callable[[Sequence[IRModule], Sequence[Arrays], str, Callable[[], Named]], Named]

# Part of those words: to be raised whenever other integers are found for the same module and data.
_REVISION = 1


def at_once(
    _mods: Sequence[IRModule], _samples: Sequence[Arrays], _words: str, find: Callable[[], Named]
) -> Named:
    """Find arrays, and remember nothing."""
    return find()


@dataclass(frozen=True)
class FitRounding(Pass):
    """Round the weights of int8 layers by what their data are.

    Attributes:
        teacher: the float module; bindings have the names that they have in the other.
        run: compiles a module and runs it.
        samples: gives arguments of `main`; without any, nothing happens.
        centered: whether biases will be corrected.
        once: finds arrays, or knows them from an earlier compilation.
        known: what was found; serves again when a module is quantized anew.
    """

    teacher: Callable[[], IRModule]
    run: Run
    samples: Callable[[], Sequence[Arrays]]
    centered: bool = True
    once: Once = at_once
    known: dict[str, Fitted] = field(default_factory=dict, hash=False, compare=False)

    name: ClassVar[str] = "fit-rounding"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite `main`."""
        rounded = rounded_calls(mod)
        self._fit(mod, rounded)
        weights = {
            layer.call.args[1]: self.known[name]
            for name, layer in rounded.items()
            if name in self.known
        }
        if not weights:
            return mod

        def rewrite(block: relax.BindingBlock) -> Sequence[relax.Binding]:
            return [
                _refitted(binding, *weights[binding.var]) if binding.var in weights else binding
                for binding in block.bindings
            ]

        return rewrite_main(relax.BlockBuilder(mod), rewrite)

    def _fit(self, mod: IRModule, rounded: Mapping[str, RoundedLayer]) -> None:
        """Find the integers of layers that are not known yet."""
        missing = {name for name in rounded if name not in self.known}
        samples = self.samples() if missing else []
        if not samples:
            return
        teacher = self.teacher()
        layers = [
            Layer(product, rounded[name].data_params())
            for product in products_of(teacher, grouped=True)
            if (name := str(product.var.name)) in missing and rounded[name].is_per_channel
        ]

        def find() -> Named:
            found: Named = {}
            moments = second_moments(teacher, layers, self.run, samples, self.centered)
            for product, gram in moments:
                integers, scales = fitted(product, gram)
                place = names.index(str(product.var.name))
                found[f"{place}.integers"] = integers.astype(np.int8)
                found[f"{place}.scales"] = scales
            return found

        names = [str(layer.product.var.name) for layer in layers]
        words = f"{self.name} {_REVISION}, centered {self.centered}: {names}"
        found = self.once((teacher, mod), samples, words, find)
        for place, name in enumerate(names):
            self.known[name] = found[f"{place}.integers"], found[f"{place}.scales"]


def fitted(product: Product, moments: Matrix) -> Fitted:
    """Integers and scales.

    Args:
        product: with the float weight.
        moments: [groups, rows, rows] of the data.
    """
    weight = product.matrix()
    integers, scales = np.zeros_like(weight), np.zeros(weight.shape[1], np.float32)
    width = weight.shape[1] // len(moments)
    for number, gram in enumerate(moments):
        columns = slice(number * width, (number + 1) * width)
        part = weight[:, columns]
        grid = _positive(search_grid(part, np.diag(gram), len(part), 8, True))
        integers[:, columns] = round_compensated(part, gram, grid)
        scales[columns] = grid.scale[0]
    return np.where(weight == 0, 0.0, integers), scales


def _positive(grid: Grid) -> Grid:
    # Kernels clip accumulators where the real numbers are clipped. Integers are as many either way.
    return replace(grid, scale=np.abs(grid.scale))


def _refitted(binding: relax.Binding, integers: Matrix, scales: np.ndarray) -> relax.Binding:
    call = binding.value
    old, zeros = call.args[0].value.numpy(), call.args[2]
    # Convolutions have a row per output, products a column.
    whole = integers if int(call.attrs.axis) == 1 and old.ndim == 2 else integers.T
    new = np.ascontiguousarray(whole.reshape(old.shape).astype(old.dtype))
    args = [relax.const(new), relax.const(scales), zeros]
    value = relax.BlockBuilder().normalize(relax.Call(call.op, args, call.attrs))
    return relax.VarBinding(binding.var, value)
