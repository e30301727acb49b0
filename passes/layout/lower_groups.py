"""Replace groups by kernels: the target chooses an algorithm, packs constants and writes the code.

Before:                                     After:
    gv = group_conv(x)                          gv = R.call_tir(conv2d, (x, packed_w, packed_b),
                                                       out_ty=R.Tensor(physical shape))

Logical types become physical ones here, as the groups' `layouts` say. A group whose result is a
slice of a common buffer writes into it in place; the first one allocates it.

Must run after: choose-layout. Must run before: legalize-ops, which lowers what is not in a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import tvm
from tvm import IRModule, relax, tirx

from relaxc.layout import CONCAT, KERNEL, LAYOUTS, MOVES, PLAIN, VIEW, Layout
from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_main


class LoweredKernel(Protocol):
    """A PrimFunc over the group's parameters, then constants, then scalars, then the result."""

    name: str
    func: tirx.PrimFunc
    constants: list[np.ndarray]
    scalars: list[int]


class LoweringLibrary(Protocol):
    """What the pass asks of a target."""

    def lower(self, func: relax.Function, name: str, layouts: Sequence[Layout]) -> LoweredKernel:
        """Write a group's kernel."""


@dataclass(frozen=True)
class LowerGroups(Pass):
    """Replace calls to groups by calls to kernels.

    Attributes:
        library: the target's kernels.
    """

    library: LoweringLibrary

    name: ClassVar[str] = "lower-groups"
    opt_level: ClassVar[int] = 0
    required: ClassVar[bool] = True

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite `main`; groups disappear."""
        return _Lowering(self.library, mod).rewrite()


class _Lowering:
    def __init__(self, library: LoweringLibrary, mod: IRModule) -> None:
        self.library = library
        self.mod = mod
        rest = {g: f for g, f in mod.functions_items() if _kernel_name(f) is None}
        self.builder = relax.BlockBuilder(tvm.IRModule(rest, attrs=mod.attrs))
        self.values: dict[relax.Var, relax.Var] = {}
        self.buffers: dict[int, relax.Var] = {}

    def rewrite(self) -> IRModule:
        return rewrite_main(self.builder, self._block)

    def _block(self, block: relax.BindingBlock) -> list[relax.Binding]:
        lowered = (self._binding(b) for b in block.bindings)
        return [b for b in lowered if b is not None]

    def _binding(self, binding: relax.Binding) -> relax.Binding | None:
        value = getattr(binding, "value", None)
        if not isinstance(value, relax.Call) or not isinstance(value.op, tvm.ir.GlobalVar):
            return self._moved(binding, value)
        func = self.mod[value.op]
        name = _kernel_name(func)
        if name is None:
            return binding
        layouts = [Layout.parse(str(text)) for text in func.attrs[LAYOUTS]]
        result = layouts[-1]
        if name == CONCAT:  # its inputs are in place: what remains is another name for the buffer
            assert result.slice is not None
            self.values[binding.var] = self.buffers[result.slice.buffer]
            return None
        if name == VIEW:
            source: Any = self.values.get(value.args[0], value.args[0])
            physical = self._physical_type(value.ty, result)
            if source.ty.dtype != physical.dtype:  # bfloat16 lies as its bits
                stored = str(physical.dtype.dtype)
                source = relax.op.memory.view(source, dtype=stored)
            if result == PLAIN:
                return relax.VarBinding(binding.var, self.builder.normalize(source))
            if isinstance(source, relax.Var):
                self.values[binding.var] = source
                return None
            renamed = self.values[binding.var] = relax.DataflowVar(binding.var.name, physical)
            return relax.VarBinding(renamed, self.builder.normalize(source))
        kernel = self.library.lower(func, name, layouts)
        gvar = self.builder.add_func(kernel.func, kernel.name)
        args = [self.values.get(arg, arg) for arg in value.args]
        args += [relax.const(array, array.dtype.name) for array in kernel.constants]
        args += [relax.prim_value(value) for value in kernel.scalars]
        physical = self._physical_type(value.ty, result)
        var: Any = binding.var
        if result != PLAIN:
            var = self.values[binding.var] = relax.DataflowVar(binding.var.name, physical)
        shared = None if result.slice is None else self.buffers.get(result.slice.buffer)
        if shared is None:
            call = relax.call_tir(gvar, args, physical)
        else:
            call = relax.op.call_tir_inplace(gvar, [*args, shared], [len(args)], physical)
        if result.slice is not None:
            self.buffers[result.slice.buffer] = var
        return relax.VarBinding(var, self.builder.normalize(call))

    def _moved(self, binding: relax.Binding, value: Any) -> relax.Binding:
        """An operator outside of groups; it may move elements that are not stored as float32."""
        if not isinstance(value, relax.Call) or not any(a in self.values for a in value.args):
            return binding
        assert str(value.op.name) in MOVES, "choose-layout gives others plain float32"
        args = [self.values.get(arg, arg) for arg in value.args]
        call = self.builder.normalize(relax.Call(value.op, args, value.attrs, value.ty_args))
        var = self.values[binding.var] = relax.DataflowVar(binding.var.name, call.ty)
        return relax.VarBinding(var, call)

    @staticmethod
    def _physical_type(logical: relax.TensorType, layout: Layout) -> relax.TensorType:
        if layout == PLAIN:
            return logical
        shape = layout.physical_shape(list(logical.shape.values))
        stored = layout.storage if layout.element != "float32" else str(logical.dtype.dtype)
        return relax.TensorType(shape, stored)


def _kernel_name(func: Any) -> str | None:
    if isinstance(func, relax.Function) and func.attrs and KERNEL in func.attrs:
        return str(func.attrs[KERNEL])
    return None
