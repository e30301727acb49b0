"""How much memory a module takes."""

from __future__ import annotations

from tvm import IRModule, relax
from tvm.ir import GenericConst

from relaxc.passes.analysis.cost import size_bytes


def weight_bytes(mod: IRModule) -> int:
    """Return the bytes of all constants of `main`, each counted once."""
    sizes: dict[GenericConst, int] = {}

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, GenericConst):
            sizes[expr] = size_bytes(expr)

    relax.analysis.post_order_visit(mod["main"], visit)
    return sum(sizes.values())


def live_bytes(mod: IRModule) -> list[tuple[str, int]]:
    """Return, per operator of `main`, its name and the bytes of intermediate results alive then.

    Symbolic dimensions count as 1. Fusion and memory planning only lower the numbers.
    """
    bindings = [b for block in mod["main"].body.blocks for b in block.bindings]
    last_use: dict[relax.Var, int] = {}
    for index, binding in enumerate(bindings):
        for var in relax.analysis.free_vars(binding.value):
            last_use[var] = index
    for var in relax.analysis.free_vars(mod["main"].body.body):
        last_use[var] = len(bindings)
    timeline: list[tuple[str, int]] = []
    alive = 0
    dying: dict[int, int] = {}
    for index, binding in enumerate(bindings):
        size = size_bytes(binding.var)
        alive += size
        timeline.append((binding.var.name, alive))
        end = last_use.get(binding.var, index)
        dying[end] = dying.get(end, 0) + size
        alive -= dying.pop(index, 0)
    return timeline


def peak_activation_bytes(mod: IRModule) -> int:
    """Return the most bytes of intermediate results alive at once, operator by operator."""
    return max((size for _name, size in live_bytes(mod)), default=0)
