"""What each kind of group must offer."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tvm import relax

from relaxc.layout import Demand, Element, Layout, Precision
from relaxc.targets.cuda.kernels.expressions import OPERATORS
from relaxc.targets.cuda.kernels.kernel import Kernel
from relaxc.targets.cuda.machine import Gpu
from relaxc.targets.llvm.kernels.domain import Broadcasting, Domain, MapDomain, same
from relaxc.targets.llvm.kernels.elementwise import Epilogue, scalar_value


@dataclass(frozen=True)
class Group:
    """A private function made by `group-ops`, taken apart.

    Attributes:
        func: the function.
        anchor: its first call.
        epilogue: the elementwise calls after it.
    """

    func: relax.Function
    anchor: relax.Call
    epilogue: Epilogue

    @staticmethod
    def of(func: relax.Function) -> Group:
        """Take a group apart."""
        bindings = [(b.var, b.value) for block in func.body.blocks for b in block.bindings]
        anchor_var, anchor = bindings[0]
        return Group(func, anchor, Epilogue.of(anchor_var, bindings[1:]))

    @property
    def result_shape(self) -> tuple[Any, ...]:
        """The result's logical shape."""
        return tuple(self.func.ret_ty.shape.values)


@dataclass(frozen=True)
class Context:
    """What kernels are written for.

    Attributes:
        gpu: the architecture.
        mode: how products are computed.
    """

    gpu: Gpu
    mode: Precision


class GroupKernel(abc.ABC):
    """One kind of group."""

    name: ClassVar[str]
    is_product: ClassVar[bool] = False

    @abc.abstractmethod
    def anchors(self, call: relax.Call, context: Context) -> bool:
        """Whether a group of this kind can start at `call`."""

    @abc.abstractmethod
    def is_epilogue(self, call: relax.Call, anchor: relax.Call) -> bool:
        """Whether `call` can be computed on the anchor's result in registers."""

    @abc.abstractmethod
    def demands(self, group: Group, data: Layout, context: Context) -> list[Demand]:
        """What the group asks of each parameter, if the first has the layout `data` now."""

    @abc.abstractmethod
    def result_layout(self, group: Group, params: Sequence[Layout]) -> Layout:
        """How the result lies in memory."""

    def elements(self, group: Group, context: Context) -> dict[relax.Var, Element]:
        """How parameters must be stored; others may be as they are."""
        return {}

    @abc.abstractmethod
    def lower(self, group: Group, layouts: Sequence[Layout], context: Context) -> Kernel:
        """Write the kernel; `layouts` has one entry per parameter and one for the result."""


def is_row_epilogue(call: relax.Call, domain: Domain) -> bool:
    """Whether a call computes, element by element, on whole results and vectors of columns."""
    if str(call.op.name) not in OPERATORS or not is_float(call):
        return False
    shape = list(call.ty.shape.values)
    if len(shape) != len(domain.shape) or not all(map(same, shape, domain.shape)):
        return False
    for arg in call.args:
        if not isinstance(arg.ty, relax.TensorType) or scalar_value(arg) is not None:
            continue
        if not is_float(arg):
            return False
        if domain.broadcasting(list(arg.ty.shape.values)) not in ("full", "channel"):
            return False
    return True


def is_float(expr: relax.Expr) -> bool:
    """Whether an expression is a float32 tensor whose dimensions are known or named."""
    ty = expr.ty
    if not isinstance(ty, relax.TensorType) or not isinstance(ty.shape, relax.ShapeExpr):
        return False
    return str(ty.dtype.dtype) == "float32"


class LastMapDomain(MapDomain):
    """A map whose operands differ by channel, not by image and channel."""

    def broadcasting(self, shape: Sequence[Any]) -> Broadcasting | None:
        """NumPy's rules; of vectors only those along channels."""
        if len(shape) == len(self.shape) and all(map(same, shape, self.shape)):
            return "full"
        found = super().broadcasting(shape)
        if found == "channel" and self.operand_dims(shape)[0] != 1:
            return None
        return found
