"""All GPUs of a divided model in one module: each computes in turn, and partial sums are added."""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import IRModule, relax

from relaxc.passes.shard.shard_layers import ShardLayers


def joined(whole: IRModule, count: int) -> IRModule:
    """What the parts of a module compute together, from whole inputs to whole results."""
    parts = [ShardLayers(count, rank).apply(whole) for rank in range(count)]
    mains = [part["main"] for part in parts]
    others = {g: f for g, f in parts[0].functions_items() if not isinstance(f, relax.Function)}
    builder = relax.BlockBuilder(IRModule(others))
    main = whole["main"]
    params = [relax.Var(p.name, p.ty) for p in main.params]
    with builder.function("main", params, attrs={"num_input": len(params)}):
        with builder.dataflow():
            known: list[dict[relax.Expr, relax.Expr]] = [{} for _ in parts]
            for i, param in enumerate(params):
                for rank, own in enumerate(m.params[i] for m in mains):
                    known[rank][own] = builder.emit(_part(param, own, rank))
            blocks = [list(m.body.blocks) for m in mains]
            for block in zip(*blocks, strict=True):
                for bindings in zip(*(b.bindings for b in block), strict=True):
                    _emit(builder, bindings, known)
            results = [known[rank][m.body.body] for rank, m in enumerate(mains)]
            result = builder.emit_output(_whole(builder, results, main.ret_ty))
        builder.emit_func_output(result)
    return builder.get()


def _emit(
    builder: relax.BlockBuilder,
    bindings: Sequence[relax.Binding],
    known: Sequence[dict[relax.Expr, relax.Expr]],
) -> None:
    values = [_renamed(b.value, own) for b, own in zip(bindings, known)]
    if str(getattr(getattr(bindings[0].value, "op", None), "name", "")) == "relax.ccl.allreduce":
        total = values[0].args[0]
        for value in values[1:]:
            total = builder.emit(relax.op.add(total, value.args[0]))
        values = [total] * len(values)
    for binding, value, own in zip(bindings, values, known):
        own[binding.var] = builder.emit(value)


def _renamed(expr: relax.Expr, known: dict[relax.Expr, relax.Expr]) -> relax.Expr:
    if isinstance(expr, relax.Call):
        args = [_renamed(arg, known) for arg in expr.args]
        return relax.Call(expr.op, args, expr.attrs, expr.ty_args)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([_renamed(field, known) for field in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(_renamed(expr.tuple_value, known), expr.index)
    return known.get(expr, expr)


def divided_axis(whole: relax.TensorType, part: relax.TensorType) -> int | None:
    """Along which axis a part is less than the whole."""
    pairs = zip(whole.shape.values, part.shape.values, strict=True)
    return next((axis for axis, (a, b) in enumerate(pairs) if int(a) != int(b)), None)


def _part(param: relax.Var, own: relax.Var, rank: int) -> relax.Expr:
    axis = divided_axis(param.ty, own.ty)
    if axis is None:
        return param
    size = int(own.ty.shape.values[axis])
    return relax.op.strided_slice(param, [axis], [rank * size], [(rank + 1) * size])


def _whole(
    builder: relax.BlockBuilder, results: Sequence[relax.Expr], ty: tvm.ir.Type
) -> relax.Expr:
    if not isinstance(ty, relax.TupleType):
        axis = divided_axis(ty, results[0].ty)
        return results[0] if axis is None else relax.op.concat(list(results), axis)
    fields = []
    for i, field in enumerate(ty.fields):
        parts = [builder.emit(relax.TupleGetItem(result, i)) for result in results]
        fields.append(builder.emit(_whole(builder, parts, field)))
    return relax.Tuple(fields)
