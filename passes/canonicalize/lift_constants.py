"""Turn constants into parameters of `main`, so that weights live in the artifact, not in code.

Before:                                     After:
    main(x):                                    main(x, weight_0):
        lv = call_tir(f, (x, const))                lv = call_tir(f, (x, weight_0))

Equal constants share one parameter. The arrays travel in the attribute `weights` of `main`, in
the order of the new parameters.

Must run after: fuse-tir, which inlines scalars into the code.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

from tvm import IRModule, relax
from tvm.ir import GenericConst
from tvm.runtime import Tensor

from relaxc.passes.base import Pass

WEIGHTS = "weights"


@dataclass(frozen=True)
class LiftConstants(Pass):
    """Make every tensor constant of `main` a parameter."""

    name: ClassVar[str] = "lift-constants"
    opt_level: ClassVar[int] = 0
    required: ClassVar[bool] = True

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite `main`."""
        main = mod["main"]
        lifter = _Lifter()
        body = lifter.visit_expr(main.body)
        params = [*main.params, *lifter.params]
        lifted = relax.Function(params, body, main.ret_ty, main.is_pure, main.attrs)
        old = list(main.attrs.get(WEIGHTS, ())) if main.attrs else []
        out = mod.clone()
        out["main"] = lifted.with_attr(WEIGHTS, [*old, *lifter.values])
        return out


@relax.expr_functor.mutator
class _Lifter(relax.PyExprMutator):
    def __init__(self) -> None:
        super().__init__()
        self.params: list[relax.Var] = []
        self.values: list[Tensor] = []
        self.seen: dict[tuple[str, tuple[int, ...], bytes], relax.Var] = {}

    def visit_generic_const_(self, const: GenericConst) -> relax.Expr:
        if not isinstance(const.value, Tensor):  # a dtype
            return const
        array = const.value.numpy()
        key = (str(const.value.dtype), array.shape, hashlib.sha256(array.tobytes()).digest())
        if key not in self.seen:
            var = relax.Var(f"weight_{len(self.params)}", const.ty)
            self.seen[key] = var
            self.params.append(var)
            self.values.append(const.value)
        return self.seen[key]
