"""A group as lowering sees it, and what each kind of group must offer."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from tvm import relax

from relaxc.layout import ELEMENTS, KERNEL, Demand, Element, Layout, Quantization
from relaxc.targets.llvm.alignment import ANY_ALIGNMENT
from relaxc.targets.llvm.kernels import piecewise
from relaxc.targets.llvm.kernels.arithmetic import UINT8, Arithmetic, Rescale, to_bfloat16
from relaxc.targets.llvm.kernels.builder import KernelBuilder
from relaxc.targets.llvm.kernels.constants import QuantizedArray, inlined, is_constant
from relaxc.targets.llvm.kernels.domain import Dims, Domain, MapDomain, RowDomain, same
from relaxc.targets.llvm.kernels.elementwise import OPERATORS, Epilogue, scalar_value
from relaxc.targets.llvm.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.operands import Operands, declare_operands
from relaxc.targets.llvm.kernels.view import View
from relaxc.targets.llvm.machine import Machine
from relaxc.targets.tuning.task import Choice

# Steps of a quantized result that are ten times the error of the shorter polynomials.
_COARSE = 4e-3


@dataclass(frozen=True)
class Group:
    """A private function made by `group-ops`, taken apart.

    Attributes:
        func: the function.
        anchor: its first call; a quantized constant that it takes is in place.
        epilogue: the elementwise calls after it.
        factors: what the anchor's data are multiplied by before, channel by channel.
        choice: the kernel's parameters, from its space; None leaves them to the kernel.
    """

    func: relax.Function
    anchor: relax.Call
    epilogue: Epilogue
    factors: relax.Var | None = None
    choice: Choice | None = None

    @staticmethod
    def of(func: relax.Function) -> Group:
        """Take a group apart."""
        bindings = [(b.var, b.value) for block in func.body.blocks for b in block.bindings]
        constants: dict[relax.Var, relax.Expr] = {}
        for var, call in bindings:
            whole = inlined(call, constants)
            if not is_constant(whole):
                break
            constants[var] = whole
        bindings = bindings[len(constants) :]
        factors: relax.Var | None = None
        scaled, anchor = bindings[0]
        if func.attrs[KERNEL] == "conv2d" and str(anchor.op.name) == "relax.multiply":
            data, factors = data_and_factors(anchor)
            bindings = bindings[1:]
            anchor = bindings[0][1]
            constants[scaled] = data
        epilogue = Epilogue.of(bindings[0][0], bindings[1:])
        return Group(func, inlined(anchor, constants), epilogue, factors)

    def element(self, param: relax.Var) -> Element:
        """How a parameter is stored, as far as that is decided."""
        stored = self.func.attrs.get(ELEMENTS)
        return "float32" if stored is None else str(stored[list(self.func.params).index(param)])

    def storage(self, param: relax.Var) -> str:
        """Likewise, without scale and zero point."""
        element = self.element(param)
        return "uint8" if Quantization.of(element) is not None else element

    @property
    def result_shape(self) -> tuple[Any, ...]:
        """The result's logical shape."""
        return tuple(self.func.ret_ty.shape.values)


class GroupKernel(abc.ABC):
    """One kind of group: when it applies, what layouts it wants, and how it becomes code."""

    name: ClassVar[str]
    # Whether results are sums of products, over channels or taps.
    is_product: ClassVar[bool] = False

    @abc.abstractmethod
    def anchors(self, call: relax.Call, machine: Machine) -> bool:
        """Whether a group of this kind can start at `call`."""

    def is_epilogue(self, call: relax.Call, anchor: relax.Call) -> bool:
        """Whether `call` can be computed on the anchor's result in registers."""
        return is_elementwise(call, self.domain(list(anchor.ty.shape.values)))

    def domain(self, shape: Sequence[Any]) -> Domain:
        """The iteration space of a result of this shape."""
        return MapDomain(tuple(shape))

    @abc.abstractmethod
    def demands(self, group: Group, data: Layout, machine: Machine) -> list[Demand]:
        """What the group asks of each parameter, if the first has the layout `data` now."""

    def result_layout(self, group: Group, params: Sequence[Layout], machine: Machine) -> Layout:
        """How the result lies in memory, without its border."""
        return Layout("blocked", machine.lanes)

    def elements(self, group: Group, machine: Machine) -> dict[relax.Var, Element]:
        """How parameters must be stored to be multiplied as bfloat16; others may be as they are."""
        return {}

    def workload(self, group: Group, machine: Machine) -> dict[str, Any] | None:
        """What the group computes, as far as it matters for speed; None if tuning has no choice.

        Names of fields and values go into records: a change needs a new version of the space.
        """
        return None

    def space(self, group: Group, machine: Machine) -> list[Choice]:
        """All parameters that the kernel may be written with; the first are its own choice."""
        return []

    def gains_from_blocks(self, call: relax.Call, share: float, machine: Machine) -> bool:
        """Whether the kernel is faster with this share of blocks of weights at zero."""
        return False

    # Bumped whenever a choice comes to mean other code.
    space_version: ClassVar[int] = 0

    @abc.abstractmethod
    def lower(self, group: Group, layouts: Sequence[Layout], machine: Machine) -> Kernel:
        """Write the kernel; `layouts` has one entry per parameter and one for the result."""


def data_and_factors(call: relax.Call) -> tuple[relax.Expr, relax.Expr]:
    """The operands of a product of a map with one number per channel, the map first."""
    left, right = call.args
    return (left, right) if same_shape(left, call.ty.shape.values) else (right, left)


def operand_demands(group: Group, domain: Domain, data: dict[relax.Var, Demand]) -> list[Demand]:
    """Demands of all parameters: `data` for the anchor's, by broadcasting for the epilogue's."""
    demands = []
    kinds = {o.expr: domain.broadcasting(o.shape) for o in group.epilogue.operands}
    vectors = Demand(("blocked", "last") if isinstance(domain, MapDomain) else ("plain",))
    for param in group.func.params:
        if param in data:
            demands.append(data[param])
        elif kinds.get(param) in ("full", "channel"):
            demands.append(vectors)
        else:
            demands.append(Demand(("plain",)))
    return demands


def epilogue_signature(group: Group, domain: Domain) -> list[str]:
    """The operators of an epilogue, and how their operands are broadcast."""
    names = [str(call.op.name).removeprefix("relax.") for _, call in group.epilogue.bindings]
    kinds = [domain.broadcasting(o.shape) or "" for o in group.epilogue.operands]
    return [*names, *(f"[{kind}]" for kind in kinds)]


def is_elementwise(call: relax.Call, domain: Domain) -> bool:
    """Whether a call computes, element by element, on float32 operands that kernels can load."""
    if str(call.op.name) not in OPERATORS or not isinstance(call.ty.shape, relax.ShapeExpr):
        return False
    if str(call.ty.dtype.dtype) != "float32" or not same_shape(call, domain.shape):
        return False
    for arg in call.args:
        if not isinstance(arg.ty, relax.TensorType) or scalar_value(arg) is not None:
            continue
        if str(arg.ty.dtype.dtype) != "float32" or not isinstance(arg.ty.shape, relax.ShapeExpr):
            return False
        if domain.broadcasting(list(arg.ty.shape.values)) is None:
            return False
    return True


def same_shape(expr: relax.Expr, dims: Sequence[Any]) -> bool:
    """Whether a tensor provably has these dimensions."""
    shape = getattr(expr.ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr) or len(shape.values) != len(dims):
        return False
    return all(same(a, b) for a, b in zip(shape.values, dims))


class KernelFrame:
    """Declares the parameters of a group's kernel in order, and finishes it.

    Attributes:
        b: the builder.
        dims: the result's (n, c, h, w).
        views: the group's parameters.
    """

    def __init__(
        self,
        name: str,
        group: Group,
        domain: Domain,
        layouts: Sequence[Layout],
        machine: Machine,
    ) -> None:
        self.name = name
        self.b = KernelBuilder(name, machine.lanes, machine.byte_products)
        self.dims: Dims = domain.dims
        self._result = layouts[-1]
        self._group = group
        self._domain = domain
        self.constants: list[np.ndarray] = []
        self.scalars: list[int] = []
        self.views: dict[relax.Var, View] = {}
        for i, (param, layout) in enumerate(zip(group.func.params, layouts)):
            self.views[param] = self._declare(f"x{i}", tuple(param.ty.shape.values), layout)

    def _declare(self, name: str, shape: tuple[Any, ...], layout: Layout) -> View:
        dims = self._domain.operand_dims(shape)
        plain = layout.kind == "plain" and not any(layout.border)
        physical = shape if plain else layout.physical_shape(dims)
        buffer = self.b.param(name, physical, layout.element)
        # Rows of a plain matrix are pixels with their channels last.
        if isinstance(self._domain, RowDomain):
            layout = Layout("last")
        return View.of(buffer, dims, layout, self.b.lanes)

    def constant(self, name: str, array: np.ndarray) -> Any:
        """Declare a constant parameter and return its buffer."""
        self.constants.append(array)
        return self.b.param(name, array.shape, array.dtype.name)

    def scales(self, name: str, array: np.ndarray) -> Any:
        """Declare float32 constants, in two bytes each if that loses nothing."""
        narrow = to_bfloat16(array)
        if not np.array_equal((narrow.astype(np.uint32) << 16).view(np.float32), array):
            return self.constant(name, array)
        self.constants.append(narrow)
        return self.b.param(name, array.shape, "bfloat16")

    def integer_arithmetic(self, weight: QuantizedArray, x: View, width: int) -> Arithmetic:
        """Arithmetic on integers; declares what rescales the sums.

        Args:
            weight: output channels first.
            x: the data, stored as integers.
            width: output channels, padding included.
        """
        assert x.buffer.quantization is not None
        sums = weight.integers.reshape(len(weight.integers), -1).sum(axis=1, dtype=np.int64)
        offset, scale = Rescale.arrays(weight, sums, x.buffer.quantization, width)
        rescale = Rescale(self.constant("offset", offset), self.constant("scale", scale))
        return replace(UINT8, rescale=rescale)

    def row_vector(self, expr: relax.Expr) -> View:
        """A one-dimensional argument of the anchor: a parameter, or a constant."""
        if expr in self.views:
            return self.views[expr]
        array = expr.value.numpy()
        buffer = self.constant(f"v{len(self.constants)}", np.ascontiguousarray(array))
        return View.of(buffer, (1, array.size, 1, 1), Layout("last"), self.b.lanes)

    def operands(self, epilogue: Epilogue | None = None, domain: Domain | None = None) -> Operands:
        """Declare an epilogue's constants; call after the kernel's own constants.

        Args:
            epilogue, domain: the group's, and those of its result, by default.
        """
        stored = Quantization.of(self._result.element)
        is_rounded = self._result.element == "bfloat16" or (
            stored is not None and stored.scale > _COARSE
        )
        has_tables = self.b.lanes == piecewise.LANES
        epilogue = replace(
            epilogue or self._group.epilogue,
            is_rounded=is_rounded,
            looks_up=is_rounded and has_tables,
            has_tables=has_tables,
        )
        operands, constants = declare_operands(self.b, epilogue, domain or self._domain, self.views)
        self.constants.extend(constants)
        return operands

    def result(self) -> View:
        """Declare the result; call after all constants.

        The offset of a slice is a parameter, so that layers which differ in it share their code.
        """
        view = self._declare("y", self._group.result_shape, self._result)
        place = self._result.slice
        if place is None:
            return view
        first = self.b.scalar_param("first_channel", before_last=True)
        self.scalars.append(place.offset)
        return View.of(view.buffer, self.dims, self._result, self.b.lanes, first)

    def finish(self) -> Kernel:
        """The finished kernel."""
        return Kernel(self.name, self.b.finish(), self.constants, self.scalars)

    def finish_reading_anywhere(self) -> Kernel:
        """The finished kernel, which reads the anchor's data element by element."""
        data = self._group.anchor.args[0]
        if any(operand.expr.same_as(data) for operand in self._group.epilogue.operands):
            return self.finish()  # by vectors as well
        return self.finish().with_attr(ANY_ALIGNMENT, [list(self.views).index(data)])
