"""How often each binding of a function is read."""

from __future__ import annotations

from collections import Counter

from tvm import relax


def use_counts(func: relax.Function) -> dict[relax.Expr, int]:
    """Return, for every bound variable and for the expression bound to it, the number of uses."""
    counter: Counter[relax.Expr] = Counter()
    bound: dict[relax.Expr, relax.Expr] = {}

    @relax.expr_functor.visitor
    class _Uses(relax.PyExprVisitor):
        def visit_var_binding_(self, binding: relax.VarBinding) -> None:
            bound[binding.var] = binding.value
            self.visit_expr(binding.value)

        def visit_var_(self, var: relax.Var) -> None:
            counter[var] += 1

        def visit_dataflow_var_(self, var: relax.Var) -> None:
            counter[var] += 1

    _Uses().visit_expr(func.body)
    counts: dict[relax.Expr, int] = dict(counter)
    for var, value in bound.items():
        counts[value] = counter[var]
    return counts
