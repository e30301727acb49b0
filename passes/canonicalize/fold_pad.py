"""Fold zeros around the data of a convolution into its padding.

Before:                                             After:
    lv = R.nn.pad(x, [0, 0, 0, 0, 0, 1, 0, 1])          gv = R.nn.conv2d(x, w, padding=[0, 0, 1, 1])
    gv = R.nn.conv2d(lv, w)

Fires when: 1. pads are zeros on spatial axes only, whose sizes are known;
            2. the convolution then pads no more than its kernel reaches.
Leaves alone: other borders, whole windows of zeros.
Exact. Must run before: flatten-maps, which gives convolutions other axes.
Gains: a copy of the data less; models of Keras and causal convolutions pad like this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import tvm
from tvm import IRModule, relax, tirx

from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_functions, with_value

_CONVOLUTIONS: dict[str, Any] = {
    "relax.nn.conv1d": (relax.op.nn.conv1d, "NCW", "OIW"),
    "relax.nn.conv2d": (relax.op.nn.conv2d, "NCHW", "OIHW"),
    "relax.nn.conv3d": (relax.op.nn.conv3d, "NCDHW", "OIDHW"),
}


@dataclass(frozen=True)
class FoldPad(Pass):
    """Let convolutions pad their data themselves."""

    name: ClassVar[str] = "fold-pad"

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite the dataflow blocks of every function."""
        return relax.transform.DeadCodeElimination()(rewrite_functions(mod, _rewrite))


def _rewrite(builder: relax.BlockBuilder, block: relax.BindingBlock) -> list[relax.Binding]:
    if not isinstance(block, relax.DataflowBlock):
        return list(block.bindings)
    calls: dict[relax.Var, relax.Call] = {}
    result: list[relax.Binding] = []
    for binding in block.bindings:
        value: Any = getattr(binding, "value", None)
        if isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op):
            calls[binding.var] = value
            folded = _folded(value, calls)
            if folded is not None:
                binding = with_value(binding, builder.normalize(folded))
        result.append(binding)
    return result


def _folded(call: relax.Call, calls: dict[relax.Var, relax.Call]) -> relax.Call | None:
    convolve, *layouts = _CONVOLUTIONS.get(str(call.op.name), (None, "", ""))
    pad = calls.get(call.args[0]) if isinstance(call.args[0], relax.Var) else None
    if convolve is None or pad is None or pad.op.name != "relax.nn.pad":
        return None
    attrs = call.attrs
    if [str(attrs.data_layout), str(attrs.kernel_layout)] != layouts:
        return None
    width = _spatial_zeros(pad)
    taps = [int(n) for n in call.args[1].ty.shape.values[2:]]
    rank = len(taps)
    if width is None or len(width) != 2 * rank:
        return None
    # Both before all axes, then both after, as a convolution lists them.
    added = [*width[::2], *width[1::2]]
    padding = [int(p) + more for p, more in zip(attrs.padding, added)]
    reach = [(k - 1) * int(d) for k, d in zip(taps, attrs.dilation)]
    if any(p > r for p, r in zip(padding, reach * 2)):  # 2.
        return None
    return convolve(
        pad.args[0],
        call.args[1],
        strides=[int(s) for s in attrs.strides],
        padding=padding,
        dilation=[int(d) for d in attrs.dilation],
        groups=int(attrs.groups),
        data_layout=layouts[0],
        kernel_layout=layouts[1],
        out_layout=str(attrs.out_layout),
        out_dtype=attrs.out_dtype,
    )


def _spatial_zeros(pad: relax.Call) -> list[int] | None:
    """Before and after every spatial axis; None where that is not all, or not known."""
    attrs, shape = pad.attrs, pad.args[0].ty.shape
    width = [int(w) for w in attrs.pad_width]
    is_zero = str(attrs.pad_mode) == "constant" and float(attrs.pad_value) == 0.0
    if not is_zero or any(width[:4]) or min(width) < 0:  # 1.
        return None
    if not isinstance(shape, relax.ShapeExpr):
        return None
    return width[4:] if all(isinstance(n, tirx.IntImm) for n in shape.values[2:]) else None
