"""Put the target's kernel in the place of the loop nests that resize a tensor axis by axis.

Before:                                                     After:
    lv = R.call_tir(resize, (x, weights3, places3), ...)        gv = R.call_tir(kernel, (x, ...))
    gv = R.call_tir(resize1, (lv, weights2, places2), ...)

Fires when: 1. the PrimFunc says which axis it resizes;
            2. its tables are constants, its data are float32;
            3. the target has a kernel: for the last two axes together, where nothing else reads
               what is between them, or for one.
Leaves alone: everything else, whose loop nests stay.
Exact up to the order of the axes: columns before rows.
Must run after: fold-kernels, which makes the tables constants. Must run before: fuse-ops.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from tvm import IRModule, relax, tirx
from tvm.ir import GenericConst, GlobalVar

from relaxc.layout import RESIZED_AXIS
from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_main
from relaxc.passes.layout.lower_groups import LoweredKernel

# An axis, its positions, and its weights if it has any.
Axis = tuple[int, np.ndarray, "np.ndarray | None"]


class ResizeLibrary(Protocol):
    """What the pass asks of a target."""

    def lower_resize(self, shape: Sequence[Any], axes: Sequence[Axis]) -> LoweredKernel | None:
        """A kernel over the data, then its constants, then the result."""


@dataclass(frozen=True)
class LowerResize(Pass):
    """Replace loop nests that resize by kernels.

    Attributes:
        library: the target's kernels.
    """

    library: ResizeLibrary

    name: ClassVar[str] = "lower-resize"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite `main`."""
        builder = relax.BlockBuilder(mod)
        rewriter = _Rewriter(self.library, builder, mod, _read_once(mod["main"]))
        lowered = rewrite_main(builder, rewriter.rewritten)
        return relax.transform.DeadCodeElimination()(lowered)


def _read_once(func: relax.Function) -> set[relax.Var]:
    """Variables that one binding reads, and no result."""
    found: Counter[relax.Var] = Counter()
    for block in func.body.blocks:
        for binding in block.bindings:
            found.update(relax.analysis.free_vars(binding.value))
    found.update(2 * list(relax.analysis.free_vars(func.body.body)))
    return {var for var, times in found.items() if times == 1}


class _Rewriter:
    def __init__(
        self,
        library: ResizeLibrary,
        builder: relax.BlockBuilder,
        mod: IRModule,
        read_once: set[relax.Var],
    ) -> None:
        self.library, self.builder, self.mod, self.read_once = library, builder, mod, read_once

    def rewritten(self, block: relax.BindingBlock) -> list[relax.Binding]:
        """The bindings of a block."""
        calls = {b.var: b.value for b in block.bindings if isinstance(b, relax.VarBinding)}
        result = []
        for binding in block.bindings:
            value = calls.get(binding.var)
            own = self._axis(value)
            kernel = None if own is None else self._lowered(value, own, calls)
            # What is left of the first of two axes is read by nobody.
            result.append(binding if kernel is None else relax.VarBinding(binding.var, kernel))
        return result

    def _lowered(
        self, call: relax.Call, own: Axis, calls: dict[relax.Var, relax.Expr]
    ) -> relax.Expr | None:
        data = call.args[1].fields[0]
        # 3. Both axes, else this one.
        before = calls.get(data) if isinstance(data, relax.Var) and data in self.read_once else None
        other = None if before is None else self._axis(before)
        if before is not None and other is not None:
            kernel = self._kernel(before.args[1].fields[0], [other, own], call)
            if kernel is not None:
                return kernel
        return self._kernel(data, [own], call)

    def _kernel(self, data: relax.Expr, axes: list[Axis], call: relax.Call) -> relax.Expr | None:
        kernel = self.library.lower_resize(list(data.ty.shape.values), axes)
        if kernel is None:
            return None
        gvar = self.builder.add_func(kernel.func, kernel.name)
        tables = [relax.const(table) for table in kernel.constants]
        return self.builder.normalize(relax.call_tir(gvar, [data, *tables], call.ty))

    def _axis(self, value: Any) -> Axis | None:
        """What a call resizes."""
        if not isinstance(value, relax.Call) or getattr(value.op, "name", "") != "relax.call_tir":
            return None
        if not isinstance(value.args[0], GlobalVar) or len(value.args) > 2:
            return None
        func = self.mod[value.args[0]]
        # 1.
        if not isinstance(func, tirx.PrimFunc) or RESIZED_AXIS not in (func.attrs or {}):
            return None
        # 2.
        data, *tables = value.args[1].fields
        is_shaped = isinstance(data.ty.shape, relax.ShapeExpr)
        if not is_shaped or str(data.ty.dtype.dtype) != "float32":
            return None
        if not all(isinstance(table, GenericConst) for table in tables):
            return None
        arrays = [table.value.numpy() for table in tables]
        places = arrays[-1].reshape(len(arrays[-1]), -1)
        return int(func.attrs[RESIZED_AXIS]), places, arrays[0] if len(arrays) > 1 else None
