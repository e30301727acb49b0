"""Put bindings behind the cast that defines the symbols they use.

Before:                                       After:
    lv = R.call_tir(f, (x, n))                    lv1 = R.call_tir(count, (y,))
    lv1 = R.call_tir(count, (y,))                 lv2 = R.match_cast(lv1, R.Shape([n]))
    lv2 = R.match_cast(lv1, R.Shape([n]))         lv = R.call_tir(f, (x, n))

A symbol that the model itself computes ties its uses to its definition, which TVM's fusion (0.27)
does not see: it orders bindings by the variables that they read.

Exact. Must run after: fuse-tir. Must run before: everything that lowers shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import tvm
from tvm import IRModule, relax, tirx

from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_main


@dataclass(frozen=True)
class OrderBindings(Pass):
    """Sort the bindings of every dataflow block by variables and symbols, stably."""

    name: ClassVar[str] = "order-bindings"
    opt_level: ClassVar[int] = 0
    required: ClassVar[bool] = True

    def apply(self, mod: IRModule) -> IRModule:
        """Reorder `main`, if it defines symbols at all."""
        blocks = mod["main"].body.blocks
        if not any(isinstance(b, relax.MatchCast) for block in blocks for b in block.bindings):
            return mod
        # A cast may mention them as well, but they are known from the start.
        given = {s for p in mod["main"].params for s in relax.analysis.tir_vars_in_type(p.ty)}
        return rewrite_main(relax.BlockBuilder(mod.clone()), lambda block: _sorted(block, given))


def _sorted(block: relax.BindingBlock, given: set[tirx.Var]) -> Sequence[relax.Binding]:
    if not isinstance(block, relax.DataflowBlock):
        return list(block.bindings)
    by_var = {binding.var: binding for binding in block.bindings}
    by_symbol: dict[tirx.Var, relax.Binding] = {}
    for binding in block.bindings:
        if isinstance(binding, relax.MatchCast):
            for symbol in relax.analysis.definable_tir_vars_in_type(binding.ty):
                if symbol in given:
                    continue
                by_symbol.setdefault(symbol, binding)
    done: set[relax.Var] = set()
    ordered: list[relax.Binding] = []

    def place(binding: relax.Binding) -> None:
        stack = [binding]
        while stack:
            top = stack[-1]
            missing = [
                b for b in _needed(top, by_var, by_symbol) if b.var not in done and b is not top
            ]
            if missing and not any(b in stack for b in missing):
                stack.extend(missing)
                continue
            stack.pop()
            if top.var not in done:
                done.add(top.var)
                ordered.append(top)

    for binding in block.bindings:
        place(binding)
    return ordered


def _needed(
    binding: relax.Binding,
    by_var: dict[relax.Var, relax.Binding],
    by_symbol: dict[tirx.Var, relax.Binding],
) -> list[relax.Binding]:
    """The bindings of the same block that must come first, in order of use."""
    found: list[relax.Binding] = []

    def symbols(expr: Any) -> None:
        found.extend(by_symbol[s] for s in tirx.analysis.undefined_vars(expr) if s in by_symbol)

    def visit(expr: Any) -> None:
        if tvm.ir.is_prim_expr(expr) and not isinstance(expr, relax.Call):
            symbols(expr)
        elif isinstance(expr, relax.Var):
            if expr in by_var:
                found.append(by_var[expr])
        elif isinstance(expr, relax.ShapeExpr):
            for value in expr.values:
                symbols(value)
        elif isinstance(expr, relax.Tuple):
            for field in expr.fields:
                visit(field)
        elif isinstance(expr, relax.TupleGetItem):
            visit(expr.tuple_value)
        elif isinstance(expr, relax.Call):
            for arg in expr.args:
                visit(arg)
            for ty in expr.ty_args:
                types(ty)

    def types(ty: Any) -> None:
        used = relax.analysis.tir_vars_in_type(ty)
        found.extend(by_symbol[s] for s in used if s in by_symbol)

    visit(binding.value)
    if not isinstance(binding, relax.MatchCast):
        types(binding.var.ty)
    return found
