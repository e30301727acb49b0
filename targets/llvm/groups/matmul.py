"""Products with constant weights: fully connected layers and the projections of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from tvm import relax
from tvm.ir import GenericConst

from relaxc.layout import ARITHMETIC, PLAIN, ROUNDS_ROWS, Demand, Element, Layout, Quantization
from relaxc.targets.llvm.groups.base import (
    Group,
    GroupKernel,
    KernelFrame,
    epilogue_signature,
    operand_demands,
)
from relaxc.targets.llvm.groups.sparse import Product, Sparsity, is_float
from relaxc.targets.llvm.kernels import matmul, matmul_dynamic, matmul_weight_only
from relaxc.targets.llvm.kernels.arithmetic import arithmetic_of
from relaxc.targets.llvm.kernels.constants import (
    GroupedWeight,
    QuantizedArray,
    array_of,
    grouped,
    is_constant,
    quantized,
)
from relaxc.targets.llvm.kernels.domain import Domain, RowDomain, as_int
from relaxc.targets.llvm.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.sparse_plan import Window
from relaxc.targets.llvm.machine import Machine
from relaxc.targets.tuning.task import Choice


class Matmul(GroupKernel):
    """(..., rows, depth) @ constant (depth, columns), with an elementwise epilogue."""

    name = "matmul"
    is_product = True
    # Bumped whenever a field of a tiling comes to mean other code.
    space_version = 3

    def anchors(self, call: relax.Call, machine: Machine) -> bool:
        """Whether the right side is a constant matrix and the left one float32 of known depth."""
        if str(call.op.name) != "relax.matmul" or not is_constant(call.args[1]):
            return False
        data, weight = call.args[0].ty, call.args[1].ty
        if any(str(t.dtype.dtype) != "float32" for t in (data, weight, call.ty)):
            return False
        return (
            weight.ndim == 2
            and isinstance(data.shape, relax.ShapeExpr)
            and as_int(data.shape.values[-1]) is not None
        )

    def domain(self, shape: Sequence[Any]) -> Domain:
        """Rows of the result."""
        return RowDomain(tuple(shape))

    def demands(self, group: Group, data: Layout, machine: Machine) -> list[Demand]:
        """Row-major matrices."""
        wanted = {group.anchor.args[0]: Demand(("plain",))}
        return operand_demands(group, self.domain(group.result_shape), wanted)

    def result_layout(self, group: Group, params: Sequence[Layout], machine: Machine) -> Layout:
        """Row-major."""
        return PLAIN

    def workload(self, group: Group, machine: Machine) -> dict[str, Any] | None:
        """Products with a known number of rows, by dense weights."""
        data, weight = group.anchor.args
        domain = self.domain(group.result_shape)
        rows, element = domain.dims[3], group.storage(data)
        if not isinstance(rows, int):
            return None
        sparsity = _sparsity(group, machine)
        if sparsity is not None and sparsity.is_used:
            return None
        depth, columns = (int(d) for d in weight.ty.shape.values)
        fields = {"rows": rows, "depth": depth, "columns": columns, "element": element}
        parts = None if element == "uint8" else grouped(weight)
        if parts is not None:
            fields["weights"] = parts.kind
            fields["group"] = parts.size
            fields["rounds_rows"] = ROUNDS_ROWS in group.func.attrs
        return {"kernel": self.name, **fields, "epilogue": epilogue_signature(group, domain)}

    def space(self, group: Group, machine: Machine) -> list[Choice]:
        """Register tiles that spill nothing, tasks, and how far to look ahead."""
        rows = self.domain(group.result_shape).dims[3]
        data, matrix = group.anchor.args
        depth, columns = (int(d) for d in matrix.ty.shape.values)
        weight = _parts(group, machine)
        lanes, registers = machine.lanes, machine.registers
        if weight is not None:
            # Prefetches, unrolling and parts are their own there.
            if ROUNDS_ROWS in group.func.attrs:
                first = matmul_dynamic.choose_tiling(rows, columns, weight, lanes, registers)
                registers = matmul_dynamic.free_registers(weight, registers)
            else:
                first = matmul_weight_only.choose_tiling(rows, columns, lanes, registers)
                registers = matmul_weight_only.free_registers(registers)
            own = {n: getattr(first, n) for n in ("prefetch", "unroll", "parts", "fetch_next")}
            plain = (
                replace(tiling, **own)
                for tiling in matmul.tilings(rows, columns, lanes, registers, depth)
            )
            return [asdict(tiling) for tiling in dict.fromkeys([first, *plain])]
        steps = depth // (2 if group.element(data) == "bfloat16" else 1)
        size = (rows, columns, lanes, registers, steps)
        tilings = [matmul.choose_tiling(*size), *matmul.tilings(*size)]
        return [asdict(tiling) for tiling in dict.fromkeys(tilings)]

    def gains_from_blocks(self, call: relax.Call, share: float, machine: Machine) -> bool:
        """Whether leaving out zeros is estimated to be faster."""
        return _product(call).gains(1 - share, machine)

    def elements(self, group: Group, machine: Machine) -> dict[relax.Var, Element]:
        """Pairs of neighbours in a row, where weights are float."""
        data, weight = group.anchor.args
        if not isinstance(weight, GenericConst):
            return {}
        depth = as_int(data.ty.shape.values[-1])
        return {data: "float32" if depth is None or depth % 2 else "bfloat16"}

    def lower(self, group: Group, layouts: Sequence[Layout], machine: Machine) -> Kernel:
        """Write the kernel."""
        domain = self.domain(group.result_shape)
        integers, weights = _integers(group, machine), _parts(group, machine)
        if weights is not None and ROUNDS_ROWS in group.func.attrs:
            return self._dynamic(group, weights, layouts, machine)
        if weights is not None:
            return self._weight_only(group, weights, layouts, machine)
        sparsity = _sparsity(group, machine)
        if sparsity is not None and sparsity.is_used:
            frame = KernelFrame(f"matmul_{sparsity.method}", group, domain, layouts, machine)
            x = frame.views[group.anchor.args[0]]
            return sparsity.mark(_product(group.anchor).emit(sparsity.method, frame, x, machine))
        kernel = self._dense(group, domain, integers, layouts, machine)
        return kernel if sparsity is None else sparsity.mark(kernel)

    def _dense(
        self,
        group: Group,
        domain: Domain,
        integers: QuantizedArray | None,
        layouts: Sequence[Layout],
        machine: Machine,
    ) -> Kernel:
        """Write the kernel that multiplies by all weights."""
        weight = array_of(group.anchor.args[1])
        name = "matmul" if integers is None else "matmul_integer"
        frame = KernelFrame(name, group, domain, layouts, machine)
        rows = frame.dims[3]
        x = frame.views[group.anchor.args[0]]
        arithmetic = arithmetic_of(x)
        tiling = matmul.choose_tiling(
            rows,
            weight.shape[1],
            machine.lanes,
            machine.registers,
            weight.shape[0] // arithmetic.group,
        )
        tiling = _chosen(group, tiling)
        if integers is not None:
            width = tiling.vectors * machine.lanes
            weight, padded = integers.integers, -(-weight.shape[1] // width) * width
            arithmetic = frame.integer_arithmetic(integers.transposed(), x, padded)
        packed = matmul.pack_weights(weight, tiling, machine.lanes, arithmetic)
        w = frame.constant("w", packed)
        operands, y = frame.operands(), frame.result()
        matmul.emit(frame.b, x, w, y, operands, tiling, arithmetic)
        return frame.finish()

    def _weight_only(
        self, group: Group, weight: GroupedWeight, layouts: Sequence[Layout], machine: Machine
    ) -> Kernel:
        """Write the kernel of float data and weights of a few bits."""
        domain = self.domain(group.result_shape)
        name = f"matmul_{weight.kind}_weight"
        frame = KernelFrame(name, group, domain, layouts, machine)
        rows, columns = frame.dims[3], weight.integers.shape[1]
        lanes = machine.lanes
        tiling = matmul_weight_only.choose_tiling(rows, columns, lanes, machine.registers)
        tiling = _chosen(group, tiling)
        packed = matmul_weight_only.pack(weight, tiling, lanes, machine.has_byte_tables)
        weights = matmul_weight_only.declare(frame.constant, frame.scales, packed, weight)
        x = frame.views[group.anchor.args[0]]
        operands, y = frame.operands(), frame.result()
        matmul_weight_only.emit(frame.b, x, weights, y, operands, tiling)
        kernel = frame.finish()
        return replace(kernel, func=kernel.func.with_attr(ARITHMETIC, "float32"))

    def _dynamic(
        self, group: Group, weight: GroupedWeight, layouts: Sequence[Layout], machine: Machine
    ) -> Kernel:
        """Write the kernel of data that are rounded on the way, and integer weights."""
        domain = self.domain(group.result_shape)
        frame = KernelFrame(f"matmul_{weight.kind}_dynamic", group, domain, layouts, machine)
        rows, columns = frame.dims[3], weight.integers.shape[1]
        lanes = machine.lanes
        tiling = matmul_dynamic.choose_tiling(rows, columns, weight, lanes, machine.registers)
        tiling = _chosen(group, tiling)
        packed = matmul_dynamic.pack(weight, tiling, lanes)
        weights = matmul_dynamic.Weights.declare(frame.constant, frame.scales, packed, weight)
        x = frame.views[group.anchor.args[0]]
        operands, y = frame.operands(), frame.result()
        matmul_dynamic.emit(frame.b, x, weights, y, operands, tiling)
        return frame.finish()


def can_round_rows(group: Group, machine: Machine) -> bool:
    """Whether there is a kernel that rounds rows of the data to int8."""
    weight = grouped(group.anchor.args[1])
    if weight is None or weight.kind == "float8" or machine.byte_products is None:
        return False
    return weight.sums_fit


def _chosen(group: Group, first: matmul.Tiling) -> matmul.Tiling:
    if group.choice is None:
        return first
    return matmul.Tiling(**group.choice)  # type: ignore[arg-type]


def _parts(group: Group, machine: Machine) -> GroupedWeight | None:
    """The weight, if it is integers that float data are multiplied with."""
    return grouped(group.anchor.args[1]) if _integers(group, machine) is None else None


def _integers(group: Group, machine: Machine) -> QuantizedArray | None:
    """The weight, if it can be multiplied as integers, four neighbours of a row at a time."""
    data, weight = group.anchor.args
    if Quantization.of(group.element(data)) is None or machine.byte_products is None:
        return None
    depth = as_int(data.ty.shape.values[-1])
    return quantized(weight, 1) if depth is not None and depth % 4 == 0 else None


def _product(call: relax.Call) -> Product:
    weight = array_of(call.args[1]).T
    rows = RowDomain(tuple(call.ty.shape.values)).dims[3]
    return Product(weight[:, :, None, None], Window(1, 1, rows), pixel=len(weight[0]))


def _sparsity(group: Group, machine: Machine) -> Sparsity | None:
    """What zeros of the weight are good for, where there are many."""
    return _product(group.anchor).sparsity(machine) if is_float(group) else None
