"""The kernel library for one CPU, as the grouping and layout passes see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
from tvm import IRModule, relax, tirx

from relaxc.layout import (
    ATTENTION,
    CONCAT,
    JOIN_IMAGES,
    KERNEL,
    LAYOUTS,
    PLAIN,
    PLANES,
    TAKE_IMAGES,
    TASK,
    VIEW,
    Demand,
    Element,
    Layout,
)
from relaxc.targets.llvm.groups import attention, matmul, planes
from relaxc.targets.llvm.groups.base import Group, GroupKernel
from relaxc.targets.llvm.groups.conv2d import Conv2d
from relaxc.targets.llvm.groups.conv_rows import ConvRows
from relaxc.targets.llvm.groups.conv_transpose import ConvTranspose
from relaxc.targets.llvm.groups.elementwise import Elementwise
from relaxc.targets.llvm.groups.expansion import Expansion
from relaxc.targets.llvm.groups.matmul import Matmul
from relaxc.targets.llvm.groups.pool2d import Mean2d, Pool2d
from relaxc.targets.llvm.groups.recurrent import lower_recurrent
from relaxc.targets.llvm.groups.relayout import lower_images, lower_relayout
from relaxc.targets.llvm.groups.resize import lower_resize
from relaxc.targets.llvm.groups.rows import Norm, Softmax
from relaxc.targets.llvm.kernels.domain import as_int
from relaxc.targets.llvm.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.top_k import lower_top_k
from relaxc.targets.llvm.machine import Machine
from relaxc.targets.llvm.tuning import Site, Tuning

# The first that applies wins.
_KERNELS: tuple[GroupKernel, ...] = (
    ConvRows(),
    Conv2d(),
    ConvTranspose(),
    Pool2d(),
    Mean2d(),
    Matmul(),
    Norm(),
    Softmax(),
    Elementwise(),
    Expansion(),
)
_BY_NAME = {kernel.name: kernel for kernel in _KERNELS}
_TUNED: dict[str, GroupKernel] = {**_BY_NAME, ATTENTION: attention.Attention()}


@dataclass(frozen=True)
class LlvmKernels:
    """Which operators have a kernel, what layouts these want, and how they become code.

    Attributes:
        machine: the CPU.
        tuning: chooses parameters of kernels; None leaves them to the kernels.
    """

    machine: Machine
    tuning: Tuning | None = None

    @property
    def reads_integers(self) -> bool:
        """Whether kernels take quantized constants: they do."""
        return True

    @property
    def joins_keys(self) -> bool:
        """No: keys are packed once, from one tensor."""
        return False

    @property
    def widens_halves(self) -> bool:
        """No: weights of half models would take twice the memory."""
        return False

    @property
    def prefers_wide_products(self) -> bool:
        """Blocks of columns are all the same here."""
        return False

    @property
    def cores(self) -> int:
        """As many as the target has."""
        return self.machine.cores

    @property
    def cached_bytes(self) -> int:
        """A quarter of the last-level cache: weights, and other programs, are in there as well."""
        return self.machine.l3_bytes // 4

    @property
    def lanes(self) -> int:
        """Float32 elements per vector: the channel block of the blocked layout."""
        return self.machine.lanes

    def anchor(self, call: relax.Call) -> str | None:
        """The kernel that computes this call as an anchor, if there is one."""
        if any(_is_empty(tensor) for tensor in (call, *call.args)):
            return None
        if is_concat(call, self.lanes):
            return CONCAT
        if view_axes(call, self.lanes) is not None:
            return VIEW
        found = next((k for k in _KERNELS if k.anchors(call, self.machine)), None)
        return None if found is None else found.name

    def has_rotary(self, func: relax.Function) -> bool:
        """No: one loop nest does it."""
        return False

    def has_planes(self, func: relax.Function) -> bool:
        """Whether planes are copied by vectors of channels."""
        return planes.has_planes(func, self.machine)

    def absorbs(self, anchor: relax.Call, call: relax.Call) -> bool:
        """Whether a convolution's kernel multiplies channels of its data by numbers on the way."""
        return Conv2d().absorbs(anchor, call, self.machine)

    def joins(self, first: relax.Function, second: relax.Function) -> bool:
        """Whether one kernel computes two groups, the second from rows of the first."""
        return Expansion().joins(first, second, self.machine)

    def is_pair(self, anchor: relax.Call, other: relax.Call) -> bool:
        """No: each weight is a kernel's."""
        return False

    def is_epilogue(self, call: relax.Call, anchor: relax.Call, kernel: str) -> bool:
        """Whether `call` can be computed on the result of `anchor` in registers."""
        if kernel in (CONCAT, VIEW):
            return False
        return _BY_NAME[kernel].is_epilogue(call, anchor)

    def gains_from_blocks(self, call: relax.Call, share: float) -> bool:
        """Whether a product's kernel is faster with this share of blocks of weights at zero."""
        found = next((k for k in _KERNELS if k.anchors(call, self.machine)), None)
        return found is not None and found.gains_from_blocks(call, share, self.machine)

    def has_attention(self, func: relax.Function) -> bool:
        """Whether an attention group has a kernel."""
        return attention.has_attention(func)

    def is_score_operator(self, call: relax.Call) -> bool:
        """Whether an operator can be computed on attention scores in registers."""
        return attention.is_score_operator(call)

    def demands(self, func: relax.Function, data: Layout) -> list[Demand]:
        """What a group asks of each parameter, if the first has the layout `data` now."""
        if func.attrs[KERNEL] == CONCAT:
            return [Demand(("blocked",)) for _ in func.params]
        if func.attrs[KERNEL] == ATTENTION:
            return attention.demands(func)
        if func.attrs[KERNEL] == PLANES:
            return planes.demands(func, data, self.machine)
        if func.attrs[KERNEL] == VIEW:
            return [Demand(("last" if _to_last(func) else "plain",), exact=True)]
        return _kernel(func).demands(self._group(func), data, self.machine)

    def result_layout(self, func: relax.Function, params: Sequence[Layout]) -> Layout:
        """How a group writes its result, given how its parameters lie."""
        if func.attrs[KERNEL] == ATTENTION:
            return PLAIN
        if func.attrs[KERNEL] == VIEW:
            return PLAIN if _to_last(func) else Layout("last")
        if func.attrs[KERNEL] == PLANES:
            return Layout("blocked", self.lanes)
        return _kernel(func).result_layout(Group.of(func), params, self.machine)

    def elements(self, func: relax.Function) -> list[Element | None]:
        """How a group must have each parameter stored when precision is bfloat16; None: as it is.

        All kernels but dot products compute in float32, whatever they read and write.
        """
        if func.attrs[KERNEL] == ATTENTION:
            return attention.elements(func)
        if func.attrs[KERNEL] in (CONCAT, PLANES, VIEW):
            return [None] * len(func.params)
        wanted = _kernel(func).elements(Group.of(func), self.machine)
        return [wanted.get(param) for param in func.params]

    def can_round_result(self, func: relax.Function) -> bool:
        """Whether a group's kernel rounds whole rows of its result to e4m3: none does."""
        return False

    def keeps_residuals(self, func: relax.Function) -> bool:
        """Whether a group adds to, or normalizes, rows of a transformer: small beside the weights.

        Maps of convolutions are not, and their layers fewer.
        """
        return func.attrs[KERNEL] in (Matmul.name, Norm.name)

    def can_round_rows(self, func: relax.Function) -> bool:
        """Whether a group has a kernel that rounds rows of its data to int8."""
        if func.attrs[KERNEL] != Matmul.name:
            return False
        return matmul.can_round_rows(Group.of(func), self.machine)

    def is_product(self, func: relax.Function) -> bool:
        """Whether a group computes sums of products."""
        kernel = func.attrs[KERNEL]
        return kernel == ATTENTION or (kernel in _BY_NAME and _kernel(func).is_product)

    def lower_recurrent(
        self, func: tirx.PrimFunc, attrs: Mapping[str, Any], weight: np.ndarray, element: Element
    ) -> Kernel | None:
        """Write the kernel of a recurrent layer."""
        return lower_recurrent(func, attrs, weight, element, self.machine)

    def lower_resize(
        self,
        shape: Sequence[Any],
        axes: Sequence[tuple[int, np.ndarray, np.ndarray | None]],
    ) -> Kernel | None:
        """Write the kernel that resizes one axis, or the last two."""
        return lower_resize(shape, axes, self.machine)

    def lower_top_k(
        self, shape: Sequence[Any], axis: int, count: int, largest: bool, dtype: str
    ) -> Kernel | None:
        """Write the kernel that finds the best few of an axis."""
        return lower_top_k(shape, axis, count, largest, dtype, self.lanes)

    def lower(self, func: relax.Function, name: str, layouts: Sequence[Layout]) -> Kernel:
        """Write a group's kernel."""
        if name == "relayout":
            return lower_relayout(func, layouts, self.machine)
        if name == PLANES:
            return planes.lower_planes(func, layouts, self.machine)
        if name in (TAKE_IMAGES, JOIN_IMAGES):
            return lower_images(func, layouts, self.machine)
        kernel = _TUNED[name].lower(self._group(func), layouts, self.machine)
        task = None if self.tuning is None else self.tuning.task(_TUNED[name], Group.of(func))
        if task is None:
            return kernel
        return kernel.with_attr(TASK, task.key)

    def sites(self, mod: IRModule) -> list[Site]:
        """The places in a module of groups with layouts that tuning has a say in, in order."""
        if self.tuning is None:
            return []
        found = []
        for block in mod["main"].body.blocks:
            for value in (b.value for b in block.bindings if isinstance(b, relax.VarBinding)):
                func = _called(mod, value)
                if func is None or str(func.attrs[KERNEL]) not in _TUNED:
                    continue
                task = self.tuning.task(_kernel(func), Group.of(func))
                if task is not None:
                    layouts = tuple(Layout.parse(str(text)) for text in func.attrs[LAYOUTS])
                    found.append(Site(task, _kernel(func), self._group(func), layouts))
        return found

    def _group(self, func: relax.Function) -> Group:
        group = Group.of(func)
        if self.tuning is None:
            return group
        return replace(group, choice=self.tuning.choice(_kernel(func), group, self.machine))


def _is_empty(value: relax.Expr) -> bool:
    """Whether a tensor has no elements: kernels divide by extents."""
    shape = getattr(value.ty, "shape", None)
    return isinstance(shape, relax.ShapeExpr) and any(as_int(n) == 0 for n in shape.values)


def space_versions() -> dict[str, int]:
    """Name of a template -> version of its parameters."""
    return {name: kernel.space_version for name, kernel in _TUNED.items() if kernel.space_version}


def _called(mod: IRModule, value: relax.Expr) -> relax.Function | None:
    """The group that a binding calls, if that is what it does."""
    if not isinstance(value, relax.Call) or not isinstance(value.op, tvm.ir.GlobalVar):
        return None
    func = mod[value.op]
    is_group = isinstance(func, relax.Function) and func.attrs and KERNEL in func.attrs
    return func if is_group else None


def _kernel(func: relax.Function) -> GroupKernel:
    return _TUNED[str(func.attrs[KERNEL])]


def is_concat(call: relax.Call, lanes: int) -> bool:
    """Whether a call joins maps along channels in whole vectors."""
    if str(call.op.name) != "relax.concat" or int(call.attrs.axis) not in (1, -3):
        return False
    fields = [field.ty for field in call.args[0].fields]
    for position, ty in enumerate(fields):
        if ty.ndim != 4 or str(ty.dtype.dtype) != "float32":
            return False
        if not isinstance(ty.shape, relax.ShapeExpr):
            return False
        dims = [as_int(d) for d in ty.shape.values]
        channels = dims[1]
        if channels is None or None in dims[2:]:
            return False
        if position < len(fields) - 1 and channels % lanes:
            return False
    return True


_TO_LAST, _TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


def view_axes(call: relax.Call, lanes: int) -> list[int] | None:
    """The axes of a transpose between channels first and last, whose channels fill vectors."""
    if str(call.op.name) != "relax.permute_dims" or call.attrs.axes is None:
        return None
    axes = [int(a) for a in call.attrs.axes]
    if axes not in (_TO_LAST, _TO_FIRST) or str(call.ty.dtype.dtype) != "float32":
        return None
    if not isinstance(call.ty.shape, relax.ShapeExpr):
        return None
    dims = [as_int(d) for d in call.ty.shape.values]
    if None in dims[1:]:
        return None
    channels = dims[3] if axes == _TO_LAST else dims[1]
    return axes if channels is not None and channels % lanes == 0 else None


def _to_last(func: relax.Function) -> bool:
    call = func.body.blocks[0].bindings[0].value
    return [int(a) for a in call.attrs.axes] == _TO_LAST
