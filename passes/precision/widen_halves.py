"""Compute what a model has in float16 or bfloat16 as float32, so that kernels recognize it.

Before:                                   After:
    lv = R.matmul(x, w)     # float16         x_1 = R.astype(x, "float32")
    lv1 = R.add(lv, b)                        lv = R.matmul(x_1, w)     # all of it float32
    gv = R.nn.relu(lv1)                       lv1 = R.add(lv, b)
                                              lv2 = R.nn.relu(lv1)
                                              gv = R.astype(lv2, "float16")

Exporters of half models put conversions between operators, each of which ends a group; and kernels
add up in float32 anyway. What is stored as float16 in memory is for choose-precision to say.

Leaves alone: operators whose result is no float32 then (a table of float16 that is looked up, say);
what they read is converted back.
Changes results by: fewer roundings, of 2**-11 (bfloat16: 2**-8) relative each.
Must run before: raise-activations and the grouping, which look for float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm import IRModule, relax
from tvm.ir import GenericConst

from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_main, substitute, with_value

_HALVES = ("float16", "bfloat16")


@dataclass(frozen=True)
class WidenHalves(Pass):
    """Rewrite `main`."""

    name: ClassVar[str] = "widen-halves"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite dataflow blocks that hold halves."""
        builder = relax.BlockBuilder(mod.clone())
        out = rewrite_main(builder, lambda block: _Widening(builder).rewrite(block))
        # Conversions that are gone leave two names for one value.
        out = relax.transform.CanonicalizeBindings()(out)
        return relax.transform.DeadCodeElimination()(out)


class _Widening:
    def __init__(self, builder: relax.BlockBuilder) -> None:
        self.builder = builder
        self.wide: dict[relax.Var, relax.Expr] = {}
        self.narrow: dict[relax.Var, relax.Var] = {}
        self.gone: set[relax.Var] = set()
        self.found: list[relax.Binding] = []

    def rewrite(self, block: relax.BindingBlock) -> list[relax.Binding]:
        if not isinstance(block, relax.DataflowBlock):
            return list(block.bindings)
        for binding in block.bindings:
            self._binding(binding)
        return self.found

    def _binding(self, binding: relax.Binding) -> None:
        value = binding.value
        if not isinstance(binding, relax.VarBinding) or not isinstance(value, relax.Call):
            self._keep(binding)
            return
        if str(getattr(value.op, "name", "")) == "relax.astype":
            self._cast(binding, value)
            return
        if not _is_half(binding.var) and not any(map(_has_half, value.args)):
            self._keep(binding)
            return
        call = self._widened(value)
        if call is None:
            self._keep(binding)
        elif not _is_half(binding.var):  # a comparison, say: the same of wider numbers
            self.found.append(relax.VarBinding(binding.var, call))
        else:
            self._finish(binding.var, self._emit(call, f"{binding.var.name}_wide"))

    def _cast(self, binding: relax.Binding, call: relax.Call) -> None:
        """Conversions between floats are other names for what they read."""
        source, dtype = call.args[0], str(binding.var.ty.dtype.dtype)
        if str(source.ty.dtype.dtype) not in (*_HALVES, "float32") or (
            dtype not in (*_HALVES, "float32")
        ):
            self._keep(binding)
            return
        wide = self._wide(source)
        if dtype == "float32":
            self.found.append(relax.VarBinding(binding.var, wide))
        else:
            self._finish(binding.var, wide)

    def _widened(self, call: relax.Call) -> relax.Call | None:
        """The call on float32, if it has such a result then."""
        op = str(getattr(call.op, "name", ""))
        if not isinstance(call.op, tvm.ir.Op) or op.startswith("relax.call_"):
            return None
        if op == "relax.take" and isinstance(call.args[0], GenericConst):
            return None  # the rows that are looked up are converted, not the table
        if not isinstance(call.ty, relax.TensorType):
            return None
        args = [self._wide_argument(arg) for arg in call.args]
        made = self.builder.normalize(relax.Call(call.op, args, call.attrs, call.ty_args))
        # Attributes may insist on a dtype.
        is_wide = str(made.ty.dtype.dtype) == "float32" if _is_half(call) else made.ty == call.ty
        return made if is_wide else None

    def _wide_argument(self, arg: relax.Expr) -> relax.Expr:
        if isinstance(arg, relax.Tuple):
            return relax.Tuple([self._wide_argument(field) for field in arg.fields])
        return self._wide(arg) if _is_half(arg) else arg

    def _wide(self, value: relax.Expr) -> relax.Expr:
        if not _is_half(value):
            return value
        if isinstance(value, GenericConst):
            return relax.const(value.value.numpy().astype("float32"), "float32")
        if value not in self.wide:
            self.wide[value] = self._emit(relax.op.astype(value, "float32"), f"{value.name}_wide")
        return self.wide[value]

    def _keep(self, binding: relax.Binding) -> None:
        """A binding as it is; halves that exist as float32 only are made for it."""
        value = binding.value
        halves = [v for v in relax.analysis.free_vars(value) if v in self.gone]
        for var in halves:
            if var not in self.narrow:
                cast = relax.op.astype(self.wide[var], str(var.ty.dtype.dtype))
                self.narrow[var] = self._emit(cast, f"{var.name}_half")
        if halves:
            value = substitute(value, {var: self.narrow[var] for var in halves})
            binding = with_value(binding, value)
        self.found.append(binding)

    def _finish(self, var: relax.Var, wide: relax.Expr) -> None:
        """A half that is float32 now; results of the block become what they were."""
        self.wide[var] = wide
        if isinstance(var, relax.DataflowVar):
            self.gone.add(var)
            return
        cast = self.builder.normalize(relax.op.astype(wide, str(var.ty.dtype.dtype)))
        self.found.append(relax.VarBinding(var, cast))

    def _emit(self, call: relax.Expr, name: str) -> relax.Var:
        call = self.builder.normalize(call)
        var = relax.DataflowVar(name, call.ty)
        self.found.append(relax.VarBinding(var, call))
        return var


def _is_half(expr: relax.Expr) -> bool:
    return isinstance(expr.ty, relax.TensorType) and str(expr.ty.dtype.dtype) in _HALVES


def _has_half(expr: relax.Expr) -> bool:
    return any(map(_has_half, expr.fields)) if isinstance(expr, relax.Tuple) else _is_half(expr)
