"""Which convolutions and products cannot be quantized to int8, and why."""

from __future__ import annotations

from tvm import IRModule, relax
from tvm.ir import GenericConst

from relaxc.passes.fuse.outline import operator_call
from relaxc.passes.quantize.annotate import ANCHORS
from relaxc.passes.quantize.exclusion import Exclusion, node_of

_TRANSPOSED = frozenset(f"relax.nn.conv{n}d_transpose" for n in (1, 2, 3))


def unquantized(mod: IRModule, exclude: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Nodes of a float module that stay float, in its order, and the reason of each.

    Args:
        mod: before it is annotated.
        exclude: what the user excludes.
    """
    exclusion = Exclusion.of(mod, exclude)
    found: dict[str, str] = {}
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            reason = _reason(binding, isinstance(block, relax.DataflowBlock))
            node = node_of(binding)
            if reason is None and operator_call(binding) is not None and _is_product(binding):
                reason = "excluded" if _matches(exclusion, node) else None
            if reason is not None:
                found.setdefault(node, reason)
    return list(found.items())


def _matches(exclusion: Exclusion, node: str) -> bool:
    # What the speed gate reverted is listed with its times.
    return Exclusion(exclusion.patterns).has(node)


def _is_product(binding: relax.Binding) -> bool:
    call = operator_call(binding)
    return call is not None and (str(call.op.name) in ANCHORS or str(call.op.name) in _TRANSPOSED)


def _reason(binding: relax.Binding, is_dataflow: bool) -> str | None:
    """Why a convolution or product cannot be quantized; None for those that can, and others."""
    call = operator_call(binding)
    if call is None or not _is_product(binding):
        return None
    data, weight = call.args[:2]
    if str(call.op.name) in _TRANSPOSED:
        return "transposed convolutions have no integer kernel"
    if not is_dataflow:
        return "it is in a branch or a loop"
    if any(str(e.ty.dtype.dtype) != "float32" for e in (data, weight)):
        return f"its operands are {data.ty.dtype.dtype} and {weight.ty.dtype.dtype}, not float32"
    if not isinstance(weight, GenericConst):
        return "its weight is computed by the model, not a constant"
    if not isinstance(data, relax.Var):
        return "its data are constant"
    if str(call.op.name) == "relax.matmul" and weight.ty.ndim != 2:
        return f"its weight has {weight.ty.ndim} dimensions, not two"
    return None
