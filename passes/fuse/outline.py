"""Move bindings of `main` into private functions."""

from __future__ import annotations

from collections.abc import Sequence

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.ir import GenericConst

from relaxc.layout import KERNEL
from relaxc.passes.blocks import add_private

# What may stand between a quantized constant and its reader: weights in groups are stored as one
# row per group.
_MOVES = ("relax.reshape", "relax.permute_dims")
# What has kernels that take weights as integers: to others, such a constant is a tensor as any.
_READERS = (
    "relax.matmul",
    *(f"relax.nn.conv{n}d{t}" for n in (1, 2, 3) for t in ("", "_transpose")),
)


def outline(
    builder: relax.BlockBuilder, members: Sequence[relax.Binding], kernel: str, name: str
) -> relax.Binding:
    """Copy bindings into a private function, and return the call that replaces the last of them.

    Args:
        builder: holds the module; the function is added to it.
        members: operator calls in order; only the last one's value is returned.
        kernel: value of the function's attribute `kernel`.
        name: of the function.
    """
    defined = {binding.var for binding in members}
    outer: list[relax.Var] = []
    for binding in members:
        for arg in _tensor_args(binding.value):
            if isinstance(arg, relax.Var) and arg not in defined and arg not in outer:
                outer.append(arg)
    func = _function(members, outer, [var.ty for var in outer], name)
    if not isinstance(func.ret_ty.shape, relax.ShapeExpr):
        # The result has a symbol that no argument has by itself, as in `4 * n` rows.
        func = _function(members, outer, with_own_symbols(outer), name)
    # A symbolic dimension belongs to one function only.
    func = relax.utils.copy_with_new_vars(func.with_attr(KERNEL, kernel))
    gvar = add_private(builder, func, name)
    return relax.VarBinding(members[-1].var, builder.normalize(relax.Call(gvar, outer)))


def _function(
    members: Sequence[relax.Binding],
    outer: Sequence[relax.Var],
    types: Sequence[relax.Type],
    name: str,
) -> relax.Function:
    inner = {var: relax.Var(var.name, ty) for var, ty in zip(outer, types)}
    body = relax.BlockBuilder()
    replaced: dict[relax.Expr, relax.Expr] = dict(inner)
    with body.function(name, list(inner.values()), private=True):
        with body.dataflow():
            for binding in members:
                call = binding.value
                args = [_substitute(a, replaced) for a in call.args]
                value = relax.Call(call.op, args, call.attrs, call.ty_args, call.span)
                replaced[binding.var] = body.emit(value, binding.var.name)
            result = body.emit_output(replaced[members[-1].var])
        body.emit_func_output(result)
    return relax.transform.CanonicalizeBindings()(body.get())[name]


def with_own_symbols(outer: Sequence[relax.Var]) -> list[relax.Type]:
    """The variables' types, with a symbol of its own in place of every expression of symbols."""
    symbols: list[tuple[tirx.Expr, tirx.Var]] = []

    def own(dim: tirx.Expr) -> tirx.Expr:
        if isinstance(dim, tirx.IntImm | tirx.Var):
            return dim
        for known, symbol in symbols:
            if tvm_ffi.structural_equal(known, dim):
                return symbol
        symbols.append((dim, tirx.Var(f"extent{len(symbols)}", "int64")))
        return symbols[-1][1]

    types = []
    for var in outer:
        known = isinstance(var.ty.shape, relax.ShapeExpr)
        dims = [own(d) for d in var.ty.shape.values] if known else None
        types.append(var.ty if dims is None else relax.TensorType(dims, var.ty.dtype.dtype))
    return types


class BindingGraph:
    """Who uses whom among the bindings of one block.

    Attributes:
        copies_constants: whether quantized constants belong to whoever reads them.
    """

    def __init__(self, bindings: list[relax.Binding], copies_constants: bool = True) -> None:
        self.copies_constants = copies_constants
        self.bindings = bindings
        self.index = {binding.var: i for i, binding in enumerate(bindings)}
        self.users: list[list[int]] = [[] for _ in bindings]
        self.leaves = [not isinstance(b.var, relax.DataflowVar) for b in bindings]
        for i, binding in enumerate(bindings):
            for var in _free_vars(binding):
                if var in self.index:
                    self.users[self.index[var]].append(i)

    def escaping(self, members: list[int]) -> list[int]:
        """Members whose value is read outside of the group; quantized constants are copied."""
        inside = set(members)
        return [
            m
            for m in members
            if not self.is_constant(m)
            and (self.leaves[m] or any(u not in inside for u in self.users[m]))
        ]

    def constants_of(self, call: relax.Call) -> list[int]:
        """Bindings of quantized constants that `call` takes, and of what these are moved from."""
        if call.op.name not in _MOVES and call.op.name not in _READERS:
            return []
        direct = [
            self.index[a] for a in call.args if a in self.index and self.is_constant(self.index[a])
        ]
        return [
            *(i for d in direct for i in self.constants_of(operator_call(self.bindings[d]))),
            *direct,
        ]

    def copied_by(self, index: int) -> list[int]:
        """`constants_of` a binding's call."""
        call = operator_call(self.bindings[index])
        return [] if call is None else self.constants_of(call)

    def is_constant(self, index: int) -> bool:
        """Whether a binding holds a quantized constant: integers and how to read them, or moved."""
        call = operator_call(self.bindings[index])
        if call is None or not self.copies_constants:
            return False
        if call.op.name == "relax.dequantize":
            return isinstance(call.args[0], GenericConst)
        source = call.args[0] if call.op.name in _MOVES else None
        return source in self.index and self.is_constant(self.index[source])

    def inlined(self, call: relax.Call) -> relax.Call:
        """`call` with its quantized constants in place of their variables, to look at."""
        constants: dict[relax.Expr, relax.Expr] = {
            self.bindings[i].var: self.inlined(operator_call(self.bindings[i]))
            for i in self.constants_of(call)
            if self.bindings[i].var in set(call.args)
        }
        if not constants:
            return call
        args = [_substitute(arg, constants) for arg in call.args]
        whole = relax.Call(call.op, args, call.attrs, call.ty_args)
        relax.expr._update_type(whole, call.ty)
        return whole

    def depends(self, var: relax.Var, members: Sequence[int]) -> bool:
        """Whether `var` is computed from any member."""
        if var not in self.index:
            return False
        target = self.index[var]
        reached = list(members)
        seen = set(members)
        while reached:
            for user in self.users[reached.pop()]:
                if user == target:
                    return True
                if user < target and user not in seen:
                    seen.add(user)
                    reached.append(user)
        return target in members


def _free_vars(binding: relax.Binding) -> list[relax.Var]:
    value = getattr(binding, "value", None)
    return [] if value is None else list(relax.analysis.free_vars(value))


def operator_call(binding: relax.Binding) -> relax.Call | None:
    """The operator call that a binding holds, if it holds one."""
    value = getattr(binding, "value", None)
    if isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op):
        return value
    return None


def _tensor_args(call: relax.Call) -> list[relax.Expr]:
    flat: list[relax.Expr] = []
    for arg in call.args:
        flat.extend(arg.fields if isinstance(arg, relax.Tuple) else [arg])
    return [a for a in flat if isinstance(a.ty, relax.TensorType)]


def _substitute(arg: relax.Expr, replaced: dict[relax.Expr, relax.Expr]) -> relax.Expr:
    if isinstance(arg, relax.Tuple):
        return relax.Tuple([_substitute(field, replaced) for field in arg.fields])
    if isinstance(arg, GenericConst):
        return arg
    return replaced.get(arg, arg)
