"""What each kind of group must offer."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from tvm import relax

from relaxc.layout import ELEMENTS, Demand, Element, Layout, Quantization
from relaxc.targets.cuda.kernels.byte_epilogue import Rescale
from relaxc.targets.cuda.kernels.elements import Mode
from relaxc.targets.cuda.kernels.expressions import OPERATORS
from relaxc.targets.cuda.kernels.kernel import Kernel
from relaxc.targets.cuda.machine import Gpu
from relaxc.targets.cuda.tuning import Chooser
from relaxc.targets.llvm.kernels.constants import QuantizedArray, inlined, is_constant, quantized
from relaxc.targets.llvm.kernels.domain import Broadcasting, Domain, MapDomain, same
from relaxc.targets.llvm.kernels.elementwise import Epilogue, scalar_value
from relaxc.targets.tuning.records import Fields
from relaxc.targets.tuning.task import Choice

NORMS = ("relax.nn.layer_norm", "relax.nn.rms_norm")


def _is_product(call: relax.Call) -> bool:
    return str(call.op.name) == "relax.matmul"


@dataclass(frozen=True)
class Group:
    """A private function made by `group-ops`, taken apart.

    Attributes:
        func: the function.
        anchor: its first call; a quantized constant that it takes is in place.
        epilogue: the elementwise calls after it.
        prologue: the normalization before it, whose result is the anchor's data.
        other: variable and call of a second product of the same data, which the epilogue reads.
    """

    func: relax.Function
    anchor: relax.Call
    epilogue: Epilogue
    prologue: relax.Call | None = None
    other: tuple[relax.Var, relax.Call] | None = None

    @staticmethod
    def of(func: relax.Function) -> Group:
        """Take a group apart."""
        bindings = [(b.var, b.value) for block in func.body.blocks for b in block.bindings]
        constants: dict[relax.Var, relax.Expr] = {}
        for var, call in bindings:
            whole = inlined(call, constants)
            if is_constant(whole):
                constants[var] = whole
        rest = [(var, inlined(call, constants)) for var, call in bindings if var not in constants]
        prologue = None
        if len(rest) > 1 and str(rest[0][1].op.name) in NORMS and _is_product(rest[1][1]):
            prologue = rest.pop(0)[1]
        (anchor_var, anchor), *rest = rest
        other = next((item for item in rest if _is_product(item[1])), None)
        rest = [item for item in rest if not _is_product(item[1])]
        epilogue = Epilogue.of(anchor_var, rest)
        if other is not None:
            operands = (o for o in epilogue.operands if not o.expr.same_as(other[0]))
            epilogue = replace(epilogue, operands=tuple(operands))
        return Group(func, anchor, epilogue, prologue, other)

    @property
    def data(self) -> relax.Expr:
        """What the anchor, or the normalization before it, reads."""
        return self.anchor.args[0] if self.prologue is None else self.prologue.args[0]

    def quantization(self, param: relax.Expr) -> Quantization | None:
        """How a parameter is quantized, if it is stored as bytes."""
        stored = self.func.attrs.get(ELEMENTS)
        if stored is None or not any(param.same_as(p) for p in self.func.params):
            return None
        place = next(i for i, p in enumerate(self.func.params) if param.same_as(p))
        return Quantization.of(str(stored[place]))

    def integers(self, axis: int) -> Integers | None:
        """The anchor's operands, if both are integers whose products are exact.

        Args:
            axis: that of the weight along which scales may differ: its columns.
        """
        data = self.quantization(self.anchor.args[0])
        weight = quantized(self.anchor.args[1], axis) if data is not None else None
        return None if data is None or weight is None else Integers(data, weight)

    @property
    def result_shape(self) -> tuple[Any, ...]:
        """The result's logical shape."""
        return tuple(self.func.ret_ty.shape.values)


@dataclass(frozen=True)
class Integers:
    """Both operands of a product of integers.

    Attributes:
        data: how those of the left one stand for numbers.
        weight: the right one, and its scales.
    """

    data: Quantization
    weight: QuantizedArray

    def rescale(self, matrix: np.ndarray) -> Rescale:
        """What makes sums of products real.

        Args:
            matrix: the weight's integers; columns are its last axis.
        """
        sums = matrix.sum(axis=0, dtype=np.int64)
        scale = np.broadcast_to(self.weight.scale, sums.shape) * np.float32(self.data.scale)
        offset = -self.data.zero_point * sums.astype(np.float64) * scale
        largest = 255.0 * np.abs(matrix.astype(np.int16)).sum(axis=0, dtype=np.int64)
        return Rescale(scale, offset, largest)


@dataclass(frozen=True)
class Context:
    """What kernels are written for.

    Attributes:
        gpu: the architecture.
        mode: how products are computed.
        chooser: knows better than the kernels how to divide them; None where nothing is tuned.
        has_float8: whether products with weights may be computed on floats of eight bits.
    """

    gpu: Gpu
    mode: Mode
    chooser: Chooser | None = None
    has_float8: bool = False

    def choose(self, workload: Fields, space: Callable[[], list[Choice]]) -> Choice | None:
        """What to write a kernel with; None leaves that to the kernel.

        Args:
            workload: what it computes, as records have it.
            space: all choices, the kernel's own first.
        """
        return None if self.chooser is None else self.chooser.choose(workload, space)

    def in_eight_bits(self) -> Context:
        """The same for a product of floats of eight bits."""
        return replace(self, mode="float8")

    def of(self, group: Group, axis: int) -> Context:
        """The same for a group, which may multiply integers."""
        return self if group.integers(axis) is None else replace(self, mode="int8")


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

    def absorbs(self, anchor: relax.Call, call: relax.Call, context: Context) -> bool:
        """Whether a normalization can be computed on the rows that the anchor's kernel reads."""
        return False

    def is_pair(self, anchor: relax.Call, other: relax.Call, context: Context) -> bool:
        """Whether one kernel computes both of two products of the same data."""
        return False

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
