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

from relaxc.layout import (
    CONCAT,
    FIRST_IMAGE,
    JOIN_IMAGES,
    KERNEL,
    LAYOUTS,
    MOVES,
    PLAIN,
    TAKE_IMAGES,
    TRAFFIC,
    VIEW,
    Layout,
)
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
        # What became of groups, which parts of a batch share, and what follows their own arguments.
        self.lowered: dict[tvm.ir.GlobalVar, tuple[tvm.ir.GlobalVar, list[relax.Expr]]] = {}

    def rewrite(self) -> IRModule:
        return rewrite_main(self.builder, self._block)

    def _block(self, block: relax.BindingBlock) -> list[relax.Binding]:
        out: list[relax.Binding] = []
        for binding in block.bindings:
            value: Any = getattr(binding, "value", None)
            is_call = isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.GlobalVar)
            if is_call and _kernel_name(self.mod[value.op]) == JOIN_IMAGES:
                out += self._joined(binding)
                continue
            lowered = self._binding(binding)
            out += [] if lowered is None else [lowered]
        return out

    def _joined(self, binding: relax.Binding) -> list[relax.Binding]:
        """Parts of a batch are copied into one buffer, which the first of them allocates."""
        call: Any = binding.value
        func = self.mod[call.op]
        *layouts, layout = [Layout.parse(str(text)) for text in func.attrs[LAYOUTS]]
        physical = self._physical_type(call.ty, layout)
        out: list[relax.Binding] = []
        first = 0
        for number, part in enumerate(call.args):
            copied = func.with_attr(FIRST_IMAGE, first)
            kernel = self.library.lower(copied, JOIN_IMAGES, [layouts[number], layout])
            code = kernel.func.with_attr(TRAFFIC, 2 * _stored_bytes(part.ty, layout))
            first += int(part.ty.shape.values[0])
            gvar = self.builder.add_func(code, kernel.name)
            args = [self.values.get(part, part), *map(relax.prim_value, kernel.scalars)]
            if out:
                args.append(out[-1].var)
                value = relax.op.call_tir_inplace(gvar, args, [len(args) - 1], physical)
            else:
                value = relax.call_tir(gvar, args, physical)
            is_last = number == len(call.args) - 1
            name = binding.var.name if is_last else f"{binding.var.name}.joined{number}"
            var: relax.Var = relax.DataflowVar(name, physical)
            if is_last and layout == PLAIN:
                var = binding.var
            elif is_last:
                self.values[binding.var] = var
            out.append(relax.VarBinding(var, self.builder.normalize(value)))
        return out

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
        if value.op not in self.lowered:
            kernel = self.library.lower(func, name, layouts)
            code = _with_traffic(kernel, func, layouts)
            more = [relax.const(array, array.dtype.name) for array in kernel.constants]
            more += [relax.prim_value(value) for value in kernel.scalars]
            self.lowered[value.op] = self.builder.add_func(code, kernel.name), more
        gvar, more = self.lowered[value.op]
        args = [*(self.values.get(arg, arg) for arg in value.args), *more]
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


def _with_traffic(
    kernel: LoweredKernel, func: relax.Function, layouts: Sequence[Layout]
) -> tirx.PrimFunc:
    """State what a kernel reads and writes if that is not the size of its tensors."""
    if _kernel_name(func) == TAKE_IMAGES:
        return kernel.func.with_attr(TRAFFIC, 2 * _stored_bytes(func.ret_ty, layouts[-1]))
    if not any(layout.pitch for layout in layouts):
        return kernel.func
    types = [*(param.ty for param in func.params), func.ret_ty]
    maps = sum(_stored_bytes(ty, layout) for ty, layout in zip(types, layouts))
    return kernel.func.with_attr(TRAFFIC, maps + sum(array.nbytes for array in kernel.constants))


def _stored_bytes(ty: relax.TensorType, layout: Layout) -> int:
    return layout.stored_bytes([int(dim) for dim in ty.shape.values])


def _kernel_name(func: Any) -> str | None:
    if isinstance(func, relax.Function) and func.attrs and KERNEL in func.attrs:
        return str(func.attrs[KERNEL])
    return None
