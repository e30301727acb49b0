"""Rewriting a function block by block: what every pass over bindings has in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm import IRModule, relax
from tvm.ir import GlobalVar

BlockRewrite = Callable[[relax.BindingBlock], Sequence[relax.Binding]]


def rewrite_blocks(
    builder: relax.BlockBuilder, func: relax.Function, rewrite: BlockRewrite
) -> relax.Function:
    """The function with the bindings of each block replaced; its type and result stay."""
    blocks = [type(block)(list(rewrite(block))) for block in func.body.blocks]
    body = builder.normalize(relax.SeqExpr(blocks, func.body.body))
    return relax.Function(func.params, body, func.ret_ty, func.is_pure, func.attrs)


def rewrite_functions(
    mod: IRModule,
    rewrite: Callable[[relax.BlockBuilder, relax.BindingBlock], Sequence[relax.Binding]],
) -> IRModule:
    """A module with the blocks of every Relax function rewritten; `mod` stays as it is.

    Args:
        mod: the module.
        rewrite: gives the bindings of a block, normalized by the builder.
    """
    builder = relax.BlockBuilder(mod.clone())
    for gvar, func in mod.functions_items():
        if isinstance(func, relax.Function):
            changed = rewrite_blocks(builder, func, lambda block: rewrite(builder, block))
            builder.update_func(gvar, changed)
    return builder.get()


def rewrite_main(builder: relax.BlockBuilder, rewrite: BlockRewrite) -> IRModule:
    """The builder's module with the blocks of `main` rewritten."""
    gvar = builder.get().get_global_var("main")
    func = rewrite_blocks(builder, builder.get()[gvar], rewrite)
    builder.update_func(gvar, func)
    return builder.get()


def add_private(builder: relax.BlockBuilder, func: relax.Function, name: str) -> GlobalVar:
    """Add a function that is called once, under a name like the one given.

    `BlockBuilder.add_func` looks for an equal function first, and compares with every one that
    differs in the numbers of its constants only: in a large model, with all layers of a kind.
    """
    mod = builder.get()
    unique = str(builder.get_unique_name(name))
    while _has(mod, unique):
        unique = str(builder.get_unique_name(name))
    del mod  # else the builder would copy the module for the update
    gvar = GlobalVar(unique)
    relax.expr._update_type(gvar, func.ty)
    builder.update_func(gvar, func)
    return gvar


def _has(mod: IRModule, name: str) -> bool:
    try:
        mod.get_global_var(name)
    except ValueError:
        return False
    return True


def with_value(binding: relax.Binding, value: relax.Expr) -> relax.Binding:
    """The binding of another value; a cast stays one, because it may define symbols."""
    if isinstance(binding, relax.MatchCast):
        return relax.MatchCast(binding.var, value, binding.ty)
    return relax.VarBinding(binding.var, value)


def substitute(expr: relax.Expr, values: Mapping[Any, relax.Expr]) -> relax.Expr:
    """An expression that reads other things in the place of some variables."""
    return _Substitution(values).visit_expr(expr)


@relax.expr_functor.mutator
class _Substitution(relax.PyExprMutator):
    def __init__(self, values: Mapping[Any, relax.Expr]) -> None:
        super().__init__()
        self.values = values

    def visit_var_(self, var: relax.Var) -> relax.Expr:
        return self.values.get(var, var)

    def visit_dataflow_var_(self, var: relax.DataflowVar) -> relax.Expr:
        return self.values.get(var, var)
