"""Rewriting a function block by block: what every pass over bindings has in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import IRModule, relax

BlockRewrite = Callable[[relax.BindingBlock], Sequence[relax.Binding]]


def rewrite_blocks(
    builder: relax.BlockBuilder, func: relax.Function, rewrite: BlockRewrite
) -> relax.Function:
    """The function with the bindings of each block replaced; its type and result stay."""
    blocks = [type(block)(list(rewrite(block))) for block in func.body.blocks]
    body = builder.normalize(relax.SeqExpr(blocks, func.body.body))
    return relax.Function(func.params, body, func.ret_ty, func.is_pure, func.attrs)


def rewrite_main(builder: relax.BlockBuilder, rewrite: BlockRewrite) -> IRModule:
    """The builder's module with the blocks of `main` rewritten."""
    gvar = builder.get().get_global_var("main")
    func = rewrite_blocks(builder, builder.get()[gvar], rewrite)
    builder.update_func(gvar, func)
    return builder.get()
