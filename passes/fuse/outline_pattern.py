"""Outline every place that a pattern is found at, if the target has a kernel for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import IRModule, relax

from relaxc.passes.blocks import rewrite_main
from relaxc.passes.fuse.outline import BindingGraph, outline

VIEWS = frozenset(
    f"relax.{op}" for op in ("permute_dims", "reshape", "strided_slice", "squeeze", "expand_dims")
)


def outline_pattern(
    mod: IRModule,
    kernel: str,
    find: Callable[[BindingGraph, int], Sequence[list[int]]],
    has_kernel: Callable[[relax.Function], bool],
) -> IRModule:
    """A module in which private functions of this kernel take the place of what is found.

    Args:
        mod: the module; its dataflow blocks of `main` are searched.
        kernel: what the functions are marked with, and called after.
        find: groups that a binding gives rise to, in the order in which they are tried; a group is
            the indices of its bindings. They are copied: who else reads them still finds them.
        has_kernel: whether the target computes such a function.
    """
    builder = relax.BlockBuilder(mod)

    def rewrite(block: relax.BindingBlock) -> list[relax.Binding]:
        bindings = list(block.bindings)
        if not isinstance(block, relax.DataflowBlock):
            return bindings
        graph = BindingGraph(bindings)
        replaced: dict[int, relax.Binding] = {}
        for i in range(len(bindings)):
            for members in find(graph, i):
                group = [bindings[m] for m in members]
                trial = relax.BlockBuilder()
                attempt = outline(trial, group, kernel, kernel)
                if has_kernel(trial.get()[attempt.value.op]):
                    name = f"{kernel}_{len(replaced)}"
                    replaced[members[-1]] = outline(builder, group, kernel, name)
                    break
        return [replaced.get(i, binding) for i, binding in enumerate(bindings)]

    return relax.transform.DeadCodeElimination()(rewrite_main(builder, rewrite))
