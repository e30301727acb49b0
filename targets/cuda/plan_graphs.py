"""Decide what is replayed as a CUDA graph.

Where all shapes are fixed and everything runs on the GPU, the runtime records a whole call, and
replays it. The compiled code does its part: memory of intermediate results is allocated once, by
the first call, and stays where it is.

Elsewhere launches of static shapes are recorded piece by piece, by TVM's virtual machine: those
that neither read inputs nor write outputs.
"""

from __future__ import annotations

import tvm
from tvm import IRModule, relax

# Attribute of `main`: a call does the same launches with the same addresses every time.
REPLAYABLE = "relaxc.replayable"
_PIECE = "vm.builtin.cuda_graph.run_or_capture"


@tvm.transform.module_pass(opt_level=0, name="plan-graphs")
def plan_graphs(mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
    """Let TVM keep memory and record pieces; undo the latter where the whole is recorded."""
    with tvm.transform.PassContext(config={"relax.backend.use_cuda_graph": True}):
        planned = relax.transform.RewriteCUDAGraph()(mod)
    main = planned["main"]
    if not _is_static(main) or _runs_on_host(main) or not _keeps_memory(main):
        return planned
    out = planned.clone()
    out["main"] = _Direct().visit_expr(main).with_attr(REPLAYABLE, True)
    return out


def _is_static(main: relax.Function) -> bool:
    return not relax.analysis.defined_symbolic_vars(main)


def _runs_on_host(main: relax.Function) -> bool:
    """Whether anything is called that is neither a kernel nor one of TVM's own."""
    found: list[str] = []

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Call) and isinstance(expr.op, relax.ExternFunc):
            found.append(str(expr.op.global_symbol))

    relax.analysis.post_order_visit(main, visit)
    return any(not name.startswith("vm.builtin.") for name in found)


def _keeps_memory(main: relax.Function) -> bool:
    """Whether a call allocates nothing but its results."""
    bindings = [b for block in main.body.blocks for b in block.bindings]
    results = {main.body.body}
    for binding in reversed(bindings):
        value = binding.value
        if binding.var not in results:
            continue
        if isinstance(value, relax.Tuple):
            results.update(value.fields)
        elif isinstance(value, relax.Var):
            results.add(value)
        elif _name(value) in ("relax.reshape", "relax.memory.view"):
            results.add(value.args[0])
    allocations = ("relax.memory.alloc_storage", "relax.builtin.alloc_tensor")
    return all(b.var in results for b in bindings if _name(b.value) in allocations)


def _name(value: relax.Expr) -> str:
    return str(getattr(value.op, "name", "")) if isinstance(value, relax.Call) else ""


@relax.expr_functor.mutator
class _Direct(relax.PyExprMutator):
    """Calls pieces where they would be recorded."""

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if _name(call) != "relax.call_builtin_with_ctx":
            return call
        name, arguments = call.args[0], call.args[1]
        if str(name.global_symbol) != _PIECE:
            return call
        piece, values = arguments.fields[0], arguments.fields[1]
        return relax.Call(piece, list(values.fields))
