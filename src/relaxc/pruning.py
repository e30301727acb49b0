"""The passes that prune, as the options say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tvm import IRModule

from relaxc.errors import OptionError, near_matches
from relaxc.options import CompileOptions, Diagnostics, DistillOptions, SparsifyOptions
from relaxc.passes.base import Pass
from relaxc.passes.prune.budget import Budget
from relaxc.passes.prune.distill import Distillation
from relaxc.passes.prune.latency import Clock
from relaxc.passes.prune.prune_channels import PruneChannels, PruneReport
from relaxc.passes.prune.prune_weights import Blocks, NOfM, Pattern, PruneWeights, Unstructured
from relaxc.passes.prune.segments import Arrays, Run
from relaxc.passes.quantize.train_rounding import TrainRounding
from relaxc.targets.base import Backend


def require_samples(options: CompileOptions, are_given: bool) -> None:
    """Refuse options that need samples of real inputs where there are none.

    Raises:
        OptionError: an importance or recovery lacks samples.
    """
    prune, sparsify, quantize = options.prune, options.sparsify, options.quantize
    if are_given:
        return
    if quantize is not None and quantize.distill is not None:
        raise OptionError("training a quantized model needs samples of real inputs to recover by")
    if prune is not None and prune.needs_samples:
        way = "scope" if prune.scope == "sensitivity" else "importance"
        raise OptionError(
            f"pruning by {way} `{prune.scope if way == 'scope' else prune.importance}`"
            f"{' with recovery' if prune.recover else ''} needs samples of real inputs"
        )
    if sparsify is not None and sparsify.needs_samples:
        raise OptionError(f"pruning weights by `{sparsify.criterion}` needs samples of real inputs")


def require_logits(options: DistillOptions | None, outputs: Sequence[str]) -> None:
    """Refuse logits that a model does not give.

    Raises:
        OptionError: no output has such a name.
    """
    for name in () if options is None else options.logits:
        if name not in outputs:
            raise OptionError(
                f"`{name}` is to be compared as logits, but the model has no such output"
                f"{near_matches(name, outputs)}; it has {', '.join(f'`{n}`' for n in outputs)}"
            )


def require_outputs(options: CompileOptions, outputs: Sequence[str]) -> None:
    """Refuse logits that a model does not give, before any work is done.

    Raises:
        OptionError: no output has such a name.
    """
    for part in (options.prune, options.sparsify, options.quantize):
        require_logits(None if part is None else part.distill, outputs)


def pruning_passes(
    options: CompileOptions,
    backend: Backend,
    run: Run,
    samples: Callable[[], list[Arrays]],
    report: Callable[[PruneReport], None],
    progress: Callable[[str], None],
    checkpoint: Path | None = None,
    clock: Clock | None = None,
    outputs: Callable[[], Sequence[str]] = tuple,
) -> list[Pass]:
    """Channels first: weights that are gone need no zeros.

    Args:
        options: of the compilation.
        backend: says which numbers of channels its kernels like.
        run: compiles a module and runs it.
        samples: gives arguments of `main`.
        report: told what became of the channels.
        progress: told how far the work is.
        checkpoint: keeps the state of distillation.
        clock: times kernels.
        outputs: gives the names of the model's outputs.
    """
    passes: list[Pass] = []
    prune, sparsify = options.prune, options.sparsify
    if prune is not None:
        multiple = backend.channel_multiple if prune.round_to == "auto" else prune.round_to
        budget = Budget(prune.saving, prune.share, prune.scope, multiple)
        passes.append(
            PruneChannels(
                budget,
                prune.importance,
                prune.exclude,
                prune.recover,
                run,
                samples,
                report,
                progress,
                {name: tuple(curve.items()) for name, curve in prune.curves.items()},
                _trained(prune.distill, checkpoint, outputs),
                clock,
            )
        )
    if sparsify is not None:
        passes.append(
            PruneWeights(
                _pattern(sparsify, backend),
                sparsify.criterion,
                sparsify.exclude,
                sparsify.recover,
                run,
                samples,
                progress,
                _trained(sparsify.distill, _second(checkpoint, prune is not None), outputs),
                *([_pays(sparsify.share, backend)] if sparsify.blocks else []),
            )
        )
    return passes


def training_pass(
    options: DistillOptions,
    teacher: Callable[[], IRModule],
    run: Run,
    samples: Callable[[], list[Arrays]],
    diagnostics: Diagnostics,
    outputs: Callable[[], Sequence[str]],
) -> TrainRounding:
    """Training of a quantized model; its state lies beside that of a pruned one.

    Args:
        options: how long and how fast.
        teacher: gives the float module.
        run, samples, outputs: as of `pruning_passes`.
        diagnostics: where the state is kept, and who is told how far it is.
    """
    path = diagnostics.checkpoint
    state = path and path.with_name(path.name + ".integers")
    how = distillation(options, state, outputs)
    return TrainRounding(teacher, run, samples, how, diagnostics.on_phase)


def _pattern(options: SparsifyOptions, backend: Backend) -> Pattern:
    if options.pattern is not None:
        return NOfM(*options.pattern)
    if not options.blocks:
        return Unstructured(options.share)
    if backend.block_outputs is None:
        raise OptionError(
            "no kernel leaves out blocks of zeros on this target; pruning by blocks is for CPUs"
        )
    return Blocks(options.share, backend.block_outputs)


def _pays(share: float, backend: Backend) -> Callable[[Any], bool]:
    return lambda call: bool(backend.kernels.gains_from_blocks(call, share))


def distillation(
    options: DistillOptions, checkpoint: Path | None, outputs: Callable[[], Sequence[str]]
) -> Distillation:
    """How to train, as the options say."""
    return Distillation(
        options.epochs,
        options.learning_rate,
        options.batch,
        options.augment,
        checkpoint,
        options.logits,
        outputs,
    )


def _trained(
    options: DistillOptions | None, checkpoint: Path | None, outputs: Callable[[], Sequence[str]]
) -> Distillation | None:
    return None if options is None else distillation(options, checkpoint, outputs)


def _second(path: Path | None, is_taken: bool) -> Path | None:
    """Training after channels and after weights: a state for each."""
    return path if path is None or not is_taken else path.with_name(path.name + ".weights")
