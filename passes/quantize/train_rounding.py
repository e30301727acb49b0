"""Train a quantized model to do what the float one does, while it rounds.

Before:                                  After:
    w = R.dequantize(W, s, z, axis=0)        w = R.dequantize(W', s, z, axis=0)
    lv = R.matmul(x, w)                      lv = R.matmul(x, w)
    gv = R.add(lv, b)                        gv = R.add(lv, b')

Gradient steps, as pruned models take them (prune/distill.py), on weights that are shown rounded,
and on data that are rounded where the model rounds them (prune/straight_through.py). Scales and
ranges stay. The integers that do best on samples that are kept aside are the result, those at the
start included. Weights of zero, which pruning leaves, stay zero.
Fires when: samples and options of distillation are there.
Leaves alone: tables, whose rows are rounded afterwards.
Must run after: everything that rounds or corrects. Must run before: quantize-tables.
Reference: Jacob et al., Quantization and training of neural networks for efficient
integer-arithmetic-only inference, CVPR 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import IRModule, relax

from relaxc.errors import OptionError
from relaxc.passes.base import Pass
from relaxc.passes.prune.distill import Distillation, Pair, sparse_mask, train
from relaxc.passes.prune.features import features_by_name
from relaxc.passes.prune.products import products_of
from relaxc.passes.prune.segments import Arrays, Run, bindings_of
from relaxc.passes.prune.straight_through import RoundedWeight

# What may lie between a weight's real numbers and the layer that reads them.
_MOVES = frozenset(("relax.reshape", "relax.permute_dims"))


@dataclass(frozen=True)
class TrainRounding(Pass):
    """Train integers and biases.

    Attributes:
        teacher: the float module; bindings have the names that they have in the other.
        run: compiles a module and runs it.
        samples: gives arguments of `main`.
        distillation: how long and how fast.
        progress: told how far the work is.
    """

    teacher: Callable[[], IRModule]
    run: Run
    samples: Callable[[], list[Arrays]]
    distillation: Distillation
    progress: Callable[[str], None] = lambda _text: None

    name: ClassVar[str] = "train-rounding"
    required: ClassVar[bool] = True

    def apply(self, mod: IRModule) -> IRModule:
        """Train `main`.

        Raises:
            OptionError: nothing is rounded, or the model cannot be differentiated.
        """
        if not all(isinstance(b, relax.DataflowBlock) for b in mod["main"].body.blocks):
            raise OptionError("distillation is for models without branches and loops")
        if not any(RoundedWeight.of(b.value) for b in bindings_of(mod)):
            raise OptionError("no weight is rounded: there is nothing to train quantized")
        teacher = self.teacher()
        theirs, ours = features_by_name(teacher, mod)
        pair = Pair(teacher, mod, theirs, ours, kept(teacher, mod))
        masks = [None] * len(ours)
        how = self.distillation
        return train(pair, masks, self.run, self.samples(), how, self.progress)


def kept(teacher: IRModule, mod: IRModule) -> dict[int, np.ndarray]:
    """Weights that pruning has left: binding -> a mask of the numbers that may move."""
    sparse = {
        str(p.var.name): mask
        for p in products_of(teacher, grouped=True)
        if (mask := sparse_mask(np.array(p.call.args[1].value.numpy()))) is not None
    }
    bindings = bindings_of(mod)
    # Variable -> the binding whose dequantized weight it is.
    made: dict[relax.Var, int] = {}
    found: dict[int, np.ndarray] = {}
    for index, binding in enumerate(bindings):
        value = binding.value
        if not isinstance(value, relax.Call):
            continue
        if RoundedWeight.of(value) is not None:
            made[binding.var] = index
        elif str(getattr(value.op, "name", "")) in _MOVES and value.args[0] in made:
            made[binding.var] = made[value.args[0]]
        elif (mask := sparse.get(str(binding.var.name))) is not None:
            for arg in value.args:
                if arg in made:
                    stored = bindings[made[arg]].value.args[0].value.numpy()
                    is_same = mask.shape == stored.shape
                    found[made[arg]] = mask if is_same else mask.T.reshape(stored.shape)
    return found
