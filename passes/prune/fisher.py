"""How much the model's outputs move when a channel goes, to second order and without labels.

The distance between the outputs of a pruned model and the dense model's own is least where nothing
is pruned: there its slope is zero, and its curvature is J'J, where J holds the derivative of every
output by the channel's strength (Gauss and Newton; Fisher information of outputs with equal noise).
`v'J`, for signs v drawn at random, is one step backwards through the model, and its square is J'J
on the average (Hutchinson 1990). Strengths are masks (masking.py) that are all one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from tvm import IRModule, relax

from relaxc.errors import OptionError
from relaxc.passes.blocks import substitute
from relaxc.passes.prune.dependency import Dependencies
from relaxc.passes.prune.masking import Masked, mask_channels
from relaxc.passes.prune.segments import Arrays, Run, bindings_of, common_shapes, of_shapes
from relaxc.passes.prune.training import flattened, held, require_gradients

# Steps backwards, over all samples, that an average takes at least.
_DRAWS = 128


def fisher_importance(
    mod: IRModule, found: Dependencies, run: Run, samples: list[Arrays]
) -> dict[int, float]:
    """The score of every channel that may go.

    Args:
        mod: the dense module.
        found: its channels.
        run: compiles a module and runs it.
        samples: arguments of `main`; those of the commonest shapes count.

    Raises:
        OptionError: the module has branches, no float32 output, or an operator without a
            derivative.
    """
    masked = mask_channels(mod, found)
    sizes = common_shapes(mod, samples)
    samples = of_shapes(mod, sizes, samples)
    fixed = masked.mod
    if sizes:
        fixed = relax.transform.BindSymbolicVars(sizes, "main")(fixed)
    count = len(mod["main"].params)
    outputs = _outputs(fixed)
    energies = _energies(fixed, outputs, run, [[*s, *masked.masks([])] for s in samples[:8]])
    step = _step(fixed, outputs, count)
    shapes = [tuple(int(d) for d in var.ty.shape.values) for var in outputs]
    rng = np.random.default_rng(0)

    def feeds() -> Iterator[list[np.ndarray]]:
        for _ in range(-(-_DRAWS // len(samples))):
            for sample in samples:
                signs = [
                    (rng.choice((-1.0, 1.0), shape) / energy).astype(np.float32)
                    for shape, energy in zip(shapes, energies)
                ]
                yield [*sample, *masked.masks([]), *signs]

    total = np.zeros(1 + max(c for group in found.groups for c in group.channels))
    runs = 0
    for _, *slopes in run(step, feeds()):
        total += _by_channel(masked, slopes, len(total)) ** 2
        runs += 1
    return {c: float(total[c]) / runs for group in found.groups for c in group.channels}


def _by_channel(masked: Masked, slopes: Sequence[np.ndarray], count: int) -> np.ndarray:
    """A channel goes everywhere at once: what its masks do adds up."""
    total = np.zeros(count)
    for axis, slope in zip(masked.axes, slopes, strict=True):
        known = axis < count
        np.add.at(total, axis[known], slope.reshape(-1)[known])
    return total


def _outputs(mod: IRModule) -> list[relax.Var]:
    """Those that can be differentiated."""
    body = mod["main"].body.body
    bound = {b.var: b.value for b in bindings_of(mod)}
    fields = bound[body].fields if isinstance(body, relax.Var) else body.fields
    found = [f for f in fields if isinstance(f, relax.Var) and str(f.ty.dtype.dtype) == "float32"]
    found = [f for f in found if f in bound]
    if not found:
        raise OptionError("importance `fisher` needs a float32 output")
    return found


def _energies(
    mod: IRModule, outputs: Sequence[relax.Var], run: Run, samples: list[Arrays]
) -> list[float]:
    """By what each output is divided: outputs count alike, however large they are."""
    if len(outputs) == 1:
        return [1.0]
    body = mod["main"].body.body
    bound = {b.var: b.value for b in bindings_of(mod)}
    fields = list(bound[body].fields if isinstance(body, relax.Var) else body.fields)
    places = [next(i for i, f in enumerate(fields) if f.same_as(var)) for var in outputs]
    squares = [
        [float((np.asarray(values[place], np.float64) ** 2).sum()) for place in places]
        for values in run(mod, samples)
    ]
    return [float(e) for e in np.sqrt(np.mean(squares, axis=0)) + 1e-12]


def _step(mod: IRModule, outputs: Sequence[relax.Var], count: int) -> IRModule:
    """Inputs, masks and signs to the signed sum of the outputs and its slope by every mask."""
    main, bindings = mod["main"], bindings_of(mod)
    masks = list(main.params)[count:]
    reads = {
        i
        for i, b in enumerate(bindings)
        if any(var in masks for var in relax.analysis.free_vars(b.value))
    }
    index = {b.var: i for i, b in enumerate(bindings)}
    require_gradients(bindings, reads, {index[var] for var in outputs}, "importance `fisher`")
    still = held(bindings, reads)
    signs = [relax.Var(f"sign{i}", var.ty) for i, var in enumerate(outputs)]
    builder = relax.BlockBuilder(mod)
    inner: dict[relax.Var, relax.Var] = {}
    op = relax.op
    with builder.function("step", [*main.params, *signs]):
        with builder.dataflow():
            for binding in bindings:
                if not isinstance(binding.value, relax.Tuple):
                    value = substitute(binding.value, inner)
                    inner[binding.var] = builder.emit(value, binding.var.name)
                if binding.var in still:
                    inner[binding.var] = builder.emit(op.grad.no_grad(inner[binding.var]))
            total: relax.Expr = relax.const(0, "float32")
            for var, sign in zip(outputs, signs):
                part = builder.emit(op.sum(builder.emit(op.multiply(inner[var], sign))))
                total = builder.emit(op.add(total, part))
            total = builder.emit_output(total)
        builder.emit_func_output(total)
    return flattened(relax.transform.Gradient("step", require_grads=masks)(builder.get()))
