"""Make of a transformer's layers what one of several GPUs computes, as Megatron-LM divides them.

Before:                                        After (of 2 GPUs, for the first):
    q = R.matmul(x, wq)          (n, 64)           q = R.matmul(x, wq[:, :32])
    h = R.reshape(q, (n, 4, 16))                   h = R.reshape(q, (n, 2, 16))
    ...                                            ...
    o = R.matmul(a, wo)                            o_part = R.matmul(a, wo[:32, :])
    y = R.add(o, bias)                             o = R.ccl.allreduce(o_part, "sum")
                                                   y = R.add(o, bias)

Products of queries, keys and values, of gate and up are divided by columns, and so is what follows
them, heads of attention among it; products behind (the output projection, down) by rows, and their
partial sums are added up, once, before their bias is. Keys and values of grouped queries are heads
of their own, and are repeated after they were divided.

An input that is needed in parts, such as the keys and values of earlier positions, becomes one that
each GPU is given its part of; so does a result. Everything else is computed by all GPUs alike.

Fails with an error: 1. a dimension is not known;
                     2. no product can be divided by rows behind one by columns;
                     3. an attention cannot be divided: its heads are no multiple of the GPUs.
Leaves alone: products whose columns are no multiple, or whose results are needed whole.
Exact, but for the order of the sums.
Must run after: canonicalization, which folds weights; before: merge-parallel-products.
Reference: Shoeybi et al., 2019, Megatron-LM, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import IRModule, relax, tirx
from tvm.ir import GenericConst

from relaxc.errors import OptionError
from relaxc.passes.base import Pass
from relaxc.passes.shard.placement import Placement, bindings, place

_SHAPED = ("relax.reshape", "relax.broadcast_to")


@dataclass(frozen=True)
class ShardLayers(Pass):
    """Keep one GPU's part of `main`.

    Attributes:
        ranks: the number of GPUs.
        rank: which of them, from 0 on.
    """

    ranks: int
    rank: int

    name: ClassVar[str] = "shard-layers"
    opt_level: ClassVar[int] = 0
    required: ClassVar[bool] = True

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite `main`.

        Raises:
            OptionError: the model cannot be divided.
        """
        main = mod["main"]
        _require_static(main)  # 1.
        return _Sharder(mod, place(main, self.ranks), self.rank).rewrite()  # 2., 3.


def _require_static(main: relax.Function) -> None:
    for var in (*main.params, *(b.var for b in bindings(main))):
        fields = var.ty.fields if isinstance(var.ty, relax.TupleType) else [var.ty]
        for ty in fields:
            dims = getattr(getattr(ty, "shape", None), "values", None)
            if dims is None or not all(isinstance(d, tirx.IntImm) for d in dims):
                raise OptionError(
                    f"`{var.name}` has dimensions that are open, but a model that is divided "
                    "among GPUs needs known ones; fix them with `--input-shapes`"
                )


class _Sharder:
    def __init__(self, mod: IRModule, placement: Placement, rank: int) -> None:
        self._mod = mod
        self._placement = placement
        self._rank = rank
        self._builder = relax.BlockBuilder(mod.clone())
        self._new: dict[relax.Expr, relax.Expr] = {}

    def rewrite(self) -> IRModule:
        main = self._mod["main"]
        params = [self._param(param) for param in main.params]
        blocks = [self._block(block) for block in main.body.blocks]
        body = self._builder.normalize(relax.SeqExpr(blocks, self._expr(main.body.body)))
        func = relax.Function(params, body, body.ty, main.is_pure, main.attrs)
        self._builder.update_func(self._builder.get().get_global_var("main"), func)
        return self._builder.get()

    def _param(self, param: relax.Var) -> relax.Var:
        axis = self._placement.axes.get(param)
        if axis is None:
            return param
        shape = self._divided(param.ty.shape.values, axis)
        self._new[param] = relax.Var(param.name, relax.TensorType(shape, param.ty.dtype))
        return self._new[param]

    def _divided(self, shape: Sequence[tirx.Expr], axis: int) -> list[int]:
        dims = [int(d) for d in shape]
        dims[axis] //= self._placement.ranks
        return dims

    def _block(self, block: relax.BindingBlock) -> relax.BindingBlock:
        out: list[relax.Binding] = []
        for binding in block.bindings:
            self._rewrite(binding, out)
        return type(block)(out)

    def _rewrite(self, binding: relax.Binding, out: list[relax.Binding]) -> None:
        var = binding.var
        if isinstance(binding, relax.MatchCast):
            out.append(relax.MatchCast(var, self._expr(binding.value), binding.ty))
            return
        value = self._builder.normalize(self._value(var, binding.value))
        if var in self._placement.rows:
            part = relax.DataflowVar(f"{var.name}.part", value.ty)
            out.append(relax.VarBinding(part, value))
            value = self._builder.normalize(relax.op.ccl.allreduce(part, "sum", True))
        if var in self._placement.axes or isinstance(value.ty, relax.TupleType):
            self._new[var] = type(var)(var.name, value.ty)
        out.append(relax.VarBinding(self._new.get(var, var), value))

    def _value(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        if not isinstance(value, relax.Call):
            return self._expr(value)
        args = []
        for position, arg in enumerate(value.args):
            if isinstance(arg, relax.Tuple):
                parts = [self._argument(var, i, field) for i, field in enumerate(arg.fields)]
                args.append(relax.Tuple(parts))
            else:
                args.append(self._argument(var, position, arg))
        axis = self._placement.axes.get(var)
        if axis is not None and str(getattr(value.op, "name", "")) in _SHAPED:
            args[1] = relax.ShapeExpr(self._divided(value.ty.shape.values, axis))
        return relax.Call(value.op, args, value.attrs, value.ty_args)

    def _argument(self, var: relax.Var, position: int, arg: relax.Expr) -> relax.Expr:
        axis = self._placement.constants.get((var, position))
        if axis is None or not isinstance(arg, GenericConst):
            return self._expr(arg)
        array = arg.value.numpy()
        part = np.split(array, self._placement.ranks, axis)[self._rank]
        return relax.const(np.ascontiguousarray(part), str(arg.ty.dtype.dtype))

    def _expr(self, expr: relax.Expr) -> relax.Expr:
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._expr(field) for field in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            return relax.TupleGetItem(self._expr(expr.tuple_value), expr.index)
        return self._new.get(expr, expr)
