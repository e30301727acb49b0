"""Run at compile time loop nests that read constants only.

Before:                                              After:
    lv = R.call_tir(positions, (const,), (16,))          lv1 = R.call_tir(resize, (x, const'), ...)
    lv1 = R.call_tir(resize, (x, lv), ...)

The importer writes loop nests for what Relax has no operator for: the positions and weights of
Resize depend on its scales, which are constants in most models.
Fires when: 1. all that a loop nest reads are constants;
            2. its result is one tensor of known shape, and small.
Leaves alone: loop nests that read nothing, and those that refuse what they read, as the run will.
Exact: it is the code that would run later, compiled for the machine that compiles.
Must run after: fold-constant, which is cheaper. Must run before: group-ops.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import tvm
from tvm import IRModule, relax, tirx
from tvm.ir import GenericConst, GlobalVar

from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_functions, substitute, with_value

_LARGEST_BYTES = 1 << 16
# Types of which NumPy and TVM have the same idea.
_BYTES = {"float32": 4, "float64": 8, "int32": 4, "int64": 8, "bool": 1}
Known = Mapping[relax.Var, relax.Expr]


@dataclass(frozen=True)
class FoldKernels(Pass):
    """Evaluate loop nests on constants."""

    name: ClassVar[str] = "fold-kernels"

    def apply(self, mod: IRModule) -> IRModule:
        """Fold in every function, until nothing is left to fold: each may read another's result."""
        while True:
            results = _evaluated(mod)
            if not results:
                return mod

            def fold(
                _builder: relax.BlockBuilder,
                block: relax.BindingBlock,
                results: dict[relax.Var, relax.Expr] = results,
            ) -> list[relax.Binding]:
                return [
                    with_value(binding, substitute(binding.value, results))
                    for binding in block.bindings
                    if binding.var not in results
                ]

            mod = rewrite_functions(mod, fold)


def _evaluated(mod: IRModule) -> dict[relax.Var, relax.Expr]:
    """Results of calls of loop nests on constants."""
    calls = {
        binding.var: binding.value
        for _, func in mod.functions_items()
        if isinstance(func, relax.Function)
        for block in func.body.blocks
        for binding in block.bindings
        if isinstance(binding.var, relax.DataflowVar)
        and isinstance(binding, relax.VarBinding)
        and _is_foldable(binding.value)
    }
    if not calls:
        return {}
    names = {call.args[0].name_hint for call in calls.values()}
    nests = {name: mod[name].with_attr("global_symbol", name) for name in names}
    library = tvm.compile(IRModule(nests), target="llvm")
    results = {var: _run(library[call.args[0].name_hint], call) for var, call in calls.items()}
    return {var: result for var, result in results.items() if result is not None}


def _is_foldable(value: relax.Expr) -> bool:
    if not (isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op)):
        return False
    if value.op.name != "relax.call_tir" or not isinstance(value.args[0], GlobalVar):
        return False
    read = value.args[1].fields
    # 1.
    if len(value.args) > 2 or not read or not all(isinstance(arg, GenericConst) for arg in read):
        return False
    # 2.
    shape = _shape(value.ty)
    if shape is None or any(str(t.dtype.dtype) not in _BYTES for t in _types(value)):
        return False
    return math.prod(shape) * _BYTES[str(value.ty.dtype.dtype)] <= _LARGEST_BYTES


def _types(call: relax.Call) -> list[Any]:
    return [call.ty, *(arg.ty for arg in call.args[1].fields)]


def _shape(ty: Any) -> tuple[int, ...] | None:
    if not isinstance(ty, relax.TensorType) or not isinstance(ty.shape, relax.ShapeExpr):
        return None
    dims: list[Any] = list(ty.shape.values)
    return tuple(map(int, dims)) if all(isinstance(d, tirx.IntImm) for d in dims) else None


def _run(nest: Any, call: relax.Call) -> relax.Expr | None:
    """The result; None where the loop nest refuses its inputs, which is for the run to say."""
    result = tvm.runtime.empty(_shape(call.ty), str(call.ty.dtype.dtype))
    try:
        nest(*(arg.value for arg in call.args[1].fields), result)
    except (IndexError, RuntimeError, ValueError):
        return None
    return relax.const(result.numpy(), str(call.ty.dtype.dtype))
