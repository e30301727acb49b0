"""Let consecutive layers share the range of their weights, channel by channel.

Before:                                  After:
    lv = R.nn.conv2d(x, w1)                  lv = R.nn.conv2d(x, w1 / s)
    lv1 = R.add(lv, b)                       lv1 = R.add(lv, b / s)
    lv2 = R.nn.relu(lv1)                     lv2 = R.nn.relu(lv1)
    gv = R.nn.conv2d(lv2, w2)                gv = R.nn.conv2d(lv2, w2 * s)
where s = sqrt(r1 / r2), of the ranges r1 and r2 of each channel's weights: both become
sqrt(r1 * r2). Repeated until little changes, because a layer has two neighbours.

Fires when: a value is computed by constants only up to a product (biases, relu, pooling between),
and all that read it are products or depthwise convolutions.
Leaves alone: values that anything else reads; clipping at 6, which does not scale.
Exact but for rounding of float32.
Must run after: fold-batch-norm. Must run before: annotate-quantization.
Reference: Nagel et al., Data-free quantization through weight equalization and bias correction,
ICCV 2019, section 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import IRModule, relax

from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_main
from relaxc.passes.fuse.outline import BindingGraph, operator_call
from relaxc.passes.quantize.rescale import (
    Edits,
    applied,
    channel_axis,
    divided,
    multiplied,
    per_channel,
    reader_axis,
)

_SWEEPS = 20
# No channel is scaled by more than this in one step: beyond it, its weights are hardly used.
_MOST = 1e3
_CLOSE = 1.02


@dataclass(frozen=True)
class EqualizeLayers(Pass):
    """Cross-layer equalization."""

    name: ClassVar[str] = "equalize-layers"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite the constants of `main`."""

        def rewrite(block: relax.BindingBlock) -> Sequence[relax.Binding]:
            bindings = list(block.bindings)
            if isinstance(block, relax.DataflowBlock):
                for _ in range(_SWEEPS):
                    bindings, largest = _swept(bindings)
                    if largest < _CLOSE:
                        break
            return bindings

        return rewrite_main(relax.BlockBuilder(mod), rewrite)


def _swept(bindings: list[relax.Binding]) -> tuple[list[relax.Binding], float]:
    """Equalize every pair once; also gives the largest factor."""
    graph = BindingGraph(bindings)
    edits: Edits = {}
    largest = 1.0
    for index, binding in enumerate(bindings):
        users = list(dict.fromkeys(graph.users[index]))
        calls = [edits.get(bindings[u].var, operator_call(bindings[u])) for u in users]
        readers = [c for c in calls if c is not None and reader_axis(c) is not None]
        if not readers or len(readers) < len(calls) or graph.leaves[index]:
            continue
        if not all(reader.args[0].same_as(binding.var) for reader in readers):
            continue
        axis = channel_axis(readers[0])
        if any(channel_axis(reader) != axis for reader in readers):
            continue
        wanted = np.max([per_channel(r, lambda w: np.abs(w).max(1)) for r in readers], axis=0)
        made = _made(graph, binding.var, axis, len(wanted), edits)
        if made is None:
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            scales = np.sqrt(made / wanted)
        scales = np.where((made > 0) & (wanted > 0), np.clip(scales, 1 / _MOST, _MOST), 1.0)
        if not divided(graph, binding.var, axis, scales, edits):
            continue
        for user, reader in zip(users, readers):
            edits[bindings[user].var] = multiplied(reader, scales)
        largest = max(largest, float(scales.max()), float(1 / scales.min()))
    return applied(bindings, edits), largest


def _made(
    graph: BindingGraph, var: relax.Var, axis: int, channels: int, edits: Edits
) -> np.ndarray | None:
    """The range of the weights that make each channel of a value."""
    trial: Edits = dict(edits)
    if not divided(graph, var, axis, np.ones(channels), trial):
        return None
    while var in graph.index:
        call = edits.get(var, operator_call(graph.bindings[graph.index[var]]))
        assert call is not None  # what is divided is computed by operators
        if reader_axis(call) is not None:
            weight = np.asarray(call.args[1].value.numpy(), np.float64)
            last = weight.ndim - 1 if str(call.op.name) == "relax.matmul" else 0
            return np.asarray(np.abs(np.moveaxis(weight, last, 0)).reshape(channels, -1).max(1))
        sources = [a for a in call.args if isinstance(a, relax.Var)]
        if len(sources) != 1 or str(call.op.name) in ("relax.multiply", "relax.nn.layer_norm"):
            return None
        var = sources[0]
    return None
