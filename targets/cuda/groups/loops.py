"""What has no kernel of its own but must follow its neighbours' layouts and precision.

Left outside of groups, these operators would have their operands moved to plain float32 first.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax

from relaxc.layout import PLAIN, Demand, Layout
from relaxc.targets.cuda.groups.base import Context, Group, GroupKernel, is_float
from relaxc.targets.cuda.kernels.expressions import OPERATORS
from relaxc.targets.cuda.kernels.kernel import Kernel
from relaxc.targets.cuda.kernels.loops import lower_loops
from relaxc.targets.llvm.kernels.domain import same

_MAPS = (
    *("relax.nn.conv2d", "relax.nn.max_pool2d", "relax.nn.avg_pool2d"),
    *("relax.nn.adaptive_avg_pool2d", "relax.mean"),
)
_ROWS = ("relax.nn.softmax", "relax.nn.layer_norm", "relax.nn.rms_norm")


class Loops(GroupKernel):
    """An operator, and elementwise ones behind it."""

    def __init__(self, name: str, operators: Sequence[str]) -> None:
        self.name = name  # type: ignore[misc]
        self.operators = frozenset(operators)

    def anchors(self, call: relax.Call, context: Context) -> bool:
        """Whether it is one of the operators, on float32."""
        if str(call.op.name) not in self.operators or not is_float(call):
            return False
        tensors = [arg for arg in call.args if isinstance(arg.ty, relax.TensorType)]
        if not all(map(is_float, tensors)) or not isinstance(call.args[0], relax.Var):
            return False
        if self.name == "map":
            return len(call.ty.shape.values) == 4 and len(call.args[0].ty.shape.values) == 4
        return bool(call.ty.ndim > 0)

    def is_epilogue(self, call: relax.Call, anchor: relax.Call) -> bool:
        """Elementwise operators whose result has the anchor's shape."""
        if str(call.op.name) not in OPERATORS or not is_float(call):
            return False
        tensors = [arg for arg in call.args if isinstance(arg.ty, relax.TensorType)]
        return all(map(is_float, tensors)) and _same_shape(call, anchor)

    def demands(self, group: Group, data: Layout, context: Context) -> list[Demand]:
        """Maps lie channels last, if the first one does or the operator works on pixels."""
        is_map = self.name == "map" or (data.kind == "last" and self._result_rank(group) == 4)
        found = []
        for param in group.func.params:
            wide = param.same_as(group.func.params[0]) or _same_shape(param, group.anchor)
            last = is_map and wide and len(param.ty.shape.values) == 4
            found.append(Demand(("last",) if last else ("plain",)))
        return found

    @staticmethod
    def _result_rank(group: Group) -> int:
        first = list(group.func.params[0].ty.shape.values)
        # Only where the first operand is as wide as the result does its layout carry over.
        wide = len(first) == len(group.result_shape) and all(map(same, first, group.result_shape))
        return len(group.result_shape) if wide else 0

    def result_layout(self, group: Group, params: Sequence[Layout]) -> Layout:
        """As the first parameter."""
        return Layout("last") if params[0].kind == "last" else PLAIN

    def lower(self, group: Group, layouts: Sequence[Layout], context: Context) -> Kernel:
        """One loop nest."""
        return lower_loops(self.name, group.func, layouts)


def _same_shape(a: relax.Expr, b: relax.Expr) -> bool:
    if not is_float(a) or not is_float(b):
        return False
    left, right = list(a.ty.shape.values), list(b.ty.shape.values)
    return len(left) == len(right) and all(map(same, left, right))


LOOPS = (
    Loops("map", _MAPS),
    Loops("rows", _ROWS),
    Loops("elementwise", sorted(OPERATORS)),
)
