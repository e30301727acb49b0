"""Group PrimFuncs that can share one loop nest, and keep their names.

TVM's FuseOps decides the groups (dominator-based, Halide's classes of operators) but names its
results `lv`, `lv1` ... Here each result is called after the last operator of its group, as it was
before, so that per-layer reports speak of ONNX nodes.

Must run after: annotate-patterns. Must run before: fuse-tir.
Reference: Chen et al., TVM: An Automated End-to-End Optimizing Compiler, OSDI 2018, section 3.1.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from tvm import IRModule, ir, relax

from relaxc.passes.base import Pass
from relaxc.passes.fuse.match_group import GroupMatcher


@dataclass(frozen=True)
class FuseOps(Pass):
    """Group the calls of `main`."""

    name: ClassVar[str] = "fuse-ops"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        """Fuse, then name."""
        marked = mod.clone()
        marked["main"] = _SpanMarker().visit_expr(mod["main"])
        fused = relax.transform.FuseOps()(marked)
        out = fused.clone()
        out["main"] = _Namer(marked, fused).visit_expr(fused["main"])
        return out


@relax.expr_functor.mutator
class _SpanMarker(relax.PyExprMutator):
    """Write each binding's name into the span of its value, which FuseOps carries along."""

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        value = binding.value
        if isinstance(value, relax.Call):
            span = ir.Span(ir.SourceName(binding.var.name), 0, 0, 0, 0)
            value = relax.Call(value.op, value.args, value.attrs, value.ty_args, span)
        super().visit_var_binding_(relax.VarBinding(binding.var, value))


@relax.expr_functor.mutator
class _Namer(relax.PyExprMutator):
    """Name the result of every call to a group after the group's last operator."""

    def __init__(self, marked: IRModule, fused: IRModule) -> None:
        super().__init__()
        self.names: dict[relax.Var, str] = {}
        matcher = GroupMatcher(marked)
        bindings = [b for block in fused["main"].body.blocks for b in block.bindings]
        calls = Counter(_callee(fused, b) for b in bindings)
        for binding in bindings:
            group = _callee(fused, binding)
            if calls[group] > 1 and group is not None:
                # The body of a shared function bears the names of one group only.
                arguments = [self._name_of(arg) for arg in binding.value.args]
                found = matcher.find(fused[group], arguments)
                name = None if found is None else str(found.name)
            else:
                name = _source(fused, binding.value) if hasattr(binding, "value") else None
            if name is not None:
                self.names[binding.var] = name

    def _name_of(self, arg: relax.Expr) -> str | None:
        return self.names.get(arg, str(arg.name)) if isinstance(arg, relax.Var) else None

    def visit_var_def_(self, var: relax.Var) -> relax.Var:
        return self._renamed(var, relax.Var)

    def visit_dataflow_var_def_(self, var: relax.DataflowVar) -> relax.Var:
        return self._renamed(var, relax.DataflowVar)

    def _renamed(self, var: relax.Var, kind: type[relax.Var]) -> relax.Var:
        name = self.names.get(var, var.name)
        if name == var.name:
            return var
        fresh = kind(name, var.ty)
        self.set_var_remap(var, fresh)
        return fresh


def _callee(mod: IRModule, binding: relax.Binding) -> ir.GlobalVar | None:
    """The group that a binding calls, if it does."""
    value = getattr(binding, "value", None)
    if not isinstance(value, relax.Call) or not isinstance(value.op, ir.GlobalVar):
        return None
    return value.op if isinstance(mod[value.op], relax.Function) else None


def _source(mod: IRModule, value: relax.Expr) -> str | None:
    if not isinstance(value, relax.Call):
        return None
    if isinstance(value.op, ir.GlobalVar) and isinstance(mod[value.op], relax.Function):
        value = mod[value.op].body.blocks[-1].bindings[-1].value
    span = getattr(value, "span", None)
    return None if span is None else str(span.source_name.name)
