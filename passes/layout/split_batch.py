"""Run the images of a batch part by part where their maps do not fit the cache together.

Before:                                     After:
    a = group_conv(x)      (8, ...)             x0 = take_images(x)         (2, ...)
    y = group_conv_1(a)                         a0 = group_conv(x0)
                                                y0 = group_conv_1(a0)
                                                x1 = take_images(x)
                                                ...
                                                y = join_images(y0, ..., y3)

All parts call the same kernels with the same weights, and memory planning lets them share the
memory of their maps. Which bindings, and how many images: `batch_plan`.

Fires when: 1. the batch is static; 2. bindings are calls of groups on maps (n, c, h, w), which do
the same with every image; 3. a group of fewer images can read the layouts that were chosen.
Exact, unless a kernel chooses another algorithm for fewer images. Leaves alone: tensors of other
ranks, so transformers; buffers of concatenations unless all that share one are run by parts.

Must run after: choose-layout, whose layouts stay. Must run before: lower-groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import tvm
from tvm import IRModule, relax

from relaxc.layout import (
    CONCAT,
    FIRST_IMAGE,
    IMAGE,
    JOIN_IMAGES,
    KERNEL,
    LAYOUTS,
    PLAIN,
    RELAYOUT,
    TAKE_IMAGES,
    Demand,
    Layout,
)
from relaxc.passes.analysis.cost import size_bytes
from relaxc.passes.base import Pass
from relaxc.passes.blocks import add_private, rewrite_main
from relaxc.passes.layout.batch_plan import Step, best_runs, images_per_part
from relaxc.passes.layout.fewer_images import (
    dims_of,
    is_batch,
    layouts_of,
    static_map,
    weights_of,
    with_fewer_images,
)

_LINE = 64


class BatchLibrary(Protocol):
    """What the pass asks of a target."""

    @property
    def cores(self) -> int:
        """How many share the work of a kernel."""

    @property
    def cached_bytes(self) -> int:
        """Bytes of maps that stay in a cache from one kernel to the next; 0: does not matter."""

    def demands(self, func: relax.Function, data: Layout) -> Sequence[Demand]:
        """What a group asks of each parameter, if the first has the layout `data` now."""


@dataclass(frozen=True)
class SplitBatch(Pass):
    """Repeat bindings per image of a batch where that keeps maps in the cache.

    Attributes:
        library: the target's kernels.
    """

    library: BatchLibrary

    name: ClassVar[str] = "split-batch"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite `main`."""
        batch = _batch(mod["main"])
        if batch is None or self.library.cached_bytes == 0:
            return mod
        return _Splitter(self.library, mod, batch).rewrite()


@dataclass
class _Splitter:
    library: BatchLibrary
    mod: IRModule
    batch: int
    builder: relax.BlockBuilder = field(init=False)
    images: int = field(init=False)
    # Group -> the same of fewer images; None where there is none.
    smaller: dict[tvm.ir.GlobalVar, relax.Function | None] = field(default_factory=dict)
    added: dict[tvm.ir.GlobalVar, tvm.ir.GlobalVar] = field(default_factory=dict)
    replaced: list[tvm.ir.GlobalVar] = field(default_factory=list)
    pitch: int = 0

    def __post_init__(self) -> None:
        self.builder = relax.BlockBuilder(self.mod.clone())
        self.images = images_per_part(self.batch, self.library.cores)

    @property
    def parts(self) -> int:
        return self.batch // self.images

    def rewrite(self) -> IRModule:
        if self.parts == 1:
            return self.mod
        out = rewrite_main(self.builder, self._block)
        for gvar in self.replaced:  # every group is called once
            del out[gvar]
        return out

    def _block(self, block: relax.BindingBlock) -> list[relax.Binding]:
        bindings = list(block.bindings)
        out: list[relax.Binding] = []
        done = 0
        for start, end in self._runs(bindings):
            out += bindings[done:start]
            out += self._by_parts(bindings[start:end], _read_later(bindings, end))
            self.replaced += [binding.value.op for binding in bindings[start:end]]
            done = end
        return out + bindings[done:]

    def _runs(self, bindings: list[relax.Binding]) -> list[tuple[int, int]]:
        """Where parts pay; buffers that concatenations share are all in, or all out."""
        funcs = [self._group(binding) for binding in bindings]
        spans = _merged(_buffer_spans(funcs))
        units = [(i, i + 1) for i in range(len(bindings)) if not _inside(spans, i)] + spans
        units.sort()
        steps = [self._step(bindings[a:b], funcs[a:b]) for a, b in units]
        # Copies between layouts read an image of a batch as easily as one alone.
        cut = [f is None or f.attrs[KERNEL] != RELAYOUT for f in funcs]
        entering, leaving = (
            [places[a] for a, _ in units] + [places[-1]]
            for places in (
                self._crossing(bindings, cut),
                self._crossing(bindings, [True] * len(cut)),
            )
        )
        runs = best_runs(steps, entering, leaving, self.parts, self.library.cached_bytes)
        return [(units[a][0], units[b - 1][1]) for a, b in runs]

    def _crossing(self, bindings: list[relax.Binding], counts: list[bool]) -> list[int]:
        """For every place around bindings, the bytes of maps that are read across it.

        Args:
            bindings: of a block.
            counts: which of them count as readers.
        """
        last: dict[relax.Var, int] = {}
        for i, binding in enumerate(bindings):
            if counts[i]:
                last.update(dict.fromkeys(relax.analysis.free_vars(binding.value), i))
        made = {binding.var: i for i, binding in enumerate(bindings)}
        last |= {v: len(bindings) for v in made if not isinstance(v, relax.DataflowVar)}
        places = [0] * (len(bindings) + 1)
        for var, end in last.items():
            if self._has_batch(var.ty):
                for i in range(made.get(var, -1) + 1, end + 1):
                    places[i] += size_bytes(var)
        return places

    def _step(
        self,
        bindings: Sequence[relax.Binding],
        funcs: Sequence[relax.Function | None],
    ) -> Step | None:
        maps = weights = 0
        transforms = False
        for binding, func in zip(bindings, funcs):
            if func is None or self._smaller(binding.value.op) is None:
                return None
            if func.attrs[KERNEL] != CONCAT:
                *layouts, result = layouts_of(func)
                for param, layout in zip(func.params, layouts):
                    if self._has_batch(param.ty):
                        maps += layout.stored_bytes(dims_of(param.ty))
                maps += result.stored_bytes(dims_of(func.ret_ty))
            size, taps = weights_of(func)
            weights += size
            transforms = transforms or taps > 1
        return Step(maps, weights, transforms)

    def _group(self, binding: relax.Binding) -> relax.Function | None:
        value = getattr(binding, "value", None)
        if isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.GlobalVar):
            func = self.mod[value.op]
            if isinstance(func, relax.Function) and func.attrs and KERNEL in func.attrs:
                return func
        return None

    def _has_batch(self, ty: relax.Type) -> bool:
        return is_batch(ty, self.batch)

    def _smaller(self, gvar: tvm.ir.GlobalVar) -> relax.Function | None:
        """The group on fewer images, if it is one that does the same with each."""
        if gvar not in self.smaller:
            self.smaller[gvar] = with_fewer_images(
                self.mod[gvar], self.batch, self.images, self.library.demands
            )
        return self.smaller[gvar]

    def _by_parts(
        self, bindings: Sequence[relax.Binding], leaving: set[relax.Var]
    ) -> list[relax.Binding]:
        out: list[relax.Binding] = []
        results: dict[relax.Var, list[relax.Var]] = {}
        self.pitch = 0 if self.images == 1 else self._largest_image(bindings)
        for part in range(self.parts):
            mapped: dict[relax.Var, relax.Var] = {}
            for binding in bindings:
                self._part_of(binding, part, mapped, out)
                results.setdefault(binding.var, []).append(mapped[binding.var])
        layouts = {b.var: layouts_of(self.mod[b.value.op])[-1] for b in bindings}
        for binding in bindings:
            if binding.var in leaving:
                call = self._join(results[binding.var], layouts[binding.var], binding.var.ty)
                out.append(relax.VarBinding(binding.var, call))
        return out

    def _largest_image(self, bindings: Sequence[relax.Binding]) -> int:
        """Bytes of the largest map of one image, borders included, in whole cache lines.

        Maps that enter count as well: they may be larger than all that are computed.
        """
        largest = 0
        for binding in bindings:
            func = self.mod[binding.value.op]
            types = [*(param.ty for param in func.params), func.ret_ty]
            for ty, layout in zip(types, layouts_of(func)):
                if self._has_batch(ty):
                    one = layout.physical_shape([1, *dims_of(ty)[1:]])
                    largest = max(largest, layout.stored_bytes(one))
        return -(-largest // _LINE) * _LINE

    def _apart(self, layout: Layout, ty: relax.Type) -> Layout:
        """The layout of a part: images lie equally far apart in all tensors.

        Then a core that computes an image finds memory where it wrote before, not what another one
        wrote, which it would have to wait for.
        """
        if not self.pitch or not self._has_batch(ty) or layout.same_memory(PLAIN):
            return layout
        return replace(layout, pitch=self.pitch // layout.stored_bytes([1]))

    def _apart_all(self, func: relax.Function) -> list[Layout]:
        """The layouts of a group, of a part."""
        types = [*(param.ty for param in func.params), func.ret_ty]
        return [self._apart(layout, ty) for layout, ty in zip(layouts_of(func), types)]

    def _part_of(
        self,
        binding: relax.Binding,
        part: int,
        mapped: dict[relax.Var, relax.Var],
        out: list[relax.Binding],
    ) -> None:
        call = binding.value
        func = self.mod[call.op]

        def emit(value: relax.Expr, name: str) -> relax.Var:
            value = self.builder.normalize(value)
            var = relax.DataflowVar(f"{name}.{IMAGE}{part}", value.ty)
            out.append(relax.VarBinding(var, value))
            return var

        entering = [v for v in call.args if v not in mapped and self._has_batch(v.ty)]
        if func.attrs[KERNEL] == RELAYOUT and entering:
            layouts = [layouts_of(func)[0], self._apart_all(func)[1]]
            taken = self._take(call.args[0], part, layouts)
            mapped[binding.var] = emit(taken, binding.var.name)
            return
        for var in entering:
            at = list(call.args).index(var)
            layouts = [layouts_of(func)[at], self._apart_all(func)[at]]
            mapped[var] = emit(self._take(var, part, layouts), var.name)
        if call.op not in self.added:
            smaller = self._smaller(call.op)
            assert smaller is not None, "only such bindings are in a run"
            apart = [str(layout) for layout in self._apart_all(func)]
            annotated = smaller.with_attr(LAYOUTS, apart)
            self.added[call.op] = add_private(self.builder, annotated, call.op.name_hint)
        args = [mapped.get(arg, arg) for arg in call.args]
        mapped[binding.var] = emit(relax.Call(self.added[call.op], args), binding.var.name)

    def _take(self, var: relax.Var, part: int, layouts: Sequence[Layout]) -> relax.Call:
        first = part * self.images
        param = relax.Var("x", var.ty)
        builder = relax.BlockBuilder()
        with builder.function(TAKE_IMAGES, [param], private=True):
            images = relax.op.strided_slice(param, [0], [first], [first + self.images])
            builder.emit_func_output(builder.emit(images))
        attrs = {KERNEL: TAKE_IMAGES, LAYOUTS: [str(la) for la in layouts], FIRST_IMAGE: first}
        return relax.Call(self._add(builder, attrs), [var])

    def _join(self, parts: Sequence[relax.Var], layout: Layout, call_ty: relax.Type) -> relax.Expr:
        params = [relax.Var(f"x{i}", var.ty) for i, var in enumerate(parts)]
        builder = relax.BlockBuilder()
        with builder.function(JOIN_IMAGES, params, private=True):
            builder.emit_func_output(builder.emit(relax.op.concat(params, 0)))
        layouts = [self._apart(layout, call_ty)] * len(parts) + [layout]
        attrs = {KERNEL: JOIN_IMAGES, LAYOUTS: [str(la) for la in layouts]}
        return self.builder.normalize(relax.Call(self._add(builder, attrs), list(parts)))

    def _add(self, builder: relax.BlockBuilder, attrs: Mapping[str, Any]) -> tvm.ir.GlobalVar:
        func = builder.get()[str(attrs[KERNEL])].with_attrs(dict(attrs))
        return add_private(self.builder, func, str(attrs[KERNEL]))


def _batch(main: relax.Function) -> int | None:
    """The images of the first input that is a map of several."""
    found = (static_map(param.ty) for param in main.params)
    return next((dims[0] for dims in found if dims is not None and dims[0] > 1), None)


def _buffer_spans(funcs: Sequence[relax.Function | None]) -> list[tuple[int, int]]:
    """Half-open ranges from the first to the last use of every buffer of concatenations."""
    found: dict[int, tuple[int, int]] = {}
    for i, func in enumerate(funcs):
        for layout in [] if func is None else layouts_of(func):
            if layout.slice is not None:
                first, _ = found.get(layout.slice.buffer, (i, i))
                found[layout.slice.buffer] = (first, i + 1)
    return sorted(found.values())


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for start, end in spans:
        if out and start < out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out


def _inside(spans: Sequence[tuple[int, int]], index: int) -> bool:
    return any(start <= index < end for start, end in spans)


def _read_later(bindings: Sequence[relax.Binding], end: int) -> set[relax.Var]:
    """Variables that bindings from `end` on read, or that leave the block."""
    found = {b.var for b in bindings if not isinstance(b.var, relax.DataflowVar)}
    for binding in bindings[end:]:
        found.update(relax.analysis.free_vars(binding.value))
    return found
