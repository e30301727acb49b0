"""Pool what a smaller window has pooled already, instead of the same tensor once more.

Before:                                        After:
    a = R.nn.max_pool2d(x, 5, padding=2)           a = R.nn.max_pool2d(x, 5, padding=2)
    b = R.nn.max_pool2d(x, 9, padding=4)           b = R.nn.max_pool2d(a, 5, padding=2)
    c = R.nn.max_pool2d(x, 13, padding=6)          c = R.nn.max_pool2d(b, 5, padding=2)

Fires when: 1. both windows are odd, move by a pixel and are padded so that the map keeps its size;
            2. the earlier one is nowhere larger than the later one.
Exact: the largest of largest ones, over windows that together are the larger window. What is padded
never counts, and the pixels at the edge reach as far as the map.
Gains: spatial pyramids (YOLO) read 75 numbers per result instead of 275.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tvm import IRModule, relax

from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_functions, with_value
from relaxc.passes.fuse.outline import operator_call

Window = tuple[int, int]


@dataclass(frozen=True)
class ChainPools(Pass):
    """Compute large windows of maximum pooling from smaller ones of the same tensor."""

    name: ClassVar[str] = "chain-pools"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite the dataflow blocks of every function."""
        return rewrite_functions(mod, _rewrite)


def _rewrite(builder: relax.BlockBuilder, block: relax.BindingBlock) -> list[relax.Binding]:
    if not isinstance(block, relax.DataflowBlock):
        return list(block.bindings)
    # What is pooled -> windows over it, and their results.
    pooled: dict[relax.Expr, dict[Window, relax.Var]] = {}
    result: list[relax.Binding] = []
    for binding in block.bindings:
        call = operator_call(binding)
        window = None if call is None else _window(call)
        if call is not None and window is not None:
            earlier = pooled.setdefault(call.args[0], {})
            smaller = [w for w in earlier if w != window and all(map(int.__le__, w, window))]  # 2.
            if smaller:
                most = max(smaller, key=lambda w: w[0] * w[1])
                rest = window[0] - most[0] + 1, window[1] - most[1] + 1
                value = builder.normalize(_pool(call, earlier[most], rest))
                binding = with_value(binding, value)
            earlier[window] = binding.var
        result.append(binding)
    return result


def _window(call: relax.Call) -> Window | None:
    """The window of a pooling that keeps the size of its map; None for other calls."""
    if call.op.name != "relax.nn.max_pool2d" or str(call.attrs.layout) != "NCHW":
        return None
    height, width = (int(n) for n in call.attrs.pool_size)
    padding = [int(p) for p in call.attrs.padding]
    if [int(n) for n in (*call.attrs.strides, *call.attrs.dilation)] != [1, 1, 1, 1]:
        return None
    if height % 2 == 0 or width % 2 == 0 or padding != [height // 2, width // 2] * 2:  # 1.
        return None
    return height, width


def _pool(call: relax.Call, data: relax.Expr, window: Window) -> relax.Call:
    """The same with other data and another window, padded to keep the size."""
    return relax.op.nn.max_pool2d(
        data,
        list(window),
        padding=[window[0] // 2, window[1] // 2] * 2,
        ceil_mode=bool(call.attrs.ceil_mode),
    )
