"""Give every PrimFunc that is not a kernel of ours loops, threads and vectors.

A PrimFunc comes in as blocks under plain loops, one after another. It leaves as one function in
which cheap blocks are inlined, epilogues are attached to reductions, and each remaining block is
written by the first rule that fits:

    assign.py    no reduction: long loops that LLVM vectorizes; transposes in register squares
    reduce.py    a reduction: register tiles of vectors

Blocks that run through the same leading axes and hand data on within one step of them only (the
softmax of a row, the normalization of a map) share those loops, so that what they hand on stays in
the cache. What is not made of such blocks stays as it is; the attribute `schedule` says so.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import tvm
from tvm import IRModule, tirx
from tvm.tirx.buffer import BufferType
from tvm_ffi import StructuralKey

from relaxc.targets.llvm.kernels.builder import PARTS, Expr, KernelBuilder, index
from relaxc.targets.llvm.kernels.domain import simple
from relaxc.targets.llvm.kernels.loops import grid
from relaxc.targets.llvm.machine import Machine
from relaxc.targets.llvm.schedule.access import Place, flattened
from relaxc.targets.llvm.schedule.assign import emit_assignment, work_of
from relaxc.targets.llvm.schedule.inline import inline, is_contraction
from relaxc.targets.llvm.schedule.nest import (
    Axis,
    Nest,
    Program,
    loads_of,
    read_program,
    substitute,
)
from relaxc.targets.llvm.schedule.reduce import emit_reduction

ATTRIBUTE = "schedule"


def schedule_nests(machine: Machine) -> tvm.transform.Pass:
    """The pass, for one CPU."""

    @tvm.transform.module_pass(opt_level=0, name="schedule")
    def run(mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        out = mod.clone()
        for gvar, func in mod.functions_items():
            if isinstance(func, tirx.PrimFunc) and "tirx.is_scheduled" not in func.attrs:
                out[gvar] = schedule(func, machine)
        return out

    return run


def schedule(func: tirx.PrimFunc, machine: Machine) -> tirx.PrimFunc:
    """The scheduled function; or the same one, marked, where no rule applies."""
    program = read_program(func)
    if program is None:
        return func.with_attr(ATTRIBUTE, "none: not a sequence of loop nests")
    return _Writer(inline(program), machine).write()


class _Writer:
    def __init__(self, program: Program, machine: Machine) -> None:
        self.program = program
        self.machine = machine
        self.b = KernelBuilder("", machine.lanes)
        self.places: dict[Any, Place] = {}
        self.names: dict[StructuralKey, Expr] = {}
        self.nests: list[Nest] = []

    def _named(self, dims: Any) -> tuple[Expr, ...]:
        """Dimensions, where each compound expression is computed once, in the beginning.

        TVM's LowerIntrin (0.27) writes a quotient that occurs in several places with one variable,
        and then trips over its second definition.
        """
        result = []
        for dim in dims:
            if not isinstance(dim, tirx.IntImm | tirx.Var):
                key = StructuralKey(dim)
                dim = self.names[key] if key in self.names else self.b.opaque(dim)
                self.names[key] = dim
            result.append(dim)
        return tuple(result)

    def write(self) -> tirx.PrimFunc:
        func = self.program.func
        for param in func.params:
            if isinstance(param.ty, BufferType):
                shape = self._named(param.shape)
                flat = tirx.decl_buffer(
                    (_size(param.shape),), str(param.dtype), f"{param.name}_flat"
                )
                self.b.emit(tirx.DeclBuffer(flat, data=param.data))
                self.places[param] = Place(flat, shape)
        self.nests = [self._with_named_extents(nest) for nest in self.program.nests]
        shared = shared_axes(self.program)
        if shared:
            self._together(shared)
            how = f"{shared} axes shared"
        else:
            for buffer in self.program.internal:
                self._allocate(buffer, 0, 1)
            for nest in self.nests:
                self._emit(nest, parallel=True)
            how = "one by one"
        out = func.with_body(self.b.body()).without_attr("s_tir")
        return out.with_attrs({"tirx.is_scheduled": True, ATTRIBUTE: how})

    def _with_named_extents(self, nest: Nest) -> Nest:
        def named(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
            return tuple(Axis(a.var, e) for a, e in zip(axes, self._named(a.extent for a in axes)))

        return replace(nest, spatial=named(nest.spatial), reduction=named(nest.reduction))

    def _allocate(self, buffer: Any, dropped: int, copies: int) -> Expr:
        """Memory for an internal buffer, or a copy per task; returns the size of one."""
        shape = self._named(buffer.shape)
        # Allocations move to the start of the function, in front of what is named there.
        size = _size(buffer.shape[dropped:])
        if copies > 1:  # tasks must not write to the same cache line
            size = index(simple((size + 15) // 16 * 16))
        flat = self.b.workspace(index(simple(size * copies)), str(buffer.dtype), buffer.name)
        self.places[buffer] = Place(flat.data, shape, dropped)
        return size

    def _emit(self, nest: Nest, parallel: bool) -> None:
        flat = flattened(nest, self.places)
        if flat.reduction:
            emit_reduction(self.b, flat, self.machine.registers, parallel)
        else:
            emit_assignment(self.b, flat, parallel)

    def _together(self, shared: int) -> None:
        """All nests inside of the loops that they have in common."""
        nests, b = self.nests, self.b
        sizes = {
            x: self._allocate(x, _dims(x, shared, nests), PARTS) for x in self.program.internal
        }
        work: Any = 0
        for nest in nests:
            work = work + work_of(nest)

        def body(indices: list[Expr], task: Expr) -> None:
            for buffer, size in sizes.items():
                place = self.places[buffer]
                self.places[buffer] = replace(place, offset=b.let(task * size))
            for nest in nests:
                inner = _at(nest, {a.var: i for a, i in zip(nest.spatial, indices)})
                self._emit(replace(inner, spatial=nest.spatial[shared:]), parallel=False)

        grid(b, [a.extent for a in nests[0].spatial[:shared]], work, body)


def _at(nest: Nest, values: dict[Any, Expr]) -> Nest:
    return nest.mapped(lambda expr: substitute(expr, values))


def _size(shape: Any) -> Expr:
    size: Expr = index(1)
    for dim in shape:
        size = size * dim
    return size


def _dims(buffer: Any, shared: int, nests: list[Nest]) -> int:
    """How many leading dimensions of a buffer the shared axes take, ones among them."""
    indices = next(
        s.indices for n in nests for s in (*n.stores, *n.finals) if s.buffer.same_as(buffer)
    )
    wide = [i for i, at in enumerate(indices) if not isinstance(at, tirx.IntImm)]
    return wide[shared - 1] + 1


def shared_axes(program: Program) -> int:
    """How many leading axes all nests have in common, such that data stay within a step of them."""
    nests = program.nests
    if len(nests) < 2 or not any(n.reduction for n in nests) or any(map(is_contraction, nests)):
        return 0
    analyzer = tvm.sym.Analyzer()
    count = 0
    while all(count < len(n.spatial) for n in nests):
        first = nests[0].spatial[count].extent
        same = all(analyzer.can_prove_equal(n.spatial[count].extent, first) for n in nests)
        if not same or not _stays(program, count + 1):
            break
        count += 1
    return count


def _stays(program: Program, count: int) -> bool:
    """Whether internal buffers are accessed at the same `count` leading indices by all nests."""
    internal = set(program.internal)
    for nest in program.nests:
        leading = [a.var for a in nest.spatial[:count]]
        places = [(s.buffer, s.indices) for s in (*nest.stores, *nest.finals)]
        for store in (*nest.stores, *nest.finals):
            places += [(load.source, tuple(load.indices)) for load in loads_of(store.value)]
        for buffer, indices in places:
            if buffer not in internal:
                continue
            wide = [i for i in indices if not isinstance(i, tirx.IntImm)]
            if len(wide) < count or not all(
                isinstance(i, tirx.Var) and i.same_as(v) for i, v in zip(wide, leading)
            ):
                return False
    return True
