"""Decide which tensors are stored, and hence multiplied, as bfloat16 (or float16 in its place).

Before:                                   After:
    lv = matmul_0(x)                          groups carry the attribute `elements`, one per
    lv1 = norm_1(lv, x)                       parameter and the last for the result:
    gv = matmul_2(lv1)                        matmul_0 ["bfloat16", "bfloat16"]
                                              norm_1   ["bfloat16", "float32", "bfloat16"]
                                              matmul_2 ["bfloat16", "float32"]

Types stay logical (float32): the target's kernels read and write what `elements` says, accumulate
in float32, and compute norms, softmax and epilogues in float32. choose-layout inserts the
conversions, above that of `x` for the first product.

A group's result is bfloat16 when 1. a group reads it, directly or through moves (reshapes ...);
                                 2. precision is at stake already: a product reads it, or it is a
                                    product, or an operand of its group is bfloat16;
                                 3. it is no sum of residuals over rows, which the layers add to:
                                    there rounding errors would add up. It is one when groups for
                                    which the target says so read it beside products.
                                 A conversion to halves is such a reader: results of the model.
A norm's result is e4m3 if nobody but products that want it so read it.
So inputs, outputs, what operators outside of groups read, and arithmetic on positions and masks
that no product has touched stay float32. Concatenations are bfloat16 throughout, because their
operands lie in one buffer.
Changes results by: 2**-9 (float16: 2**-11) relative per rounding; sums of n products by
about as much of their norm.
Must run after: group-ops; before: choose-layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import tvm
from tvm import IRModule, relax

from relaxc.layout import CONCAT, ELEMENTS, KERNEL, MOVES, ROWS_E4M3, VIEW, Element, Quantization
from relaxc.passes.base import Pass


class PrecisionLibrary(Protocol):
    """What the pass asks of a target."""

    def elements(self, func: relax.Function) -> Sequence[Element | None]:
        """How a group must have each parameter stored; None where it reads either."""

    def is_product(self, func: relax.Function) -> bool:
        """Whether a group computes sums of products."""

    def can_round_result(self, func: relax.Function) -> bool:
        """Whether a group's kernel rounds whole rows of its result to e4m3."""

    def keeps_residuals(self, func: relax.Function) -> bool:
        """Whether a group adds to, or normalizes, sums that should stay float32."""

    @property
    def widens_halves(self) -> bool:
        """Whether conversions at the edges of the model are other names for the same memory."""


@dataclass(frozen=True)
class ChoosePrecision(Pass):
    """Annotate groups with the elements that they read and write.

    Attributes:
        library: the target's kernels.
        element: bfloat16, or float16 in its place.
    """

    library: PrecisionLibrary
    element: Element = "bfloat16"

    name: ClassVar[str] = "choose-precision"
    opt_level: ClassVar[int] = 0
    required: ClassVar[bool] = True

    def apply(self, mod: IRModule) -> IRModule:
        """Walk `main` backward for the readers of every tensor, then forward."""
        calls = set(_group_calls(mod))
        readers = _Readers(self.library, mod, self.element)
        stored: dict[relax.Var, Element] = {}
        after = mod.clone()
        for binding in _bindings(mod):
            source = _moved(binding.value)
            if source is not None:
                stored[binding.var] = stored.get(source, "float32")
            if _widened(binding.value, self.element) and self.library.widens_halves:
                stored[binding.var] = self.element
            if binding.var not in calls:
                continue
            func = mod[binding.value.op]
            elements = self._elements(func, binding, stored, readers)
            stored[binding.var] = elements[-1]
            after[binding.value.op] = func.with_attr(ELEMENTS, list(elements))
        return after

    def _elements(
        self,
        func: relax.Function,
        binding: relax.Binding,
        stored: dict[relax.Var, Element],
        readers: _Readers,
    ) -> list[Element]:
        """One per parameter, and the result's."""
        args = binding.value.args
        if func.attrs[KERNEL] == CONCAT:
            return [self.element] * (len(args) + 1)
        found: list[Element] = [stored.get(arg, "float32") for arg in args]
        if func.attrs[KERNEL] == VIEW:
            return [*found, *found]
        params = [wish or now for wish, now in zip(self.library.elements(func), found)]
        # What realize-quantization stores as bytes stays so.
        bytes_ = [str(e) if Quantization.of(str(e)) else None for e in func.attrs.get(ELEMENTS, ())]
        params = [known or new for known, new in zip(bytes_, params)] if bytes_ else params
        if bytes_ and bytes_[-1] is not None:
            return [*params, bytes_[-1]]
        rounded = (
            binding.var in readers.products
            or self.library.is_product(func)
            or self.element in params
        )
        if readers.wishes.get(binding.var) == {ROWS_E4M3} and self.library.can_round_result(func):
            return [*params, ROWS_E4M3]
        is_read = binding.var in readers.groups and binding.var not in readers.residuals
        return [*params, self.element if rounded and is_read else "float32"]


class _Readers:
    """Which tensors are read by groups.

    Attributes:
        groups: read by any group, directly or through moves.
        products: read by one that wants it as bfloat16.
        wishes: how readers want it; None for what is no group, or leaves.
        residuals: read, but for that, by such as keep residuals only, and by one at least.
    """

    def __init__(self, library: PrecisionLibrary, mod: IRModule, element: Element) -> None:
        self.groups: set[relax.Var] = set()
        self.products: set[relax.Var] = set()
        self.wishes: dict[relax.Var, set[Element | None]] = {}
        kept: set[relax.Var] = set()
        others: set[relax.Var] = set()
        calls = set(_group_calls(mod))
        for binding in reversed(list(_bindings(mod))):
            if not isinstance(binding.var, relax.DataflowVar):
                self.wishes.setdefault(binding.var, set()).add(None)
            if binding.var not in calls:
                for var in relax.analysis.free_vars(binding.value):
                    self.wishes.setdefault(var, set()).add(None)
            source = _moved(binding.value)
            if source is not None:
                for known in (self.groups, self.products, kept, others):
                    if binding.var in known:
                        known.add(source)
            narrowed = _narrowed(binding.value, element)
            if narrowed is not None and library.widens_halves:
                self.groups.add(narrowed)
                self.products.add(narrowed)
            if binding.var not in calls:
                continue
            func = mod[binding.value.op]
            joined = func.attrs[KERNEL] == CONCAT
            wishes = [None] * len(func.params) if joined else library.elements(func)
            for arg, wish in zip(binding.value.args, wishes):
                self.groups.add(arg)
                self.wishes.setdefault(arg, set()).add(wish)
                if wish not in (None, "float32") or (joined and binding.var in self.products):
                    self.products.add(arg)
                elif wish is None:
                    (kept if not joined and library.keeps_residuals(func) else others).add(arg)
        self.residuals = kept - others


def _bindings(mod: IRModule) -> Iterator[relax.Binding]:
    for block in mod["main"].body.blocks:
        yield from (b for b in block.bindings if isinstance(b, relax.VarBinding))


def _group_calls(mod: IRModule) -> Iterator[relax.Var]:
    """Variables that hold a group's result."""
    for binding in _bindings(mod):
        value = binding.value
        if isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.GlobalVar):
            func = mod[value.op]
            if isinstance(func, relax.Function) and func.attrs and KERNEL in func.attrs:
                yield binding.var


def _moved(value: relax.Expr) -> relax.Var | None:
    """The variable whose elements an operator outside of groups moves, if it does just that."""
    if not isinstance(value, relax.Call) or not isinstance(value.op, tvm.ir.Op):
        return None
    moves = str(value.op.name) in MOVES and isinstance(value.args[0], relax.Var)
    return value.args[0] if moves else None


def _widened(value: relax.Expr, element: Element) -> bool:
    """Whether a value is a tensor of halves, an input say, as float32."""
    return _cast(value, element, "float32") is not None


def _narrowed(value: relax.Expr, element: Element) -> relax.Var | None:
    """The float32 tensor that leaves as halves here."""
    return _cast(value, "float32", element)


def _cast(value: relax.Expr, source: Element, result: Element) -> relax.Var | None:
    if not isinstance(value, relax.Call) or str(getattr(value.op, "name", "")) != "relax.astype":
        return None
    if str(value.args[0].ty.dtype.dtype) != source or str(value.ty.dtype.dtype) != result:
        return None
    return value.args[0] if isinstance(value.args[0], relax.Var) else None
