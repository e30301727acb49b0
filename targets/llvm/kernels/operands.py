"""How a kernel loads the other tensors of its epilogue, beside a vector of channels of a pixel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from tvm import relax

from relaxc.layout import PLAIN, Layout
from relaxc.targets.llvm.kernels.builder import Expr, Index, KernelBuilder
from relaxc.targets.llvm.kernels.domain import Broadcasting, Domain
from relaxc.targets.llvm.kernels.elementwise import Epilogue
from relaxc.targets.llvm.kernels.view import View


@dataclass(frozen=True)
class LoadedOperand:
    """A declared operand, ready to be read at a pixel."""

    kind: Broadcasting
    view: View
    per_image: bool

    def read(self, b: KernelBuilder, n: Index, cb: Index, h: Index, w: Index, count: int) -> Expr:
        """The operand's elements for channel block `cb` of a pixel, `count` of which exist."""
        buffer, view = self.view.buffer, self.view
        if self.kind == "scalar":
            return b.broadcast(buffer, 0)
        if self.kind == "pixel":
            return b.broadcast(buffer, view.at(n, 0, h, w))
        if self.kind == "channel":
            at = view.at(n if self.per_image else 0, cb, 0, 0)
        else:
            at = view.at(n, cb, h, w)
        # Blocked storage is padded to whole vectors, rows are not.
        return (
            b.load(buffer, at)
            if view.layout.kind == "blocked"
            else b.load_partial(buffer, at, count)
        )


@dataclass(frozen=True)
class Operands:
    """All operands of an epilogue, declared as parameters of a kernel."""

    epilogue: Epilogue
    loaded: tuple[LoadedOperand, ...]

    def apply(
        self,
        b: KernelBuilder,
        value: Expr,
        n: Index,
        cb: Index,
        h: Index,
        w: Index,
        count: int | None = None,
    ) -> Expr:
        """The epilogue's result for channel block `cb` of a pixel, `count` lanes of which count."""
        count = b.lanes if count is None else count
        known = {i: o.read(b, n, cb, h, w, count) for i, o in enumerate(self.loaded)}
        return self.epilogue.apply(b, value, known)


def declare_operands(
    b: KernelBuilder, epilogue: Epilogue, domain: Domain, params: Mapping[relax.Var, View]
) -> tuple[Operands, list[np.ndarray]]:
    """Make the operands of an epilogue readable.

    Args:
        b: the kernel; one parameter is declared for each constant operand.
        epilogue: what reads the operands.
        domain: the result's shape as the kernel sees it.
        params: the group's parameters, already declared.

    Returns:
        The operands, and the packed constants in the order of their parameters.
    """
    loaded: list[LoadedOperand] = []
    constants: list[np.ndarray] = []
    for position, operand in enumerate(epilogue.operands):
        kind = domain.broadcasting(operand.shape)
        assert kind is not None, "the library admits supported operands only"
        shape = domain.operand_dims(operand.shape)
        values = operand.constant
        if values is None:
            view = params[operand.expr]
        else:
            packed, layout = pack_constant(domain.operand_array(values), kind, b.lanes)
            constants.append(packed)
            buffer = b.param(f"constant{position}", packed.shape)
            view = View.of(buffer, shape, layout, b.lanes)
        loaded.append(LoadedOperand(kind, view, shape[0] != 1))
    return Operands(epilogue, tuple(loaded)), constants


def pack_constant(values: np.ndarray, kind: Broadcasting, lanes: int) -> tuple[np.ndarray, Layout]:
    """Lay a constant operand of shape (n, c, h, w) out as kernels read it."""
    array = values.astype(np.float32)
    if kind in ("scalar", "pixel"):
        return np.ascontiguousarray(array), PLAIN
    layout = Layout("blocked", lanes)
    return pack(array, layout), layout


def pack(array: np.ndarray, layout: Layout) -> np.ndarray:
    """Lay a logical (n, c, h, w) array out in memory."""
    top, left, bottom, right = layout.border
    array = np.pad(array, ((0, 0), (0, 0), (top, bottom), (left, right)))
    if layout.kind == "blocked":
        n, c, h, w = array.shape
        array = np.pad(array, ((0, 0), (0, -c % layout.block), (0, 0), (0, 0)))
        array = array.reshape(n, -1, layout.block, h, w).transpose(0, 1, 3, 4, 2)
    elif layout.kind == "last":
        array = array.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(array)
