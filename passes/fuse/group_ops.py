"""Group each operator that has a kernel with the elementwise operators that follow it.

Before:                                  After:
    lv = R.nn.conv2d(x, w)                   gv = group_conv(x, res)
    lv1 = R.add(lv, b)                   where group_conv is private, has the attribute
    lv2 = R.add(lv1, res)                kernel = "conv2d", and holds the four bindings and
    gv = R.nn.relu(lv2)                  their constants (a quantized one as integers, and the
                                         dequantization that gives them meaning)

The anchor (here the convolution) decides the kernel; what follows becomes its epilogue, computed on
the result while it is in registers. A group keeps logical semantics: running its body is the
reference for the kernel.

A normalization before a product belongs to the product's group, if the library computes it as it
reads rows, and nothing else reads it. Two products of the same rows are one group where what
follows needs both: gate and up projections.

Grows while: 1. the operator is elementwise and the library can compute it on the anchor's result;
             2. it depends on the anchor through the group only;
             3. in the end one value alone leaves the group (else the others would be lost).
Leaves alone: operators without a kernel, and those of constants only, which legalize-ops lowers.
Must run after: canonicalization; before: choose-layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from tvm import IRModule, relax

from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_main
from relaxc.passes.fuse.outline import BindingGraph, operator_call, outline


class KernelLibrary(Protocol):
    """What the grouping pass asks of a target."""

    @property
    def reads_integers(self) -> bool:
        """Whether kernels take quantized constants; else these are dequantized before."""

    def anchor(self, call: relax.Call) -> str | None:
        """The kernel that computes this call as an anchor, if the target has one."""

    def is_epilogue(self, call: relax.Call, anchor: relax.Call, kernel: str) -> bool:
        """Whether `call` can be computed on the result of `anchor` in registers."""

    def absorbs(self, anchor: relax.Call, call: relax.Call) -> bool:
        """Whether a product's kernel computes `call`, a normalization, on its rows."""

    def is_pair(self, anchor: relax.Call, other: relax.Call) -> bool:
        """Whether one kernel computes two products of the same rows, and what needs both."""


@dataclass(frozen=True)
class GroupOps(Pass):
    """Move groups of bindings of `main` into private functions.

    Attributes:
        library: the target's kernels.
    """

    library: KernelLibrary

    name: ClassVar[str] = "group-ops"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        """Group every dataflow block of `main`."""
        return _Grouper(self.library, mod).rewrite()


class _Grouper:
    def __init__(self, library: KernelLibrary, mod: IRModule) -> None:
        self.library = library
        self.builder = relax.BlockBuilder(mod)
        self.count = 0

    def rewrite(self) -> IRModule:
        return rewrite_main(self.builder, self._block)

    def _block(self, block: relax.BindingBlock) -> list[relax.Binding]:
        bindings = list(block.bindings)
        if not isinstance(block, relax.DataflowBlock):
            return bindings
        graph = BindingGraph(bindings, self.library.reads_integers)
        taken: set[int] = set()
        at: dict[int, tuple[str, list[int]]] = {}
        postponed: list[int] = []

        def group(i: int, waits: bool) -> None:
            call = operator_call(bindings[i])
            if i in taken or call is None:
                return
            whole = graph.inlined(call)
            kernel = self.library.anchor(whole) if _reads_data(whole) else None
            if kernel is None:
                return
            if waits and self._readers_absorb(graph, i):
                postponed.append(i)
                return
            members = self._grow_pair(graph, i, kernel, taken)
            members = members or self._grow(graph, i, kernel, taken)
            members = self._with_prologue(graph, i, members, taken)
            taken.update(m for m in members if not graph.is_constant(m))
            at[members[-1]] = kernel, members

        for i in range(len(bindings)):
            group(i, waits=True)
        for i in postponed:
            group(i, waits=False)
        # Groups hold copies of the quantized constants that they read; backward, as readers of
        # constants may be such constants, moved.
        for i in reversed(range(len(bindings))):
            copying = [user in taken and i in graph.copied_by(user) for user in graph.users[i]]
            if graph.is_constant(i) and copying and all(copying):
                taken.add(i)
        result: list[relax.Binding] = []
        for i, binding in enumerate(bindings):
            if i in at:
                kernel, members = at[i]
                name = f"{kernel}_{self.count}"
                self.count += 1
                result.append(outline(self.builder, [bindings[m] for m in members], kernel, name))
            elif i not in taken:
                result.append(binding)
        return result

    def _readers_absorb(self, graph: BindingGraph, index: int) -> bool:
        """Whether whatever reads a value can compute it."""
        call, users = graph.bindings[index].value, graph.users[index]
        readers = [operator_call(graph.bindings[user]) for user in users]
        return (
            not graph.leaves[index]
            and bool(users)
            and all(r is not None and self.library.absorbs(graph.inlined(r), call) for r in readers)
        )

    def _with_prologue(
        self, graph: BindingGraph, start: int, members: list[int], taken: set[int]
    ) -> list[int]:
        """The group, and what computes its data, if that can be done on the way."""
        call = graph.bindings[start].value
        first = graph.index.get(call.args[0]) if isinstance(call.args[0], relax.Var) else None
        if first is None or first in taken or not set(graph.users[first]) <= set(members):
            return members
        producer = operator_call(graph.bindings[first])
        if producer is None or self.library.anchor(graph.inlined(producer)) is None:
            return members
        return sorted([first, *members]) if self._readers_absorb(graph, first) else members

    def _grow_pair(
        self, graph: BindingGraph, start: int, kernel: str, taken: set[int]
    ) -> list[int] | None:
        """A group of two products; None if nothing needs exactly both."""
        call = graph.bindings[start].value
        data = graph.index.get(call.args[0], -1) if isinstance(call.args[0], relax.Var) else None
        if data is None:
            return None
        users = graph.users[data] if data >= 0 else range(start + 1, len(graph.bindings))
        for i in users:
            other = operator_call(graph.bindings[i])
            if i <= start or i in taken or other is None or not len(other.args):
                continue
            if not other.args[0].same_as(call.args[0]):
                continue
            if self.library.is_pair(graph.inlined(call), graph.inlined(other)):
                found = self._grow(graph, start, kernel, taken, i)
                return found if i in found else None
        return None

    def _grow(
        self,
        graph: BindingGraph,
        start: int,
        kernel: str,
        taken: set[int],
        other: int | None = None,
    ) -> list[int]:
        """Indices of the group that starts at an anchor, in order; with `other`, at both."""
        call = graph.bindings[start].value
        anchor = graph.inlined(call)
        members = best = [*sorted(graph.constants_of(call)), start]
        if other is not None:
            more = graph.constants_of(graph.bindings[other].value)
            members = sorted({*members, *more, other})
        while True:
            inside = {graph.bindings[m].var for m in members}
            follower = next(
                (
                    i
                    for i in sorted({u for m in members for u in graph.users[m]} - set(members))
                    if i not in taken and self._joins(graph, i, inside, members, anchor, kernel)
                ),
                None,
            )
            if follower is None:
                return best
            members = sorted([*members, follower])
            if graph.escaping(members) == [members[-1]]:
                best = list(members)

    def _joins(
        self,
        graph: BindingGraph,
        index: int,
        inside: set[relax.Var],
        members: Sequence[int],
        anchor: relax.Call,
        kernel: str,
    ) -> bool:
        call = operator_call(graph.bindings[index])
        if call is None or not self.library.is_epilogue(call, anchor, kernel):
            return False
        # 2. Other operands must not depend on the group.
        outside = [a for a in call.args if isinstance(a, relax.Var) and a not in inside]
        return not any(graph.depends(a, members) for a in outside)


def _reads_data(call: relax.Call) -> bool:
    """Whether a call reads a tensor that is no constant."""
    return any(isinstance(var.ty, relax.TensorType) for var in relax.analysis.free_vars(call))
