"""A copy of an annotated module that shows every marked activation to an observer.

Before:                                  After:
    q = marker(x, "activation", 0)           seen = R.call_dps_packed("relaxc.observe", (x, 0))
    lv = R.nn.conv2d(q, q1)                  lv = R.nn.conv2d(x, w)
    return lv                                return (lv, seen)

`seen` holds nothing: that it is a result keeps the call alive.
"""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import IRModule, relax

from relaxc.passes.blocks import rewrite_blocks
from relaxc.passes.quantize.marker import read_marker

OBSERVE = "relaxc.observe"
_CALL = tvm.ir.Op.get("relax.call_dps_packed")
_SEEN = relax.TensorType((1,), "int32")


def instrument(mod: IRModule) -> IRModule:
    """Replace markers by what they mark, and observe the activations.

    Returns:
        A module whose `main` gives a tuple: the results, then one int32 tensor per observation.
    """
    observations: list[relax.Var] = []
    replaced: dict[relax.Var, relax.Expr] = {}

    def observe(block: relax.BindingBlock) -> Sequence[relax.Binding]:
        result: list[relax.Binding] = []
        for binding in block.bindings:
            marker = read_marker(binding)
            if marker is None:
                result.append(binding)
                continue
            replaced[binding.var] = marker.value
            if marker.kind == "activation":
                seen = relax.Var(f"seen{len(observations)}", _SEEN)
                args = relax.Tuple([marker.value, tvm.tirx.IntImm("int64", marker.number)])
                call = relax.op.call_dps_packed(OBSERVE, args, out_ty=_SEEN)
                result.append(relax.VarBinding(seen, call))
                observations.append(seen)
        return result

    builder = relax.BlockBuilder(mod)
    main = rewrite_blocks(builder, mod["main"], observe)
    main = _Substitution(replaced).visit_expr(main)
    result = main.body.body
    tuple_type = isinstance(result.ty, relax.TupleType)
    count = len(result.ty.fields) if tuple_type else 1
    results = [relax.TupleGetItem(result, i) for i in range(count)] if tuple_type else [result]
    body = relax.SeqExpr(main.body.blocks, relax.Tuple([*results, *observations]))
    body = builder.normalize(body)
    observed = relax.Function(main.params, body, body.ty, main.is_pure, main.attrs)
    out = mod.clone()
    out["main"] = observed
    return out


def observers(instrumented: IRModule) -> set[int]:
    """The numbers of the observers that an instrumented module calls."""
    return {number for _name, number in observed(instrumented)}


def observed(instrumented: IRModule) -> list[tuple[str, int]]:
    """Names of the values that are observed, and the numbers of their observers."""
    found: list[tuple[str, int]] = []
    for block in instrumented["main"].body.blocks:
        for binding in block.bindings:
            call = binding.value
            if not isinstance(call, relax.Call) or call.op != _CALL:
                continue
            if call.args[0].global_symbol == OBSERVE:
                value, number = call.args[1].fields
                found.append((str(value.name), int(number)))
    return found


@relax.expr_functor.mutator
class _Substitution(relax.PyExprMutator):
    def __init__(self, replaced: dict[relax.Var, relax.Expr]) -> None:
        super().__init__()
        self.replaced = replaced

    def visit_dataflow_var_(self, var: relax.Var) -> relax.Expr:
        return self.replaced[var] if var in self.replaced else super().visit_dataflow_var_(var)
