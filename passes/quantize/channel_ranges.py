"""The range and the mean square of every channel of some values, on samples.

One module computes the values and reduces each, so that memory does not grow with the samples:

    low, high, square = R.min(x, axes), R.max(x, axes), R.mean(x * x, axes)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import IRModule, relax

from relaxc.passes.blocks import rewrite_blocks
from relaxc.passes.prune.segments import Arrays, Run


@dataclass(frozen=True)
class ChannelRanges:
    """What a value's channels hold.

    Attributes:
        low, high: [channels] the least and the greatest number.
        square: [channels] mean square.
    """

    low: np.ndarray
    high: np.ndarray
    square: np.ndarray


def channel_ranges(
    mod: IRModule, values: Mapping[str, int], run: Run, samples: Sequence[Arrays]
) -> dict[str, ChannelRanges]:
    """What the channels of some values hold.

    Args:
        mod: computes them in `main`.
        values: names of variables, and the axis of their channels.
        run: compiles a module and runs it on arguments.
        samples: arguments of `main`.
    """
    names, module = measuring(mod, values)
    if not names:
        return {}
    rows = list(run(module, samples))
    found: dict[str, ChannelRanges] = {}
    for i, name in enumerate(names):
        low, high, square = (
            np.array([row[3 * i + k] for row in rows], np.float64) for k in range(3)
        )
        found[name] = ChannelRanges(low.min(0), high.max(0), square.mean(0))
    return found


def measuring(mod: IRModule, values: Mapping[str, int]) -> tuple[list[str], IRModule]:
    """The names of the values that are measured, and a module that gives three tensors each."""
    names: list[str] = []
    measured: list[relax.Var] = []
    waiting = [p for p in mod["main"].params if str(p.name) in values]

    def rewrite(block: relax.BindingBlock) -> Sequence[relax.Binding]:
        if not isinstance(block, relax.DataflowBlock):
            return list(block.bindings)
        result: list[relax.Binding] = []
        for var in waiting:
            result += measure(var)
        waiting.clear()
        for binding in block.bindings:
            result.append(binding)
            if str(binding.var.name) in values:
                result += measure(binding.var)
        return result

    def measure(var: relax.Var) -> list[relax.Binding]:
        name = str(var.name)
        axis = values[name] % var.ty.ndim
        axes = [i for i in range(var.ty.ndim) if i != axis]
        builder = relax.BlockBuilder()
        square = builder.normalize(relax.op.multiply(var, var))
        held = relax.DataflowVar(f"{name}.square", square.ty)
        result: list[relax.Binding] = [relax.VarBinding(held, square)]
        for suffix, value in (
            ("low", relax.op.min(var, axes)),
            ("high", relax.op.max(var, axes)),
            ("mean", relax.op.mean(held, axes)),
        ):
            value = builder.normalize(value)
            result.append(relax.VarBinding(relax.Var(f"{name}.{suffix}", value.ty), value))
            measured.append(result[-1].var)
        names.append(name)
        return result

    builder = relax.BlockBuilder(mod)
    main = rewrite_blocks(builder, mod["main"], rewrite)
    body = builder.normalize(relax.SeqExpr(main.body.blocks, relax.Tuple(measured)))
    out = mod.clone()
    out["main"] = relax.Function(main.params, body, body.ty, main.is_pure, main.attrs)
    # The model's own results are none any more.
    return names, relax.transform.CanonicalizeBindings()(out)
