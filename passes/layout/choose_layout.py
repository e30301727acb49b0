"""Decide how every tensor lies in memory, and insert moves where two neighbours disagree.

Before:                                   After:
    gv = group_conv(x)                        moved = relayout_0(x)            plain -> blocked16
    y = R.reshape(gv, ...)                    gv = group_conv(moved)           layouts on group_conv
                                              moved_1 = relayout_1(gv)         blocked16 -> plain
                                              y = R.reshape(moved_1, ...)

Types stay logical: the decision is the attribute `layouts` of each group, one per parameter and
the last for the result. What is not in a group, and `main` itself, has plain layout. A tensor gets
the widest border that any of its readers asks for, so that it is written once, borders included.

Must run after: group-ops. Must run before: the target's lowering of groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import tvm
from tvm import IRModule, relax

from relaxc.layout import (
    CONCAT,
    ELEMENTS,
    KERNEL,
    LAYOUTS,
    MOVES,
    PLAIN,
    ROWS_E4M3,
    VIEW,
    Border,
    Demand,
    Element,
    Kind,
    Layout,
)
from relaxc.passes.base import Pass
from relaxc.passes.blocks import add_private, rewrite_main, substitute, with_value
from relaxc.passes.fuse.outline import with_own_symbols
from relaxc.passes.layout.share_buffers import Concatenation, SharedBuffers, share_buffers

_HALVES = ("float16", "bfloat16")


class LayoutLibrary(Protocol):
    """What the pass asks of a target."""

    @property
    def lanes(self) -> int:
        """Elements of a vector register."""

    def demands(self, func: relax.Function, data: Layout) -> Sequence[Demand]:
        """What a group asks of each parameter, if the first has the layout `data` now."""

    def result_layout(self, func: relax.Function, params: Sequence[Layout]) -> Layout:
        """How a group writes its result, given how its parameters lie; the border is ours."""

    @property
    def widens_halves(self) -> bool:
        """Whether conversions of halves at the model's edges are names for the same memory."""


@dataclass(frozen=True)
class ChooseLayout(Pass):
    """Annotate groups with layouts and insert moves between them.

    Attributes:
        library: the target's kernels.
    """

    library: LayoutLibrary

    name: ClassVar[str] = "choose-layout"
    opt_level: ClassVar[int] = 0
    required: ClassVar[bool] = True

    def apply(self, mod: IRModule) -> IRModule:
        """Walk `main` once, forward."""
        return _Chooser(self.library, mod).rewrite()


@dataclass
class _Chooser:
    library: LayoutLibrary
    mod: IRModule
    layouts: dict[relax.Var, Layout] = field(default_factory=dict)
    moved: dict[tuple[relax.Var, Layout], relax.Var] = field(default_factory=dict)
    shared: SharedBuffers = field(default_factory=SharedBuffers)

    def __post_init__(self) -> None:
        # Groups come back annotated; the originals would be duplicates.
        kept = {g: f for g, f in self.mod.functions_items() if not _is_group(f)}
        self.builder = relax.BlockBuilder(tvm.IRModule(kept, attrs=self.mod.attrs))
        self.main: relax.Function = self.mod["main"]
        self.borders = self._demanded_borders()

    def rewrite(self) -> IRModule:
        return rewrite_main(self.builder, self._block)

    def _block(self, block: relax.BindingBlock) -> list[relax.Binding]:
        self.shared = self._share(block)
        bindings: list[relax.Binding] = []
        for binding in block.bindings:
            self._binding(binding, bindings)
        results = self._plain_results(block, bindings)
        self.moved.clear()
        return results

    def _demanded_borders(self) -> dict[relax.Var, Border]:
        borders: dict[relax.Var, Border] = {}
        self.wanted_last: set[relax.Var] = set()
        for block in self.main.body.blocks:
            for binding in block.bindings:
                func = self._group(binding)
                if func is None:
                    continue
                for arg, demand in zip(binding.value.args, self._widest_demands(func)):
                    if demand.accepts == ("last",):
                        self.wanted_last.add(arg)
                    old = borders.get(arg, (0, 0, 0, 0))
                    top, left, bottom, right = (max(a, b) for a, b in zip(old, demand.border))
                    borders[arg] = (top, left, bottom, right)
        return borders

    def _share(self, block: relax.BindingBlock) -> SharedBuffers:
        """Decide which results of this block are slices of a concatenation's buffer."""
        concatenations: list[Concatenation] = []
        channels: dict[relax.Var, int] = {}
        placeable: dict[relax.Var, Element] = {}
        for binding in block.bindings:
            func = self._group(binding)
            if func is None:
                continue
            demands = self.library.demands(func, self._layout("blocked"))
            if func.attrs[KERNEL] == CONCAT:
                inputs = _concatenated(func, binding.value)
                element = _elements(func)[-1]
                concatenations.append(Concatenation(binding.var, inputs, element))
                channels |= {var: int(var.ty.shape.values[1]) for var in inputs}
                continue
            preferred = [self._layout(d.accepts[0]) for d in demands]
            if self.library.result_layout(func, preferred).kind == "blocked":
                placeable[binding.var] = _elements(func)[-1]
        return share_buffers(concatenations, channels, placeable, self.borders)

    def _concatenate(
        self, binding: relax.Binding, elements: Sequence[Element], out: list[relax.Binding]
    ) -> None:
        """Copy into place what was not written there; the concatenation is then a view."""
        args, layouts = [], []
        for var, place in self.shared.parts[binding.var]:
            layout = replace(
                self._layout("blocked"),
                border=self.shared.borders[place.buffer],
                slice=place,
                element=elements[-1],
            )
            args.append(var if self.layouts.get(var) == layout else self._move(var, layout, out))
            layouts.append(layout)
        place = self.shared.slices[binding.var]
        result = replace(layouts[0], slice=place)
        self.layouts[binding.var] = result
        params = [relax.Var(var.name, var.ty) for var in args]
        builder = relax.BlockBuilder()
        with builder.function(CONCAT, params, private=True):
            builder.emit_func_output(builder.emit(relax.op.concat(params, 1)))
        func = builder.get()[CONCAT].with_attrs(
            {KERNEL: CONCAT, LAYOUTS: [str(layout) for layout in (*layouts, result)]}
        )
        gvar = add_private(self.builder, relax.utils.copy_with_new_vars(func), CONCAT)
        out.append(relax.VarBinding(binding.var, self.builder.normalize(relax.Call(gvar, args))))

    def _widest_demands(self, func: relax.Function) -> Sequence[Demand]:
        """Demands on vector layouts, which alone have borders."""
        return self.library.demands(func, self._layout("blocked"))

    def _group(self, binding: relax.Binding) -> relax.Function | None:
        value = getattr(binding, "value", None)
        if isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.GlobalVar):
            func = self.mod[value.op]
            return func if _is_group(func) else None
        return None

    def _binding(self, binding: relax.Binding, out: list[relax.Binding]) -> None:
        func = self._group(binding)
        if func is None:
            view = self._renamed(binding, out) if self.library.widens_halves else None
            out.append(view or self._with_plain_arguments(binding, out))
            return
        if func.attrs[KERNEL] == CONCAT:
            self._concatenate(binding, _elements(func), out)
            return
        elements = _elements(func)
        call = binding.value
        args, layouts = [], []
        data = self.layouts.get(call.args[0], PLAIN) if call.args else PLAIN
        demands = self.library.demands(func, data)
        for arg, demand, element in zip(call.args, demands, elements):
            layout = self.layouts.get(arg, PLAIN)
            if not demand.met_by(layout) or layout.element != element:
                kind = layout.kind if layout.kind in demand.accepts else demand.accepts[0]
                border = demand.border if demand.exact else self.borders[arg]
                if element == ROWS_E4M3 and self.layouts.get(arg, PLAIN).kind != "plain":
                    # Rows are rounded where they lie one behind the other.
                    arg = self._move(arg, PLAIN.with_element(self.layouts[arg].element), out)
                layout = self._layout(kind).with_border(border).with_element(element)
                arg = self._move(arg, layout, out)
            args.append(arg)
            layouts.append(layout)
        result = self.library.result_layout(func, layouts).with_element(elements[-1])
        place = self.shared.slices.get(binding.var)
        if place is not None and result.kind == "blocked":
            result = replace(result, border=self.shared.borders[place.buffer], slice=place)
        elif result.kind != "plain" and func.attrs[KERNEL] != VIEW:
            if binding.var in self.wanted_last and self._fills_vectors(binding.var):
                result = Layout("last", element=result.element)
            result = result.with_border(self.borders.get(binding.var, (0, 0, 0, 0)))
        self.layouts[binding.var] = result
        annotated = relax.utils.copy_with_new_vars(func).with_attr(
            LAYOUTS, [str(layout) for layout in (*layouts, result)]
        )
        gvar = add_private(self.builder, annotated, call.op.name_hint)
        out.append(relax.VarBinding(binding.var, self.builder.normalize(relax.Call(gvar, args))))

    def _renamed(self, binding: relax.Binding, out: list[relax.Binding]) -> relax.Binding | None:
        """A conversion to or from halves of what is stored as these: another name for it."""
        value: Any = getattr(binding, "value", None)
        if not _is_operator(value, "relax.astype") or not isinstance(value.args[0], relax.Var):
            return None
        source, dtype = value.args[0], str(value.ty.dtype.dtype)
        given = str(source.ty.dtype.dtype)
        halves = PLAIN.with_element(dtype if dtype in _HALVES else given)
        if given in _HALVES and dtype == "float32":
            layouts = [PLAIN, halves]
            self.layouts[binding.var] = halves
        elif dtype in _HALVES and self.layouts.get(source, PLAIN).element == dtype:
            source = source if self.layouts[source] == halves else self._move(source, halves, out)
            layouts = [halves, PLAIN]
        else:
            return None
        param = relax.Var("x", with_own_symbols([source])[0])
        builder = relax.BlockBuilder()
        with builder.function(VIEW, [param], private=True):
            builder.emit_func_output(builder.emit(relax.op.astype(param, dtype)))
        func = builder.get()[VIEW].with_attrs({KERNEL: VIEW, LAYOUTS: list(map(str, layouts))})
        gvar = add_private(self.builder, relax.utils.copy_with_new_vars(func), VIEW)
        call = self.builder.normalize(relax.Call(gvar, [source]))
        return relax.VarBinding(binding.var, call)

    def _fills_vectors(self, var: relax.Var) -> bool:
        """Whether the channels of a map fill whole vectors, as kernels need to write them last."""
        return int(var.ty.shape.values[1]) % self.library.lanes == 0

    def _layout(self, kind: Kind) -> Layout:
        if kind == "blocked":
            return Layout("blocked", self.library.lanes)
        return Layout("last") if kind == "last" else PLAIN

    def _with_plain_arguments(
        self, binding: relax.Binding, out: list[relax.Binding]
    ) -> relax.Binding:
        value = getattr(binding, "value", None)
        if value is None:
            return binding
        wanted = PLAIN
        if is_move(value):
            element = self.layouts.get(value.args[0], PLAIN).element
            wanted = self.layouts[binding.var] = PLAIN.with_element(element)
        changed = {
            var: self._move(var, wanted, out)
            for var in relax.analysis.free_vars(value)
            # A symbolic dimension is a free variable too.
            if isinstance(var.ty, relax.TensorType) and self.layouts.get(var, PLAIN) != wanted
        }
        if not changed:
            return binding
        return with_value(binding, substitute(value, changed))

    def _plain_results(
        self, block: relax.BindingBlock, bindings: list[relax.Binding]
    ) -> list[relax.Binding]:
        """Give plain layout to what leaves the block."""
        results: list[relax.Binding] = []
        # What reads such a value within the block expects the layout that it had.
        inside: dict[relax.Var, relax.Var] = {}
        for binding in bindings:
            var = binding.var
            if inside and any(v in inside for v in relax.analysis.free_vars(binding.value)):
                binding = with_value(binding, substitute(binding.value, inside))
            leaves = not isinstance(var, relax.DataflowVar)
            if not leaves or self.layouts.get(var, PLAIN) == PLAIN:
                results.append(binding)
                continue
            inner = relax.DataflowVar(var.name, var.ty)
            self.layouts[inner] = self.layouts.pop(var)
            inside[var] = inner
            results.append(relax.VarBinding(inner, binding.value))
            call = self._relayout_call(inner, PLAIN)
            results.append(relax.VarBinding(var, call))
        return results

    def _move(self, var: relax.Var, layout: Layout, out: list[relax.Binding]) -> relax.Var:
        key = (var, layout)
        if key not in self.moved:
            moved = relax.DataflowVar(f"{var.name}.{layout}", var.ty)
            out.append(relax.VarBinding(moved, self._relayout_call(var, layout)))
            self.layouts[moved] = layout
            self.moved[key] = moved
        return self.moved[key]

    def _relayout_call(self, var: relax.Var, layout: Layout) -> relax.Call:
        param = relax.Var("x", with_own_symbols([var])[0])
        builder = relax.BlockBuilder()
        with builder.function("relayout", [param], private=True):
            builder.emit_func_output(param)
        layouts = [str(self.layouts.get(var, PLAIN)), str(layout)]
        func = builder.get()["relayout"].with_attrs({KERNEL: "relayout", LAYOUTS: layouts})
        # A symbolic dimension belongs to one function only.
        gvar = add_private(self.builder, relax.utils.copy_with_new_vars(func), "relayout")
        return self.builder.normalize(relax.Call(gvar, [var]))


def _concatenated(func: relax.Function, call: relax.Call) -> tuple[relax.Var, ...]:
    """What a concatenation joins, in order; a tensor may occur more than once."""
    outer = dict(zip(func.params, call.args))
    return tuple(outer[field] for field in func.body.blocks[0].bindings[0].value.args[0].fields)


def is_move(value: relax.Expr) -> bool:
    """Whether an expression moves the elements of a float32 tensor without looking at them."""
    is_float = _is_operator(value, *MOVES) and str(value.args[0].ty.dtype.dtype) == "float32"
    return bool(is_float)


def _is_operator(value: relax.Expr, *names: str) -> bool:
    is_call = isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op)
    return is_call and str(value.op.name) in names


def _elements(func: relax.Function) -> list[Element]:
    """How the parameters and the result of a group are stored; float32 if nothing else is said."""
    stored = func.attrs.get(ELEMENTS)
    if stored is None:
        return ["float32"] * (len(func.params) + 1)
    return [str(element) for element in stored]


def _is_group(func: tvm.ir.BaseFunc) -> bool:
    return isinstance(func, relax.Function) and bool(func.attrs) and KERNEL in func.attrs
