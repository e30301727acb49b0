"""Enlarge the rows of weights that are multiplied by much, and divide the data, before rounding.

Before:                                  After:
    lv = R.nn.rms_norm(x, g)                 lv = R.nn.rms_norm(x, g / s)
    gv = R.matmul(lv, w)                     gv = R.matmul(lv, w * s)
where s[j] = E|x[j]|^a, a number per row j of the weight.

A group of weights shares a scale. Rows that are enlarged lose less to rounding, the others of the
group more: worth it where their data are large. The exponent a is searched for, value by value:
what rounding the weights of all that read the value costs is tr((Q - W)' C (Q - W)), with the
second moments C of the value on samples.
Fires when: 1. all that read a value are products with weights that will be rounded;
            2. the division costs nothing: a norm takes it, or a product, or a factor of one;
            3. it takes away a twentieth of the error or more.
Leaves alone: everything where there are no samples.
Exact but for rounding of float32.
Must run after: canonicalization. Must run before: quantize-weights.
Reference: Lin et al., AWQ: activation-aware weight quantization for LLM compression and
acceleration, MLSys 2024, section 3.2. There the error is measured on samples; moments say as much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import IRModule, relax

from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_main
from relaxc.passes.fuse.outline import BindingGraph
from relaxc.passes.prune.products import Matrix, Product, products_of
from relaxc.passes.prune.segments import Arrays, Run, common_shapes, of_shapes
from relaxc.passes.quantize.rescale import Edits, applied, divided, multiplied
from relaxc.passes.quantize.second_moments import Layer, second_moments
from relaxc.passes.quantize.weight_kinds import WeightKind, round_groups

_EXPONENTS = np.linspace(0, 1, 21)[1:]
_WORTH = 0.95


@dataclass(frozen=True)
class ScaleRows(Pass):
    """AWQ's search for scales.

    Attributes:
        names: of the products whose weights will be rounded, given the module.
        kind: of what weights become.
        group: rows that share a scale; None: a whole column does.
        run: compiles a module and runs it.
        samples: gives arguments of `main`; without any, nothing happens.
    """

    names: Callable[[IRModule], frozenset[str]]
    kind: WeightKind
    group: int | None
    run: Run
    samples: Callable[[], list[Arrays]]

    name: ClassVar[str] = "scale-rows"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite the constants of `main`."""
        names = self.names(mod)
        samples = self.samples() if names else []
        if not samples:
            return mod
        sizes = common_shapes(mod, samples)
        alike = of_shapes(mod, sizes, samples)
        fixed = relax.transform.BindSymbolicVars(sizes, "main")(mod) if sizes else mod
        layers: dict[str, Layer] = {}
        for product in products_of(fixed):
            if str(product.var.name) in names:
                layers.setdefault(str(product.data.name), Layer(product, None))
        found = second_moments(fixed, list(layers.values()), self.run, alike, centered=False)
        moments = {str(product.data.name): gram[0] for product, gram in found}

        def scale(block: relax.BindingBlock) -> Sequence[relax.Binding]:
            if not isinstance(block, relax.DataflowBlock):
                return list(block.bindings)
            return self._scaled(list(block.bindings), names, moments)

        return rewrite_main(relax.BlockBuilder(mod), scale)

    def _scaled(
        self, bindings: list[relax.Binding], names: frozenset[str], moments: dict[str, Matrix]
    ) -> list[relax.Binding]:
        graph = BindingGraph(bindings)
        edits: Edits = {}
        for index, binding in enumerate(bindings):
            readers = [bindings[user] for user in dict.fromkeys(graph.users[index])]
            known = moments.get(str(binding.var.name))
            if known is None or any(str(b.var.name) not in names for b in readers):  # 1.
                continue
            calls = [edits.get(b.var, b.value) for b in readers]
            weights = [Product(b.var, call, 1).matrix() for b, call in zip(readers, calls)]
            scales, share = best_exponent(weights, known, self.group, self.kind)
            axis = binding.var.ty.ndim - 1
            if share > _WORTH or not divided(graph, binding.var, axis, scales, edits):  # 3. 2.
                continue
            for reader, call in zip(readers, calls):
                edits[reader.var] = multiplied(call, scales)
        return applied(bindings, edits)


def best_exponent(
    weights: Sequence[Matrix], moments: Matrix, group: int | None, kind: WeightKind
) -> tuple[Matrix, float]:
    """What rows are multiplied by, and the share of the error that is left.

    Args:
        weights: [rows, columns], all of the same data.
        moments: [rows, rows] of the data.
        group: rows that share a scale.
        kind: of what weights become.
    """
    weight = np.concatenate(weights, axis=1)
    size = np.sqrt(np.maximum(np.diag(moments), 0))
    size = np.maximum(size, 1e-4 * max(float(size.max()), 1e-30))
    best, before = np.ones(len(size)), _error(weight, moments, np.ones(len(size)), group, kind)
    least = before
    for exponent in _EXPONENTS:
        scales = size**exponent
        scales /= np.sqrt(scales.max() * scales.min())
        error = _error(weight, moments, scales, group, kind)
        if error < least:
            best, least = scales, error
    return best, least / before if before > 0 else 1.0


def _error(
    weight: Matrix, moments: Matrix, scales: Matrix, group: int | None, kind: WeightKind
) -> float:
    scaled = (weight * scales[:, None]).astype(np.float32)
    rows = np.ascontiguousarray(scaled.T).reshape(-1, group or len(weight))
    integers, scale = round_groups(rows, kind)
    rounded = (integers.astype(np.float32) * scale[:, None]).reshape(scaled.T.shape).T / scales[
        :, None
    ]
    change = rounded - weight
    return float((change * (moments @ change)).sum())
