"""Put the symbols that loop nests take as parameters into alphabetical order.

Before:                                       After:
    call_tir(f, (x, w, h))                        call_tir(f, (x, h, w))
    def f(x, w: int64, h: int64, y)               def f(x, h: int64, w: int64, y)

TVM's FuseTIR (0.27) collects them in a hash set of pointers, so that equal models would give
unequal code.

Must run after: fuse-tir.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tvm import IRModule, relax, tirx
from tvm.ir import GlobalVar, Op
from tvm.tirx.buffer import BufferType

from relaxc.passes.base import Pass


@dataclass(frozen=True)
class SortSymbols(Pass):
    """Sort the scalar parameters of every PrimFunc, and the arguments of its calls."""

    name: ClassVar[str] = "sort-symbols"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite every PrimFunc that takes several symbols, and `main`."""
        orders: dict[GlobalVar, list[int]] = {}
        out = mod.clone()
        for gvar, func in mod.functions_items():
            if isinstance(func, tirx.PrimFunc):
                order = _sorted_order(func)
                if order != sorted(order):
                    orders[gvar] = order
                    out[gvar] = _reordered(func, order)
        if orders:
            out["main"] = _CallSorter(orders).visit_expr(mod["main"])
        return out


def _sorted_order(func: tirx.PrimFunc) -> list[int]:
    """For every place, which parameter belongs there."""
    params = list(func.params)
    scalars = [i for i, p in enumerate(params) if not isinstance(p.ty, BufferType)]
    order = list(range(len(params)))
    for place, index in zip(scalars, sorted(scalars, key=lambda i: str(params[i].name))):
        order[place] = index
    return order


def _reordered(func: tirx.PrimFunc, order: list[int]) -> tirx.PrimFunc:
    params = [func.params[i] for i in order]
    return tirx.PrimFunc(params, func.body, func.ret_type, func.attrs, func.span)


@relax.expr_functor.mutator
class _CallSorter(relax.PyExprMutator):
    def __init__(self, orders: dict[GlobalVar, list[int]]) -> None:
        super().__init__()
        self.orders = orders

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        if call.op != Op.get("relax.call_tir") or call.args[0] not in self.orders:
            return call
        fields = list(call.args[1].fields)
        order = self.orders[call.args[0]][: len(fields)]
        sorted_args = relax.Tuple([fields[i] for i in order])
        args = [call.args[0], sorted_args, *call.args[2:]]
        return relax.Call(call.op, args, call.attrs, call.ty_args, call.span)
