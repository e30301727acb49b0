"""Make one group of two, where a kernel computes the second from rows of the first as they appear.

Before:                                  After:
    lv = conv2d_0(x)                         gv = expansion_0(x)
    gv = conv2d_1(lv)                    where expansion_0 holds the bindings of both, and has the
                                         attribute kernel = "expansion"

An expansion writes several times as many channels as it reads, for a depthwise convolution. Maps
that no core's cache holds are not stored at all then.

Fires when: the target has a kernel for the pair, and nothing else reads the first result.
Leaves alone: groups whose tensors are stored as integers.
Must run after: group-ops, realize-quantization. Must run before: choose-precision, choose-layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import tvm
from tvm import IRModule, relax

from relaxc.layout import ELEMENTS, KERNEL
from relaxc.passes.base import Pass
from relaxc.passes.blocks import add_private, rewrite_main

EXPANSION = "expansion"


class ExpansionLibrary(Protocol):
    """What the pass asks of a target."""

    def joins(self, first: relax.Function, second: relax.Function) -> bool:
        """Whether one kernel computes two groups, whose second reads the first's result first."""


@dataclass(frozen=True)
class JoinExpansions(Pass):
    """Join pairs of groups.

    Attributes:
        library: the target's kernels.
    """

    library: ExpansionLibrary

    name: ClassVar[str] = "join-expansions"
    opt_level: ClassVar[int] = 3

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite `main`; joined groups disappear."""
        return _Joiner(self.library, mod).rewrite()


class _Joiner:
    def __init__(self, library: ExpansionLibrary, mod: IRModule) -> None:
        self.library = library
        self.mod = mod
        self.builder = relax.BlockBuilder(mod.clone())
        self.joined: list[tvm.ir.GlobalVar] = []

    def rewrite(self) -> IRModule:
        out = rewrite_main(self.builder, self._block)
        for gvar in self.joined:  # every group is called once
            del out[gvar]
        return out

    def _block(self, block: relax.BindingBlock) -> list[relax.Binding]:
        out: list[relax.Binding] = []
        readers = _readers(self.mod["main"])
        made: dict[relax.Var, relax.Binding] = {}
        for binding in block.bindings:
            before = self._expansion(binding, made, readers)
            if before is not None:
                out.remove(before)
                binding = self._join(before, binding)
            else:
                made[binding.var] = binding
            out.append(binding)
        return out

    def _expansion(
        self,
        binding: relax.Binding,
        made: dict[relax.Var, relax.Binding],
        readers: dict[relax.Var, int],
    ) -> relax.Binding | None:
        """What computes the data of a binding's group, if both can be joined."""
        second = self._group(binding)
        if second is None:
            return None
        data, *others = binding.value.args
        before = made.get(data)
        first = None if before is None else self._group(before)
        if first is None or not isinstance(data, relax.DataflowVar) or readers[data] > 1:
            return None
        return before if data not in others and self.library.joins(first, second) else None

    def _group(self, binding: relax.Binding) -> relax.Function | None:
        """The group that a binding calls, if it does, and stores no integers."""
        value = getattr(binding, "value", None)
        if not isinstance(value, relax.Call) or not isinstance(value.op, tvm.ir.GlobalVar):
            return None
        func = self.mod[value.op]
        is_group = isinstance(func, relax.Function) and func.attrs and KERNEL in func.attrs
        return func if is_group and func.attrs.get(ELEMENTS) is None and len(value.args) else None

    def _join(self, before: relax.Binding, binding: relax.Binding) -> relax.Binding:
        ops = [before.value.op, binding.value.op]
        self.joined += ops
        gvar = add_private(self.builder, joined(*(self.mod[op] for op in ops)), EXPANSION)
        args = [*before.value.args, *binding.value.args[1:]]
        return relax.VarBinding(binding.var, self.builder.normalize(relax.Call(gvar, args)))


def joined(first: relax.Function, second: relax.Function) -> relax.Function:
    """A group that computes the second's result from the first's."""
    known = {p: relax.Var(p.name, p.ty) for p in (*first.params, *second.params[1:])}
    params = list(known.values())
    builder = relax.BlockBuilder()
    with builder.function(EXPANSION, params, private=True):
        with builder.dataflow():
            for func in (first, second):
                for block in func.body.blocks:
                    for binding in block.bindings:
                        call = binding.value
                        args = [known.get(arg, arg) for arg in call.args]
                        value = relax.Call(call.op, args, call.attrs, call.ty_args, call.span)
                        known[binding.var] = builder.emit(value, binding.var.name)
                known[second.params[0]] = known[func.body.body]
            result = builder.emit_output(known[second.body.body])
        builder.emit_func_output(result)
    func = relax.transform.CanonicalizeBindings()(builder.get())[EXPANSION]
    return relax.utils.copy_with_new_vars(func.with_attr(KERNEL, EXPANSION))


def _readers(main: relax.Function) -> dict[relax.Var, int]:
    """How many bindings read each variable."""
    found: dict[relax.Var, int] = {}
    for block in main.body.blocks:
        for binding in block.bindings:
            for var in relax.analysis.free_vars(binding.value):
                found[var] = found.get(var, 0) + 1
    return found
