"""Move the difference in size between the channels of a product's data into its weight.

Before:                                  After:
    lv = R.matmul(x, w)                      lv = R.divide(x, s)        or in what computes x
                                             lv1 = R.matmul(lv, w * s)
where s[j] = max|x[j]|^a / max|w[j]|^(1 - a), a number per channel j.

Data have one scale; where a few channels are large, the others are left few of its 256 values.
Weights have a scale per output, which takes up some of that. How much to move (a) is decided layer
by layer: what rounding will add to the result, data and weights together, is estimated from each
channel's range and mean square on samples,

    noise = D^2 / 12 * sum_j s[j]^2 |w[j]|^2 + sum_o d[o]^2 / 12 * sum_j E[x[j]^2] / s[j]^2

with the steps D of x / s and d[o] of the weights of output o. Weights of depthwise convolutions
have a scale per channel of the data: they take up all of its range, and lose nothing.
Fires when: 1. all that read a value and will be quantized are products or depthwise convolutions;
            2. the estimated noise is halved. A bias, a norm or another product takes the division
               for nothing, and a multiplication more does not matter where the kernel that
               computes the value does it, or what converts it to bytes before a matrix product.
               Elsewhere noise must fall to a quarter, and nothing else may read the value.
Leaves alone: everything where there are no samples; layers that stay float.
Exact but for rounding of float32.
Must run after: canonicalization. Must run before: annotate-quantization.
Reference: Xiao et al., SmoothQuant: accurate and efficient post-training quantization for large
language models, ICML 2023; the search replaces its one exponent for all layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import IRModule, relax

from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_main
from relaxc.passes.fuse.outline import BindingGraph, operator_call
from relaxc.passes.prune.segments import Arrays, Run
from relaxc.passes.quantize.channel_ranges import ChannelRanges, channel_ranges
from relaxc.passes.quantize.exclusion import Exclusion, node_of, without_float_nodes
from relaxc.passes.quantize.rescale import (
    Edits,
    applied,
    channel_axis,
    divided,
    multiplied,
    reader_axis,
)

_EXPONENTS = np.linspace(0.1, 1.0, 10)
# How much of the range of depthwise convolutions' data is above zero.
_ABOVE = np.linspace(0.05, 0.95, 19)
# What kernels of products compute on their results.
_EPILOGUE = frozenset(
    [
        *("relax.matmul", "relax.nn.conv1d", "relax.nn.conv2d", "relax.nn.conv3d"),
        *("relax.add", "relax.subtract", "relax.multiply", "relax.clip", "relax.sigmoid"),
        *(f"relax.nn.{name}" for name in ("relu", "leakyrelu", "silu", "gelu", "gelu_tanh")),
    ]
)
# Of the noise, for a division that is free or nearly, and for one that is not.
_HALF, _QUARTER = 0.5, 0.25
# What a channel may be divided by, relative to the one that is divided by most.
_LEAST = 1e-4


@dataclass(frozen=True)
class SmoothActivations(Pass):
    """SmoothQuant, layer by layer.

    Attributes:
        run: compiles a module and runs it.
        samples: gives arguments of `main`; without any, nothing happens.
        exclude: nodes that stay float: names, or regular expressions that match whole names.
    """

    run: Run
    samples: Callable[[], Sequence[Arrays]]
    exclude: tuple[str, ...] = ()

    name: ClassVar[str] = "smooth-activations"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite `main`."""
        exclusion = Exclusion.of(mod, self.exclude)
        samples = self.samples() if _candidates(mod, exclusion) else []
        if not samples:
            return mod
        # Of all, whatever is left float: what ran is known, then, where other layers are.
        whole = without_float_nodes(mod)
        ranges = channel_ranges(whole, _candidates(whole, Exclusion(())), self.run, samples)

        def smooth(block: relax.BindingBlock) -> Sequence[relax.Binding]:
            if not isinstance(block, relax.DataflowBlock):
                return list(block.bindings)
            return _smoothed(list(block.bindings), ranges, exclusion)

        return rewrite_main(relax.BlockBuilder(mod), smooth)


def _candidates(mod: IRModule, exclusion: Exclusion) -> dict[str, int]:
    """Names of the data of products, and the axis of their channels."""
    found: dict[str, int] = {}
    for block in mod["main"].body.blocks:
        if isinstance(block, relax.DataflowBlock):
            for binding in block.bindings:
                call = operator_call(binding)
                if _is_reader(binding, exclusion) and call is not None:
                    found[str(call.args[0].name)] = channel_axis(call)
    return found


def _is_reader(binding: relax.Binding, exclusion: Exclusion) -> bool:
    call = operator_call(binding)
    axis = reader_axis(call)
    if call is None or axis is None or str(call.args[0].ty.dtype.dtype) != "float32":
        return False
    return not exclusion.has(node_of(binding))


def _is_depthwise(call: relax.Call) -> bool:
    return reader_axis(call) == 0 and str(call.op.name) != "relax.matmul"


def _smoothed(
    bindings: list[relax.Binding], ranges: dict[str, ChannelRanges], exclusion: Exclusion
) -> list[relax.Binding]:
    graph = BindingGraph(bindings)
    edits: Edits = {}
    inserted: dict[int, list[relax.Binding]] = {}
    readers: dict[relax.Var, list[int]] = {}
    for index, binding in enumerate(bindings):
        if _is_reader(binding, exclusion):
            readers.setdefault(binding.value.args[0], []).append(index)
    for var, places in readers.items():
        calls = [edits.get(bindings[p].var, bindings[p].value) for p in places]
        axis = channel_axis(calls[0])
        seen = ranges.get(str(var.name))
        if seen is None or any(channel_axis(call) != axis for call in calls):
            continue
        scales, share = best_scales(seen, [Rows.of(call) for call in calls])
        if share > _HALF:
            continue
        is_last = var in graph.index and set(graph.users[graph.index[var]]) <= set(places)
        if not (is_last and divided(graph, var, axis, scales, edits)):
            if share > _most_left(graph, var, calls, is_last):
                continue
            inserted.setdefault(places[0], []).append(_division(var, axis, scales))
            smooth = inserted[places[0]][-1].var
            calls = [
                relax.Call(c.op, [smooth, *c.args[1:]], c.attrs, c.ty_args, c.span) for c in calls
            ]
        for place, call in zip(places, calls):
            edits[bindings[place].var] = multiplied(call, scales)
    result: list[relax.Binding] = []
    for index, binding in enumerate(applied(bindings, edits)):
        result += [*inserted.get(index, ()), binding]
    return result


def _most_left(
    graph: BindingGraph, var: relax.Var, calls: Sequence[relax.Call], is_last: bool
) -> float:
    """The share of the noise that may be left where a value is multiplied before it is read."""
    if all(str(call.op.name) == "relax.matmul" for call in calls):
        return _HALF
    if not is_last:
        return 0.0
    made = operator_call(graph.bindings[graph.index[var]])
    return _HALF if made is not None and str(made.op.name) in _EPILOGUE else _QUARTER


def _division(var: relax.Var, axis: int, scales: np.ndarray) -> relax.Binding:
    shape = [1] * var.ty.ndim
    shape[axis] = -1
    inverse = relax.const(np.asarray(1 / scales, np.float32).reshape(shape))
    value = relax.BlockBuilder().normalize(relax.op.multiply(var, inverse))
    return relax.VarBinding(relax.DataflowVar(f"{var.name}.smooth", value.ty), value)


@dataclass(frozen=True)
class Rows:
    """What is to be known of a weight.

    Attributes:
        square: [channels] the energy of the weights that multiply a channel.
        largest: [channels, outputs] the largest of them, by output.
        taps: weights of an output per channel.
        is_depthwise: whether every output reads one channel.
    """

    square: np.ndarray
    largest: np.ndarray
    taps: int
    is_depthwise: bool = False

    @staticmethod
    def of(call: relax.Call) -> Rows:
        """Those of a product or convolution."""
        weight = np.asarray(call.args[1].value.numpy(), np.float64)
        if str(call.op.name) == "relax.matmul":
            weight = weight[:, :, None]
        else:
            weight = weight.reshape(*weight.shape[:2], -1)
            if not _is_depthwise(call):
                weight = weight.swapaxes(0, 1)
        return Rows(
            (weight**2).sum((1, 2)), np.abs(weight).max(2), weight.shape[2], _is_depthwise(call)
        )


def best_scales(seen: ChannelRanges, weights: Sequence[Rows]) -> tuple[np.ndarray, float]:
    """What to divide each channel by, and the share of the noise that is left.

    Args:
        seen: of the data.
        weights: of each product that reads them.
    """
    size = np.maximum(-seen.low, seen.high)
    largest = np.max([w.largest.max(1) for w in weights], axis=0)
    floor = max(float(size.max()), 1e-30)
    size = np.maximum(size, _LEAST * floor)
    largest = np.maximum(largest, _LEAST * max(float(largest.max()), 1e-30))
    before = _noise(seen, weights, np.ones(len(size)))
    best, least = np.ones(len(size)), before
    tried = [
        size**exponent / largest**other for exponent in _EXPONENTS for other in (1 - exponent, 0.0)
    ]
    if any(w.is_depthwise for w in weights):
        tried += [_filling(seen, share, _LEAST * floor) for share in _ABOVE]
    for scales in tried:
        # Near one, so that float32 has room.
        scales = scales / np.exp(np.log(scales).mean())
        noise = _noise(seen, weights, scales)
        if noise < least:
            best, least = scales, noise
    return best, least / before if before > 0 else 1.0


def _filling(seen: ChannelRanges, above: float, floor: float) -> np.ndarray:
    """Scales with which every channel fills the range up to one of its ends.

    Args:
        seen: of the data.
        above: the share of the range that is positive.
        floor: the least of them.
    """
    ends = np.maximum(seen.high / above, -seen.low / (1 - above))
    return np.asarray(np.maximum(ends, floor))


def _noise(seen: ChannelRanges, weights: Sequence[Rows], scales: np.ndarray) -> float:
    """Estimated energy of what rounding adds to the results, per pixel or row."""
    high, low = (seen.high / scales).max(), (seen.low / scales).min()
    step = (max(high, 0.0) - min(low, 0.0)) / 255
    energy = seen.square / scales**2
    total = 0.0
    for weight in weights:
        steps = (weight.largest * scales[:, None]) / 127
        total += step**2 / 12 * float((weight.square * scales**2).sum())
        if weight.is_depthwise:
            total += float((steps**2 * energy[:, None]).sum()) * weight.taps / 12
        else:
            total += float((steps.max(0) ** 2).sum()) / 12 * float(energy.sum()) * weight.taps
    return total
