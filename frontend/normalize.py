"""The invariants that passes may rely on after import.

1. One function `main`, whose parameters are the model's inputs and whose constants are weights.
2. Every pure stretch of it is a dataflow block, in A-normal form, without dead bindings.
3. Every binding carries the name of the ONNX node it came from; where one node became several
   bindings, the last is called `name` and the others `name.0`, `name.1` ...
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import tvm
from tvm import IRModule, relax

_ANONYMOUS = re.compile(r"(lv|gv)\d*")


def normalize(mod: IRModule, names: Mapping[relax.Var, str]) -> IRModule:
    """Establish the invariants.

    Args:
        mod: what the converters built.
        names: ONNX node names of variables that a converter bound without naming them.
    """
    mod = name_bindings(mod, names)
    mod = eliminate_dead_bindings(relax.transform.ConvertToDataflow(min_size=1)(mod))
    mod = tvm.transform.Sequential(
        [relax.transform.CanonicalizeBindings(), relax.transform.DeadCodeElimination()]
    )(mod)
    relax.analysis.well_formed(mod)
    return mod


def name_bindings(mod: IRModule, known: Mapping[relax.Var, str]) -> IRModule:
    """Name what converters left anonymous after the node that it belongs to."""
    func = mod["main"]
    bindings = [b for block in func.body.blocks for b in block.bindings]
    names: dict[relax.Var, str] = {}
    owner = ""
    position = 0
    for binding in reversed(bindings):
        if isinstance(binding.value, relax.Var) and not _ANONYMOUS.fullmatch(binding.value.name):
            # An output, which is another name for a node's result.
            names[binding.var] = binding.value.name
        elif not _ANONYMOUS.fullmatch(binding.var.name):
            owner, position = binding.var.name, 0
        elif binding.var in known:
            owner, position = known[binding.var], 0
            names[binding.var] = owner
        elif owner:
            names[binding.var] = f"{owner}.{position}"
            position += 1
    out = mod.clone()
    out["main"] = _Renamer(names).visit_expr(func)
    return out


def eliminate_dead_bindings(mod: IRModule) -> IRModule:
    """Drop what nobody reads from the dataflow blocks of `main`.

    TVM's pass does more, but takes time by the square of the number of dead bindings; a model that
    computes with its shapes has one or two of them per layer.
    """
    func = mod["main"]
    read = set(relax.analysis.free_vars(func.body.body))
    blocks = []
    for block in reversed(func.body.blocks):
        is_pure = isinstance(block, relax.DataflowBlock)
        kept = []
        for binding in reversed(block.bindings):
            # A match defines symbols besides its variable.
            if is_pure and isinstance(binding, relax.VarBinding) and binding.var not in read:
                continue
            read.update(relax.analysis.free_vars(binding.value))
            kept.append(binding)
        blocks.append(type(block)(kept[::-1]))
    body = relax.BlockBuilder().normalize(relax.SeqExpr(blocks[::-1], func.body.body))
    out = mod.clone()
    out["main"] = relax.Function(func.params, body, func.ret_ty, func.is_pure, func.attrs)
    return out


@relax.expr_functor.mutator
class _Renamer(relax.PyExprMutator):
    def __init__(self, names: dict[relax.Var, str]) -> None:
        super().__init__()
        self.names = names

    def visit_var_def_(self, var: relax.Var) -> relax.Var:
        return self._renamed(var, relax.Var)

    def visit_dataflow_var_def_(self, var: relax.DataflowVar) -> relax.Var:
        return self._renamed(var, relax.DataflowVar)

    def _renamed(self, var: relax.Var, kind: type) -> relax.Var:
        if var not in self.names:
            return var
        fresh = kind(self.names[var], var.ty)
        self.set_var_remap(var, fresh)
        return fresh
