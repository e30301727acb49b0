"""Elementwise Relax operators as vector expressions: what a kernel applies to its result.

An `Epilogue` is the part of a group that follows the anchor (convolution, matmul ...). Its
operands are the other tensors that it reads; each is broadcast in one of a few ways, so that a
kernel knows how to load it beside a vector of channels of one pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax, tirx
from tvm.ir import GenericConst

from relaxc.targets.llvm.kernels import lookup
from relaxc.targets.llvm.kernels import vector_math as vm
from relaxc.targets.llvm.kernels.builder import Expr, KernelBuilder
from relaxc.targets.llvm.kernels.piecewise import ACTIVATIONS


def _power(x: Expr, y: Expr) -> Expr:
    exponent = _constant_value(y)
    if exponent == 2.0:
        return x * x
    if exponent == 3.0:
        return x * x * x
    if exponent == 0.5:
        return tirx.sqrt(x)
    if exponent == -0.5:
        return vm.const(1.0, x) / tirx.sqrt(x)
    if exponent == 1.0:
        return x
    return tirx.power(x, y)


def _constant_value(expr: Expr) -> float | None:
    inner = expr.value if isinstance(expr, tirx.Broadcast) else expr
    return float(inner.value) if isinstance(inner, tirx.FloatImm) else None


def _clip(x: Expr, low: Expr, high: Expr) -> Expr:
    return tirx.min(vm.const(_bound(high), x), tirx.max(vm.const(_bound(low), x), x))


def _bound(value: Any) -> float:
    return float(getattr(value, "value", value))


_UNARY: dict[str, Callable[[Expr], Expr]] = {
    "relax.abs": lambda x: tirx.max(x, vm.const(0.0, x) - x),
    "relax.ceil": tirx.ceil,
    "relax.erf": vm.erf,
    "relax.exp": vm.exp,
    "relax.floor": tirx.floor,
    "relax.log": vm.log,
    "relax.negative": lambda x: vm.const(0.0, x) - x,
    "relax.nn.gelu": vm.gelu,
    "relax.nn.gelu_tanh": vm.gelu_tanh,
    "relax.nn.relu": lambda x: tirx.max(vm.const(0.0, x), x),
    "relax.nn.silu": vm.silu,
    "relax.rsqrt": lambda x: vm.const(1.0, x) / tirx.sqrt(x),
    "relax.sigmoid": vm.sigmoid,
    "relax.sqrt": tirx.sqrt,
    "relax.square": lambda x: x * x,
    "relax.tanh": vm.tanh,
}
# What suffices where the result is stored as bfloat16 or uint8, which keep 8 bits.
_ROUNDED: dict[str, Callable[[Expr], Expr]] = {
    "relax.erf": vm.erf_rounded,
    "relax.nn.gelu": vm.gelu_rounded,
}
# The same by look-up.
_TABLES = {f"relax.nn.{name}": name for name in ACTIVATIONS}
# In full precision with the help of a look-up.
_EXACT = {
    name: name.rpartition(".")[2] for name in _UNARY if name.rpartition(".")[2] in lookup.NAMES
}
_BINARY: dict[str, Callable[[Expr, Expr], Expr]] = {
    "relax.add": lambda x, y: x + y,
    "relax.divide": lambda x, y: x / y,
    "relax.maximum": tirx.max,
    "relax.minimum": tirx.min,
    "relax.multiply": lambda x, y: x * y,
    "relax.power": _power,
    "relax.subtract": lambda x, y: x - y,
}
_HEAVY = frozenset(
    f"relax.{op}"
    for op in (
        "erf",
        "exp",
        "log",
        "nn.gelu",
        "nn.gelu_tanh",
        "nn.silu",
        "power",
        "sigmoid",
        "tanh",
    )
)
OPERATORS = frozenset(_UNARY) | frozenset(_BINARY) | {"relax.clip", "relax.nn.leakyrelu"}


@dataclass(frozen=True)
class Operand:
    """Another tensor that an epilogue reads.

    Attributes:
        expr: a parameter of the group, or a constant.
        shape: its logical shape.
    """

    expr: relax.Expr
    shape: tuple[Any, ...]

    @property
    def constant(self) -> np.ndarray | None:
        """The values, when they are known."""
        return self.expr.value.numpy() if isinstance(self.expr, GenericConst) else None


@dataclass(frozen=True)
class Epilogue:
    """Elementwise bindings in order, from the anchor's result to the group's.

    Attributes:
        start: the anchor's result.
        bindings: variable and call, each reading `start`, operands or earlier bindings.
        operands: the other tensors, in order of first use; scalars are inlined instead.
        is_rounded: whether the result is stored in 8 bits, so that shorter polynomials will do.
        looks_up: whether activations of such results come from tables.
        has_tables: whether `lookup` makes exponentials and GELU short.
    """

    start: relax.Var
    bindings: tuple[tuple[relax.Var, relax.Call], ...]
    operands: tuple[Operand, ...]
    is_rounded: bool = False
    looks_up: bool = False
    has_tables: bool = False

    @staticmethod
    def of(start: relax.Var, bindings: list[tuple[relax.Var, relax.Call]]) -> Epilogue:
        """Collect the operands of `bindings`."""
        inner = {start} | {var for var, _ in bindings}
        operands: list[Operand] = []
        for _, call in bindings:
            for arg in call.args:
                is_tensor = isinstance(arg.ty, relax.TensorType)
                if not is_tensor or arg in inner or scalar_value(arg) is not None:
                    continue
                if all(not known.expr.same_as(arg) for known in operands):
                    operands.append(Operand(arg, tuple(arg.ty.shape.values)))
        return Epilogue(start, tuple(bindings), tuple(operands))

    @property
    def is_heavy(self) -> bool:
        """Whether it is long enough to be looped over instead of unrolled for every register."""
        short = _EXACT if self.has_tables else {}
        heavy = [str(c.op.name) for _, c in self.bindings if not self._table(c)]
        return any(op in _HEAVY and op not in short for op in heavy)

    def _table(self, call: relax.Call) -> str | None:
        return _TABLES.get(str(call.op.name)) if self.looks_up else None

    def _rounds(self, call: relax.Call) -> bool:
        return self.is_rounded and str(call.op.name) in _ROUNDED

    def apply(self, b: KernelBuilder, value: Expr, loaded: Mapping[int, Expr]) -> Expr:
        """The group's result for a vector of the anchor's.

        Args:
            b: the kernel being written.
            value: elements of the anchor's result.
            loaded: operand's position -> its elements, with the lanes of `value`.
        """
        lanes = vm.lanes_of(value)
        known: dict[relax.Expr, Expr] = {self.start: b.let(value)}

        def read(arg: relax.Expr) -> Expr:
            if arg in known:
                return known[arg]
            scalar = scalar_value(arg)
            if scalar is not None:
                return b.splat(scalar, lanes)
            position = next(i for i, o in enumerate(self.operands) if o.expr.same_as(arg))
            return loaded[position]

        result = value
        heavy = [i for i, (_, call) in enumerate(self.bindings) if str(call.op.name) in _HEAVY]
        for i, (var, call) in enumerate(self.bindings):
            table = self._table(call)
            if table is not None and lanes == b.lanes:
                result = b.activation(table, read(call.args[0]))
            elif str(call.op.name) in _EXACT and not self._rounds(call) and lanes == b.lanes:
                result = lookup.exact(b, _EXACT[str(call.op.name)], read(call.args[0]))
            else:
                result = apply_operator(call, read, self.is_rounded)
            result = b.held(result, lanes) if i in heavy[:-1] else b.let(result)
            known[var] = result
        return result


def apply_operator(
    call: relax.Call, read: Callable[[relax.Expr], Expr], is_rounded: bool = False
) -> Expr:
    """The value of an elementwise call, whose operands `read` provides."""
    op = str(call.op.name)
    x = read(call.args[0])
    if is_rounded and op in _ROUNDED:
        return _ROUNDED[op](x)
    if op in _UNARY:
        return _UNARY[op](x)
    if op in _BINARY:
        return _BINARY[op](x, read(call.args[1]))
    if op == "relax.clip":
        return _clip(x, call.args[1], call.args[2])
    slope = vm.const(float(call.attrs.alpha), x)
    return tirx.max(x, vm.const(0.0, x)) + slope * tirx.min(x, vm.const(0.0, x))


def scalar_value(expr: relax.Expr) -> float | None:
    """The value of a constant of one element, else None."""
    if isinstance(expr, GenericConst):
        array = expr.value.numpy()
        if array.size == 1:
            return float(array.reshape(-1)[0])
    return None
