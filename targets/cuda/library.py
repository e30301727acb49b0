"""The kernel library for one GPU, as the grouping, precision and layout passes see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
from tvm import IRModule, relax, tirx

from relaxc.layout import (
    ATTENTION,
    KERNEL,
    LAYOUTS,
    PLAIN,
    ROTATE,
    Demand,
    Element,
    Layout,
    Precision,
)
from relaxc.targets.cuda.groups import attention, rotate
from relaxc.targets.cuda.groups.all_reduce import AllReduce
from relaxc.targets.cuda.groups.base import Context, Group, GroupKernel
from relaxc.targets.cuda.groups.conv2d import Conv2d
from relaxc.targets.cuda.groups.loops import LOOPS
from relaxc.targets.cuda.groups.matmul import Matmul
from relaxc.targets.cuda.groups.pool2d import Mean2d, Pool2d
from relaxc.targets.cuda.groups.rows import Rows
from relaxc.targets.cuda.kernels.convert import lower_convert
from relaxc.targets.cuda.kernels.interleave import CHANNELS, lower_interleave
from relaxc.targets.cuda.kernels.kernel import Kernel
from relaxc.targets.cuda.kernels.launch import launch_of
from relaxc.targets.cuda.kernels.loops import lower_loops
from relaxc.targets.cuda.kernels.round_rows import lower_round_rows
from relaxc.targets.cuda.machine import Gpu
from relaxc.targets.cuda.tuning import Fixed, Noting, Tuning
from relaxc.targets.tuning.task import Choice, Task

# The first that applies wins.
_KERNELS: tuple[GroupKernel, ...] = (
    *(Conv2d(), Matmul(), Pool2d(), Mean2d(), Rows(), AllReduce()),
    *LOOPS,
)
# These read plain tensors of any element, through views.
_VIEWING = (ATTENTION, ROTATE)
# These ask how they should be divided.
_ASKING = (ATTENTION, Conv2d.name, Matmul.name)
_BY_NAME = {kernel.name: kernel for kernel in _KERNELS}


@dataclass(frozen=True)
class CudaKernels:
    """Which operators have a kernel, what layouts these want, and how they become code.

    Attributes:
        gpu: the architecture.
        mode: how products are computed.
        tuning: chooses how kernels are divided; None leaves that to the kernels.
    """

    gpu: Gpu
    mode: Precision
    tuning: Tuning | None = None

    @property
    def reads_integers(self) -> bool:
        """Whether kernels take quantized constants: they do."""
        return True

    @property
    def cores(self) -> int:
        """One device."""
        return 1

    @property
    def cached_bytes(self) -> int:
        """A GPU is filled by batches: they stay whole."""
        return 0

    @property
    def lanes(self) -> int:
        """Channels per block of the blocked layout, in which few channels lie."""
        return CHANNELS

    @property
    def prefers_wide_products(self) -> bool:
        """Small models fill a GPU with wide products only."""
        return True

    @property
    def joins_keys(self) -> bool:
        """Tiles of keys are fetched row by row, from whichever part a row lies in."""
        return True

    @property
    def widens_halves(self) -> bool:
        """Kernels see float32, whatever is stored."""
        return True

    @property
    def _context(self) -> Context:
        has_float8 = self.mode == "float8"
        mode = "float16" if has_float8 else self.mode
        return Context(self.gpu, mode, self.tuning, has_float8)

    def anchor(self, call: relax.Call) -> str | None:
        """The kernel that computes this call as an anchor, if there is one."""
        if not self.gpu.has_async_copy:  # TVM's default schedules serve these
            return None
        found = next((k for k in _KERNELS if k.anchors(call, self._context)), None)
        return None if found is None else found.name

    def is_epilogue(self, call: relax.Call, anchor: relax.Call, kernel: str) -> bool:
        """Whether `call` can be computed on the result of `anchor` in registers."""
        return _BY_NAME[kernel].is_epilogue(call, anchor)

    def joins(self, first: relax.Function, second: relax.Function) -> bool:
        """No: maps of one image stay in the L2 cache."""
        return False

    def absorbs(self, anchor: relax.Call, call: relax.Call) -> bool:
        """Whether a product's kernel computes `call`, a normalization, on its rows."""
        kernel = self.anchor(anchor)
        return kernel is not None and _BY_NAME[kernel].absorbs(anchor, call, self._context)

    def is_pair(self, anchor: relax.Call, other: relax.Call) -> bool:
        """Whether one kernel computes two products of the same rows, and what needs both."""
        kernel = self.anchor(anchor)
        return kernel is not None and _BY_NAME[kernel].is_pair(anchor, other, self._context)

    def has_attention(self, func: relax.Function) -> bool:
        """Whether an attention group has a kernel."""
        return self.gpu.has_async_copy and attention.has_attention(func, self._context)

    def has_planes(self, func: relax.Function) -> bool:
        """No: loop nests gather them."""
        return False

    def has_rotary(self, func: relax.Function) -> bool:
        """Whether a group that turns halves of rows has a kernel."""
        return self.gpu.has_async_copy and rotate.has_rotary(func)

    def is_score_operator(self, call: relax.Call) -> bool:
        """Whether an operator can be computed on attention scores in registers."""
        return attention.is_score_operator(call)

    def demands(self, func: relax.Function, data: Layout) -> list[Demand]:
        """What a group asks of each parameter, if the first has the layout `data` now."""
        if func.attrs[KERNEL] in _VIEWING:
            return [Demand(("plain",)) for _ in func.params]
        return _kernel(func).demands(Group.of(func), data, self._context)

    def result_layout(self, func: relax.Function, params: Sequence[Layout]) -> Layout:
        """How a group writes its result, given how its parameters lie."""
        if func.attrs[KERNEL] in _VIEWING:
            return PLAIN
        return _kernel(func).result_layout(Group.of(func), params)

    def elements(self, func: relax.Function) -> list[Element | None]:
        """How a group must have each parameter stored; None where it reads either."""
        if func.attrs[KERNEL] in _VIEWING:
            return [None] * len(func.params)
        wanted = _kernel(func).elements(Group.of(func), self._context)
        return [wanted.get(param) for param in func.params]

    def can_round_rows(self, func: relax.Function) -> bool:
        """Whether a group has a kernel that rounds rows of its data to int8: not yet."""
        return False

    def is_product(self, func: relax.Function) -> bool:
        """Whether a group computes sums of products."""
        if func.attrs[KERNEL] in _VIEWING:
            return bool(func.attrs[KERNEL] == ATTENTION)
        return _kernel(func).is_product

    def can_round_result(self, func: relax.Function) -> bool:
        """Whether a group's kernel rounds rows of its result: norms have them in registers."""
        return str(func.attrs[KERNEL]) == Rows.name

    def keeps_residuals(self, func: relax.Function) -> bool:
        """No: what is not float32 is stored so throughout."""
        return False

    def lower_recurrent(
        self, func: tirx.PrimFunc, attrs: Mapping[str, Any], weight: np.ndarray, element: Element
    ) -> Kernel | None:
        """No kernel: recurrent layers stay loops."""
        return None

    def lower_resize(
        self,
        shape: Sequence[Any],
        axes: Sequence[tuple[int, np.ndarray, np.ndarray | None]],
    ) -> Kernel | None:
        """No kernel: resizing stays loops."""
        return None

    def lower_top_k(
        self, shape: Sequence[Any], axis: int, count: int, largest: bool, dtype: str
    ) -> Kernel | None:
        """No kernel: all elements are sorted."""
        return None

    def lower(self, func: relax.Function, name: str, layouts: Sequence[Layout]) -> Kernel:
        """Write a group's kernel."""
        if name == "relayout":
            special = lower_round_rows(func, layouts) or lower_interleave(func, layouts)
            special = special or lower_convert(func, layouts)
            return special or lower_loops(name, func, layouts)
        if name == ROTATE:
            return rotate.lower(func, layouts)
        return _written(func, layouts, self._context)

    def sites(self, mod: IRModule) -> list[CudaSite]:
        """The places in a module of groups with layouts that tuning has a say in, in order."""
        if self.tuning is None:
            return []
        found: list[CudaSite] = []
        for block in mod["main"].body.blocks:
            for value in (b.value for b in block.bindings if isinstance(b, relax.VarBinding)):
                func = _called(mod, value)
                if func is not None:
                    found += self._sites(func, self.tuning)
        return found

    def _sites(self, func: relax.Function, tuning: Tuning) -> list[CudaSite]:
        """What a group asks as it is written; nothing if it can only be launched by a model."""
        layouts = [Layout.parse(str(text)) for text in func.attrs[LAYOUTS]]
        noting = Noting()
        context = replace(self._context, chooser=noting)
        kernel = _written(func, layouts, context)
        if launch_of(kernel.func) is None:
            return []
        return [
            CudaSite(tuning.task(workload), choices, func, tuple(layouts), context)
            for workload, choices in noting.asked
        ]


@dataclass(frozen=True, eq=False)
class CudaSite:
    """A place in a model where a tuned kernel stands.

    Attributes:
        task: which one.
        choices: all of them, the untuned one first.
        func: the group.
        layouts: of its parameters and of its result.
        context: what it is written for.
    """

    task: Task
    choices: Sequence[Choice]
    func: relax.Function
    layouts: tuple[Layout, ...]
    context: Context

    def space(self, _machine: object = None) -> Sequence[Choice]:
        """All choices, the untuned one first."""
        return self.choices

    def written(self, choice: Choice) -> Kernel:
        """The kernel written with a choice."""
        return _written(self.func, self.layouts, replace(self.context, chooser=Fixed(choice)))


def _written(func: relax.Function, layouts: Sequence[Layout], context: Context) -> Kernel:
    if func.attrs[KERNEL] == ATTENTION:
        return attention.lower(func, layouts, context)
    return _kernel(func).lower(Group.of(func), layouts, context)


def _called(mod: IRModule, value: relax.Expr) -> relax.Function | None:
    """The group that a call calls, if it is of a kind that asks."""
    if not isinstance(value, relax.Call) or not isinstance(value.op, tvm.ir.GlobalVar):
        return None
    func = mod[value.op]
    is_asking = isinstance(func, relax.Function) and str(func.attrs.get(KERNEL)) in _ASKING
    return func if is_asking else None


def _kernel(func: relax.Function) -> GroupKernel:
    return _BY_NAME[str(func.attrs[KERNEL])]
