"""Find which operators a call to a shared group stands for.

TVM keeps one function for groups that are alike, so that its body tells what one of them computes,
but not which. Its callers differ in their arguments: the operators meant are those that do the same
as the body, on the same arguments.
"""

from __future__ import annotations

from tvm import IRModule, relax
from tvm.ir import GenericConst, GlobalVar


class GroupMatcher:
    """Looks for groups in the module that they were taken from.

    Attributes:
        values: what each variable of `main` is bound to.
    """

    def __init__(self, ungrouped: IRModule) -> None:
        self.values: dict[relax.Var, relax.Expr] = {}
        self._by_kernel: dict[str, list[relax.Var]] = {}
        for block in ungrouped["main"].body.blocks:
            for binding in block.bindings:
                self.values[binding.var] = binding.value
                kernel = _kernel(binding.value)
                if kernel is not None:
                    self._by_kernel.setdefault(kernel, []).append(binding.var)

    def find(self, group: relax.Function, arguments: list[str | None]) -> relax.Var | None:
        """The variable that holds the result of a group, given its arguments.

        Args:
            group: a function whose last binding is its result.
            arguments: names of the arguments, as the ungrouped module has them; None for
                constants.

        Returns:
            None where no operators match.
        """
        inner = {b.var: b.value for block in group.body.blocks for b in block.bindings}
        last = group.body.blocks[-1].bindings[-1].value
        for var in self._by_kernel.get(_kernel(last) or "", ()):
            match = _Match(self.values, inner, dict(zip(group.params, arguments)))
            if match.is_same(last, self.values[var]):
                return var
        return None


class _Match:
    def __init__(
        self,
        values: dict[relax.Var, relax.Expr],
        inner: dict[relax.Var, relax.Expr],
        arguments: dict[relax.Var, str | None],
    ) -> None:
        self.values = values
        self.inner = inner
        self.arguments = arguments

    def is_same(self, ours: relax.Expr, theirs: relax.Expr) -> bool:
        """Whether an expression of the group computes what one of the module does."""
        if ours in self.arguments:
            name = self.arguments[ours]
            return isinstance(theirs, GenericConst) if name is None else _name(theirs) == name
        if ours in self.inner:
            return theirs in self.values and self.is_same(self.inner[ours], self.values[theirs])
        if isinstance(ours, relax.Call) and isinstance(theirs, relax.Call):
            return ours.op == theirs.op and self._are_same(ours.args, theirs.args)
        if isinstance(ours, relax.Tuple) and isinstance(theirs, relax.Tuple):
            return self._are_same(ours.fields, theirs.fields)
        if isinstance(ours, relax.TupleGetItem) and isinstance(theirs, relax.TupleGetItem):
            indices = int(ours.index) == int(theirs.index)
            return indices and self.is_same(ours.tuple_value, theirs.tuple_value)
        if isinstance(ours, GlobalVar) and isinstance(theirs, GlobalVar):
            return str(ours.name_hint) == str(theirs.name_hint)
        # Shapes and constants follow from the rest.
        return type(ours) is type(theirs)

    def _are_same(self, ours: list[relax.Expr], theirs: list[relax.Expr]) -> bool:
        return len(ours) == len(theirs) and all(map(self.is_same, ours, theirs))


def _kernel(value: relax.Expr) -> str | None:
    """The PrimFunc that an expression calls."""
    if isinstance(value, relax.Call) and value.op.name == "relax.call_tir":
        return str(value.args[0].name_hint)
    return None


def _name(expr: relax.Expr) -> str | None:
    return str(expr.name) if isinstance(expr, relax.Var) else None
