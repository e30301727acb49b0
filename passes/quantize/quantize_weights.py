"""Make the weights of matrix products integers, or floats of eight bits; arithmetic is float32.

Before:                                  After:
    lv = R.matmul(x, w)                      d = R.dequantize(integers, scale, zero, axis=0)
                                             r = R.reshape(d, (columns, depth))
                                             p = R.permute_dims(r)
                                             lv = R.matmul(x, p)

Rounds to nearest, with a scale per column, or per column and group of rows. Symmetric: zero points
are 0 of int8, integers lie in [-127, 127] or [-8, 7]: with four bits the element that is largest in
magnitude becomes -8, so that none of the sixteen values is wasted. With float8 (e4m3fn) it becomes
448 or -448, the largest number.
With samples: scales are searched for, integers make up for each other's errors, and every product
gets the weights that bring the float model's result out of what the rounded layers before it
give (`round_weights.py`, `prune/reconstruct.py`); four bits have zero points then, of uint8,
and the last of four or more products keeps eight.
Fires when: 1. the right side is a constant float32 matrix;
            2. its rows fill whole groups;
            3. it is not excluded.
Leaves alone: convolutions, products of two activations.
Must run before: group-ops, which takes the chain into the product's group.
Reference: Dettmers and Zettlemoyer, The case for 4-bit precision, 2023 (why groups).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import IRModule, relax
from tvm.ir import GenericConst

from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_main
from relaxc.passes.fuse.outline import operator_call
from relaxc.passes.prune.products import Matrix, Product
from relaxc.passes.prune.reconstruct import reconstruct
from relaxc.passes.prune.segments import Arrays, Run, bindings_of, with_new_variables
from relaxc.passes.quantize.exclusion import Exclusion, node_of, without_float_nodes
from relaxc.passes.quantize.round_weights import (
    Grid,
    float_grid,
    round_compensated,
    search_grid,
)
from relaxc.passes.quantize.weight_kinds import FLOAT8, WeightKind, round_groups

# Elements with a row per column and group, and the scale and zero point of each row.
Stored = tuple[np.ndarray, np.ndarray, np.ndarray]

# Of so many products, the last one has eight bits if it is fitted.
_MANY = 4


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Round the weights of products.

    Attributes:
        kind: of what weights become.
        group: rows that share a scale; None: a whole column does.
        exclude: nodes that stay float: names, or regular expressions that match whole names.
        run: compiles a module and runs it; None rounds to nearest.
        samples: gives arguments of `main`; none round to nearest.
        progress: told how far the work is.
        keep: told the float module, with which later passes compare.
    """

    kind: WeightKind = "int8"
    group: int | None = None
    exclude: tuple[str, ...] = ()
    run: Run | None = None
    samples: Callable[[], list[Arrays]] = list
    progress: Callable[[str], None] = lambda _text: None
    keep: Callable[[IRModule], None] = lambda _mod: None

    name: ClassVar[str] = "quantize-weights"
    required: ClassVar[bool] = True

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite `main`.

        Raises:
            OptionError: what is excluded matches no node.
        """
        Exclusion.of(mod, self.exclude).check(mod)
        self.keep(mod)
        names = self.variables(mod)
        mod, found = self._fitted(without_float_nodes(mod), names)
        builder = relax.BlockBuilder(mod)

        def rewrite(block: relax.BindingBlock) -> Sequence[relax.Binding]:
            result: list[relax.Binding] = []
            for binding in block.bindings:
                name = str(binding.var.name)
                if name in names:
                    stored = found.get(name) or self._nearest(binding)
                    result.extend(_quantized(builder, binding, stored))
                else:
                    result.append(binding)
            return result

        return rewrite_main(builder, rewrite)

    def nodes(self, mod: IRModule) -> list[str]:
        """Nodes whose weights are rounded."""
        return [node_of(binding) for binding in self._rounded(mod)]

    def variables(self, mod: IRModule) -> frozenset[str]:
        """Names of the variables that they bind."""
        return frozenset(str(binding.var.name) for binding in self._rounded(mod))

    def _rounded(self, mod: IRModule) -> list[relax.Binding]:
        exclusion, blocks = Exclusion.of(mod, self.exclude), mod["main"].body.blocks
        return [
            binding
            for block in blocks
            if isinstance(block, relax.DataflowBlock)
            for binding in block.bindings
            if self._applies(binding) and not exclusion.has(node_of(binding))
        ]

    def _fitted(self, mod: IRModule, names: frozenset[str]) -> tuple[IRModule, dict[str, Stored]]:
        """By the samples, in the order of the module: with biases that fit, and the integers."""
        found: dict[str, Stored] = {}
        samples = self.samples() if names and self.run is not None else []
        if not samples:
            return mod, found
        assert self.run is not None

        order = [name for b in bindings_of(mod) if (name := str(b.var.name)) in names]
        # What it gets wrong, nobody makes up for.
        exact = order[-1] if len(order) >= _MANY else None

        def settle(product: Product, weight: Matrix, gram: Matrix) -> Matrix:
            group = self.group or len(weight)
            if self.kind == "float8":
                grid = float_grid(weight, group)
            else:
                bits = 4 if self.kind == "int4" and str(product.var.name) != exact else 8
                grid = search_grid(weight, np.diag(gram), group, bits, bits == 8)
            integers = round_compensated(weight, gram, grid)
            found[str(product.var.name)] = _stored(integers, grid)
            return integers * grid.at(slice(None))[0]

        small = with_new_variables(mod)
        rounded = reconstruct(mod, small, names, None, self.run, samples, self.progress, settle)
        return rounded, found

    def _applies(self, binding: relax.Binding) -> bool:
        call = operator_call(binding)
        if call is None or call.op.name != "relax.matmul":
            return False
        data, weight = call.args
        if isinstance(data, GenericConst) or not isinstance(weight, GenericConst):  # 1.
            return False
        if weight.ty.ndim != 2 or str(weight.ty.dtype.dtype) != "float32":
            return False
        return int(weight.ty.shape.values[0]) % (self.group or 1) == 0  # 2.

    def _nearest(self, binding: relax.Binding) -> Stored:
        weight = binding.value.args[1].value.numpy()
        rows = np.ascontiguousarray(weight.T).reshape(-1, self.group or len(weight))
        integers, scale = round_groups(rows, self.kind)
        return integers, scale, np.zeros(scale.shape, np.int8)


def _stored(integers: Matrix, grid: Grid) -> Stored:
    """Integers less their zero points, as they are stored: a row per column and group."""
    scale, zero = (np.ascontiguousarray(array.T).reshape(-1) for array in (grid.scale, grid.zero))
    rows = np.ascontiguousarray(integers.T).reshape(-1, grid.group) + zero[:, None]
    if grid.is_float:
        return rows.astype(FLOAT8), scale.astype(np.float32), zero.astype(np.int8)
    dtype = np.int8 if grid.low else np.uint8
    return rows.astype(dtype), scale.astype(np.float32), zero.astype(dtype)


def _quantized(
    builder: relax.BlockBuilder, binding: relax.Binding, stored: Stored
) -> list[relax.Binding]:
    call, name = binding.value, binding.var.name
    depth, columns = (int(n) for n in call.args[1].ty.shape.values)
    result: list[relax.Binding] = []

    def emit(value: relax.Expr, suffix: str) -> relax.Var:
        value = builder.normalize(value)
        result.append(relax.VarBinding(relax.DataflowVar(f"{name}.{suffix}", value.ty), value))
        return result[-1].var

    constants = [relax.const(array, array.dtype.name) for array in stored]
    real = emit(relax.op.dequantize(*constants, axis=0), "weight")
    whole = emit(relax.op.reshape(real, (columns, depth)), "rows")
    moved = emit(relax.op.permute_dims(whole), "moved")
    product = relax.Call(call.op, [call.args[0], moved], call.attrs, call.ty_args, call.span)
    return [*result, relax.VarBinding(binding.var, builder.normalize(product))]
