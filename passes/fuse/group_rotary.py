"""Group rotary position embeddings: halves of rows turned by angles that others compute.

    h = R.strided_slice(x, last axis, d / 2, d)        lo = R.strided_slice(x, last axis, 0, d / 2)
    t = R.concat((R.negative(h), lo), axis=-1)
    y = R.add(R.multiply(x, cos), R.multiply(t, sin))

becomes one call to a private function with `kernel = "rotate"`, which reads x in place, through the
reshapes, transposes and slices that it comes by.

Fires when: the target has a kernel for these shapes. Factors and terms may come in either order.
Views are copied into the group, not moved: others may read them, and copies cost nothing.
Exact: the same products and sums.
Must run before: group-ops, which would take the multiplications.
Reference: Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from tvm import IRModule, relax, tirx

from relaxc.layout import ROTATE
from relaxc.passes.base import Pass
from relaxc.passes.fuse.outline import BindingGraph, operator_call
from relaxc.passes.fuse.outline_pattern import VIEWS, outline_pattern


class RotaryLibrary(Protocol):
    """What the pass asks of a target."""

    def has_rotary(self, func: relax.Function) -> bool:
        """Whether a group of this form has a kernel."""


@dataclass(frozen=True)
class GroupRotary(Pass):
    """Outline rotary embeddings.

    Attributes:
        library: the target's kernels.
    """

    library: RotaryLibrary

    name: ClassVar[str] = "group-rotary"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        """Group in every dataflow block of `main`."""

        def find(graph: BindingGraph, i: int) -> list[list[int]]:
            members = _Finder(graph).find(i)
            return [] if members is None else [members]

        return outline_pattern(mod, ROTATE, find, self.library.has_rotary)


class _Finder:
    def __init__(self, graph: BindingGraph) -> None:
        self.graph = graph

    def find(self, last: int) -> list[int] | None:
        """The bindings of an embedding that ends here, in order."""
        added = self._args(last, "relax.add")
        if added is None:
            return None
        for plain, turned in (added, added[::-1]):
            for x, _cos in self._factors(plain):
                for t, _sin in self._factors(turned):
                    halves = self._halves(t, x)
                    if halves is not None:
                        own = {self.graph.index[v] for v in (plain, turned, t)}
                        return sorted({last, *own, *halves, *self._views(x)})
        return None

    def _args(self, i: int | None, op: str) -> list[relax.Expr] | None:
        call = None if i is None else operator_call(self.graph.bindings[i])
        return list(call.args) if call is not None and str(call.op.name) == op else None

    def _producer(self, expr: relax.Expr) -> int | None:
        return self.graph.index.get(expr) if isinstance(expr, relax.Var) else None

    def _factors(self, expr: relax.Expr) -> list[tuple[relax.Expr, relax.Expr]]:
        args = self._args(self._producer(expr), "relax.multiply")
        return [] if args is None else [(args[0], args[1]), (args[1], args[0])]

    def _halves(self, turned: relax.Expr, x: relax.Expr) -> set[int] | None:
        """The bindings between x and its turned halves."""
        i = self._producer(turned)
        parts = self._args(i, "relax.concat")
        if (
            i is None
            or parts is None
            or not _is_last(turned, self.graph.bindings[i].value.attrs.axis)
        ):
            return None
        fields = list(parts[0].fields)
        negated = self._args(self._producer(fields[0]), "relax.negative") if fields else None
        if len(fields) != 2 or negated is None:
            return None
        depth = x.ty.shape.values[-1] if isinstance(x.ty.shape, relax.ShapeExpr) else None
        if not isinstance(depth, tirx.IntImm) or int(depth) % 2:
            return None
        half = int(depth) // 2
        high, low = self._slice(negated[0], x), self._slice(fields[1], x)
        if high != (half, 2 * half) or low != (0, half):
            return None
        found = (self._producer(v) for v in (fields[0], negated[0], fields[1]))
        return {i for i in found if i is not None}

    def _slice(self, expr: relax.Expr, x: relax.Expr) -> tuple[int, int] | None:
        """Where a slice of x's last axis begins and ends."""
        args = self._args(self._producer(expr), "relax.strided_slice")
        if args is None or not args[0].same_as(x):
            return None
        axes, begin, end, *step = ([int(v.value) for v in arg.fields] for arg in args[1:5])
        rank = int(x.ty.ndim)
        if [a % rank for a in axes] != [rank - 1] or step not in ([], [[1]]):
            return None
        return begin[0], min(end[0], int(x.ty.shape.values[-1]))

    def _views(self, expr: relax.Expr) -> set[int]:
        found: set[int] = set()
        while (i := self._producer(expr)) is not None:
            call = operator_call(self.graph.bindings[i])
            if call is None or str(call.op.name) not in VIEWS:
                break
            found.add(i)
            expr = call.args[0]
        return found


def _is_last(expr: relax.Expr, axis: Any) -> bool:
    return axis is not None and int(axis) % int(expr.ty.ndim) == int(expr.ty.ndim) - 1
