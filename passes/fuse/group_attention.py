"""Group scaled dot-product attention: two products around a softmax, and the views around them.

    q = R.permute_dims(...)          views of the projections: reshapes, transposes, slices
    s = R.matmul(q, k)
    s1 = R.add(R.multiply(s, c), m)  scaling, masks, biases: elementwise on the scores
    p = R.nn.softmax(s1)
    o = R.matmul(p, v)
    y = R.permute_dims(o, ...)       back to (batch, sequence, heads, depth)

becomes one call to a private function with `kernel = "attention"`, which reads the projections in
place and never writes the scores to memory.

Fires when: 1. the softmax runs over the last axis of a 4-D product of two 4-D tensors;
            2. between product and softmax there is elementwise arithmetic and reshapes only, and
               nothing else reads it;
            3. the target has a kernel for these shapes.
Concatenations of keys and values of earlier positions with new ones are taken in as well, if the
target reads both parts where they lie. Views are copied into the group, not moved: others may read
them, and copies cost nothing.
Must run before: group-ops, which would take the softmax alone.
Reference: Rabe and Staats, Self-attention Does Not Need O(n^2) Memory, 2021 (blocking of queries).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from tvm import IRModule, relax
from tvm.ir import GenericConst

from relaxc.layout import ATTENTION
from relaxc.passes.base import Pass
from relaxc.passes.fuse.outline import BindingGraph, operator_call
from relaxc.passes.fuse.outline_pattern import VIEWS, outline_pattern


class AttentionLibrary(Protocol):
    """What the pass asks of a target."""

    def has_attention(self, func: relax.Function) -> bool:
        """Whether a group of this form has a kernel."""

    def is_score_operator(self, call: relax.Call) -> bool:
        """Whether an operator can be computed on the scores in registers."""

    @property
    def joins_keys(self) -> bool:
        """Whether keys and values may be concatenated of two tensors."""


@dataclass(frozen=True)
class GroupAttention(Pass):
    """Outline attention.

    Attributes:
        library: the target's kernels.
    """

    library: AttentionLibrary

    name: ClassVar[str] = "group-attention"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        """Group in every dataflow block of `main`."""

        def find(graph: BindingGraph, i: int) -> list[list[int]]:
            call = operator_call(graph.bindings[i])
            if call is None or str(call.op.name) != "relax.nn.softmax":
                return []
            return _Finder(graph, self.library).find(i)

        return outline_pattern(mod, ATTENTION, find, self.library.has_attention)  # 3.


class _Finder:
    """Collects one attention around a softmax."""

    def __init__(self, graph: BindingGraph, library: AttentionLibrary) -> None:
        self.graph = graph
        self.library = library

    def find(self, softmax: int) -> list[list[int]]:
        """The attention around a softmax, if it is one: at best with the concatenations it reads.

        Bindings between its products are read by nobody else, and so disappear; views, and
        concatenations with the views behind them, may stay.
        """
        call = self._at(softmax)
        if int(call.attrs.axis) not in (-1, call.ty.ndim - 1) or call.ty.ndim != 4:  # 1.
            return []
        scores = self._scores(call.args[0])
        after = self._only_user(softmax)
        if scores is None or after is None or not self._is_product(after):
            return []
        product, chain = scores
        if self._at(after).args[0] != self.graph.bindings[softmax].var:
            return []
        core = {product, *chain, softmax, after}
        views: set[int] = set()
        joins: set[int] = set()
        query, key = self._at(product).args
        for operand in (query, key, self._at(after).args[1]):
            views |= self._views(operand)
            if self.library.joins_keys and operand is not query:
                joins |= self._joined(operand)
        last = after
        while (user := self._only_user(last)) is not None and self._is_back_view(user):
            last = user
            core.add(user)
        alone = sorted(core | (views - joins))
        return [sorted(core | views | joins), alone] if joins else [alone]

    def _at(self, i: int) -> relax.Call:
        call = operator_call(self.graph.bindings[i])
        assert call is not None, "only indices of operator calls are passed around"
        return call

    def _producer(self, expr: relax.Expr) -> int | None:
        i = self.graph.index.get(expr) if isinstance(expr, relax.Var) else None
        return i if i is not None and operator_call(self.graph.bindings[i]) is not None else None

    def _only_user(self, i: int) -> int | None:
        users = self.graph.users[i]
        if len(users) != 1 or self.graph.leaves[i]:
            return None
        return users[0] if operator_call(self.graph.bindings[users[0]]) is not None else None

    def _is_product(self, i: int) -> bool:
        call = self._at(i)
        if str(call.op.name) != "relax.matmul":
            return False
        return all(a.ty.ndim == 4 and str(a.ty.dtype.dtype) == "float32" for a in call.args)

    def _scores(self, expr: relax.Expr) -> tuple[int, list[int]] | None:
        """Walk back from the softmax to the product, through what may happen to scores (2.)."""
        chain: list[int] = []
        while (i := self._producer(expr)) is not None:
            if self._only_user(i) is None:
                return None
            if self._is_product(i):
                return i, chain
            call = self._at(i)
            is_view = str(call.op.name) == "relax.reshape"
            if not is_view and not self.library.is_score_operator(call):
                return None
            chain.append(i)
            expr = next(
                (a for a in call.args if self._producer(a) is not None and self._leads_back(a)),
                call.args[0],
            )
        return None

    def _leads_back(self, expr: relax.Expr) -> bool:
        """Whether following an operand leads to a product of two activations."""
        i = self._producer(expr)
        if i is None or self._only_user(i) is None:
            return False
        if self._is_product(i):
            return True
        call = self._at(i)
        if str(call.op.name) != "relax.reshape" and not self.library.is_score_operator(call):
            return False
        return any(self._leads_back(a) for a in call.args if isinstance(a, relax.Var))

    def _views(self, expr: relax.Expr) -> set[int]:
        """The views, and multiplications by a number, that lead to an operand."""
        found: set[int] = set()
        while (i := self._producer(expr)) is not None:
            call = self._at(i)
            op = str(call.op.name)
            scaled = op in ("relax.multiply", "relax.divide") and _is_number(call.args[1])
            if op not in VIEWS and not scaled:
                break
            found.add(i)
            expr = call.args[0]
        return found

    def _joined(self, expr: relax.Expr) -> set[int]:
        """The concatenation behind transposes, and the views behind that, if there is one."""
        while (i := self._producer(expr)) is not None:
            call = self._at(i)
            if str(call.op.name) == "relax.permute_dims":
                expr = call.args[0]
                continue
            fields = call.args[0].fields if str(call.op.name) == "relax.concat" else ()
            if len(fields) != 2 or call.ty.ndim != 4 or int(call.attrs.axis) % 4 != 2:
                return set()
            return {i}.union(*map(self._views, fields))
        return set()

    def _is_back_view(self, i: int) -> bool:
        return str(self._at(i).op.name) == "relax.permute_dims"


def _is_number(expr: relax.Expr) -> bool:
    return isinstance(expr, GenericConst) and expr.value.numpy().size == 1
