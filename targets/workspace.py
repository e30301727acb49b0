"""Memory of intermediate results that outlives a run: tensors over it become parameters of `main`.

Before:                                                After:
    main(x, w):                                            main(x, w, workspace_0):
        s = memory.alloc_storage([4096])                       f(x, w, workspace_0)
        t = memory.alloc_tensor(s, 0, [32, 32])
        f(x, w, t)

The virtual machine would allocate storage, make tensors and free both anew in every run, which
costs a small model a tenth of its time. The runtime makes them once per virtual machine, as the
attribute `workspace` of `main` says: sizes of storages, and where in them each tensor lies.

Only tensors of static shapes, and none that the caller may get to see: results outlive a run.

Must run after: plan-memory, which decides what shares storage.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import IRModule, relax, tirx

WORKSPACE = "workspace"
_ALLOC_STORAGE = "relax.memory.alloc_storage"
_ALLOC_TENSOR = "relax.memory.alloc_tensor"


@tvm.transform.module_pass(opt_level=0, name="persist-workspace")
def persist_workspace(mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
    """Make every intermediate tensor of `main` that can be one a parameter."""
    main = mod["main"]
    bindings = [binding for block in main.body.blocks for binding in block.bindings]
    kept = _returned(main, bindings)
    storages = _storages(bindings, kept)
    numbers = {var: number for number, var in enumerate(storages)}
    replaced: dict[Any, relax.Var] = {}
    tensors: list[tuple[int, int, list[int], str]] = []
    for binding in bindings:
        value = binding.value
        if _is_call(value, _ALLOC_TENSOR) and value.args[0] in storages:
            var = relax.Var(f"workspace_{len(replaced)}", binding.var.ty)
            replaced[binding.var] = var
            shape = [int(size) for size in value.args[2].values]
            tensors.append(
                (numbers[value.args[0]], int(value.args[1].value), shape, str(value.args[3].value))
            )
    if not replaced:
        return mod
    body = _Replacer(replaced, set(storages)).visit_expr(main.body)
    params = [*main.params, *replaced.values()]
    function = relax.Function(params, body, main.ret_ty, main.is_pure, main.attrs)
    out = mod.clone()
    out["main"] = function.with_attr(
        WORKSPACE, {"storages": list(storages.values()), "tensors": tensors}
    )
    return out


def workspace_of(mod: IRModule) -> dict[str, Any]:
    """What the runtime must provide, as it stands in a manifest."""
    held = mod["main"].attrs.get(WORKSPACE, {"storages": [], "tensors": []})
    return {
        "storages": [int(size) for size in held["storages"]],
        "tensors": [
            {
                "storage": int(storage),
                "offset": int(offset),
                "shape": [int(size) for size in shape],
                "dtype": str(dtype),
            }
            for storage, offset, shape, dtype in held["tensors"]
        ],
    }


def _storages(bindings: list[relax.Binding], kept: set[Any]) -> dict[Any, int]:
    """Storages and their sizes, of which only tensors that can be replaced are taken."""
    found = {
        binding.var: int(binding.value.args[0].values[0])
        for binding in bindings
        if _is_call(binding.value, _ALLOC_STORAGE) and _is_static(binding.value.args[0])
    }
    for binding in bindings:
        value = binding.value
        is_tensor = _is_call(value, _ALLOC_TENSOR) and _is_static(value.args[2])
        if is_tensor and binding.var not in kept:
            continue
        for var in relax.analysis.free_vars(value):
            found.pop(var, None)
    return found


def _returned(main: relax.Function, bindings: list[relax.Binding]) -> set[Any]:
    """Variables that a result may be, be part of, or be a view of."""
    seen = set(relax.analysis.free_vars(main.body.body))
    for binding in reversed(bindings):
        if binding.var in seen and not _is_call(binding.value, _ALLOC_TENSOR):
            seen.update(relax.analysis.free_vars(binding.value))
    return seen


def _is_call(value: relax.Expr, op: str) -> bool:
    return isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op) and value.op.name == op


def _is_static(shape: relax.Expr) -> bool:
    return isinstance(shape, relax.ShapeExpr) and all(
        isinstance(size, tirx.IntImm) for size in shape.values
    )


@relax.expr_functor.mutator
class _Replacer(relax.PyExprMutator):
    """Puts parameters in the place of tensors, and drops what made those."""

    def __init__(self, replaced: dict[Any, relax.Var], storages: set[Any]) -> None:
        super().__init__()
        self._replaced = replaced
        self._storages = storages

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        if binding.var not in self._replaced and binding.var not in self._storages:
            super().visit_var_binding_(binding)

    def visit_var_(self, var: relax.Var) -> relax.Expr:
        return self._replaced[var] if var in self._replaced else super().visit_var_(var)
