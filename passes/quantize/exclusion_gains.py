"""What leaving the least exact layers float would buy: measured, not predicted.

The module is quantized again without them, and run on samples beside the float one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import IRModule, relax

from relaxc.passes.prune.segments import Arrays, Run, bindings_of, piece

# How many layers are left float.
_COUNTS = (0, 1, 2, 4, 8)
# More of them take longer and say the same.
_SAMPLES = 16


@dataclass(frozen=True)
class ExclusionGain:
    """The model with some more layers in float.

    Attributes:
        nodes: the ONNX nodes that are left float.
        sqnr_db: signal to quantization noise of the model's least exact output.
    """

    nodes: tuple[str, ...]
    sqnr_db: float


def exclusion_gains(
    teacher: IRModule,
    without: Callable[[Collection[str]], IRModule],
    nodes: Sequence[str],
    run: Run,
    samples: Sequence[Arrays],
) -> list[ExclusionGain]:
    """The exactness of the model's outputs with ever more layers in float.

    Args:
        teacher: the float module.
        without: the quantized module, all but some nodes.
        nodes: that are quantized, the least exact first.
        run: compiles a module and runs it on arguments.
        samples: arguments of `main`.

    Returns:
        Nothing for modules with branches or loops, or without outputs that are floats.
    """
    samples = samples[:_SAMPLES]
    truth = _outputs(teacher, run, samples)
    if not truth or not truth[0]:
        return []
    found: list[ExclusionGain] = []
    for count in [c for c in _COUNTS if c <= len(nodes)]:
        left = tuple(nodes[:count])
        found.append(ExclusionGain(left, _sqnr_db(truth, _outputs(without(left), run, samples))))
    return found


def _outputs(mod: IRModule, run: Run, samples: Sequence[Arrays]) -> list[list[np.ndarray]]:
    """The floats that a module gives, by sample."""
    main = mod["main"]
    if not all(isinstance(block, relax.DataflowBlock) for block in main.body.blocks):
        return []
    bindings, result = bindings_of(mod), main.body.body
    bound = {b.var: b.value for b in bindings}
    result = bound.get(result, result)
    wanted = list(result.fields) if isinstance(result, relax.Tuple) else [main.body.body]
    wanted = [v for v in wanted if isinstance(v, relax.Var) and "float" in str(v.ty.dtype.dtype)]
    if not wanted:
        return []
    module, params = piece(mod, bindings, wanted)
    place = {var: i for i, var in enumerate(main.params)}
    arguments = ([sample[place[var]] for var in params] for sample in samples)
    return list(run(module, arguments))


def _sqnr_db(truth: list[list[np.ndarray]], ours: list[list[np.ndarray]]) -> float:
    ratios = []
    for place in range(len(truth[0])):
        pairs = [(a[place].astype(np.float64), b[place]) for a, b in zip(truth, ours, strict=True)]
        signal = sum(float((a**2).sum()) for a, _ in pairs)
        noise = sum(float(((b - a) ** 2).sum()) for a, b in pairs)
        ratios.append(10 * math.log10(signal / noise) if signal and noise else math.inf)
    return min(ratios)
