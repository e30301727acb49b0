"""Options that prune, and how they are read."""

from __future__ import annotations

from dataclasses import replace

import click

from relaxc.cli.parameters import BATCH, LOGITS, PATH, refuse_alone, stacked
from relaxc.errors import OptionError
from relaxc.options import (
    AUGMENTATIONS,
    IMPORTANCES,
    SCOPES,
    Augmentation,
    CompileOptions,
    Criterion,
    DistillOptions,
    Importance,
    PruneOptions,
    Scheme,
    Scope,
    SparsifyOptions,
    parse_pruning,
)

pruning = stacked(
    click.option(
        "--prune",
        multiple=True,
        metavar="WHAT=SHARE",
        help="Remove channels: `channels=0.5`, `macs=0.3`, `params=0.4` or `latency=0.5` less "
        "than before; or set weights to zero: `unstructured=0.5`, `2:4` or, in blocks that "
        "kernels leave out, `block=0.8`. May be given for each.",
    ),
    click.option(
        "--importance",
        type=click.Choice(IMPORTANCES),
        default="l2",
        show_default=True,
        help="How channels are judged; all but `l1` and `l2` need `--samples`.",
    ),
    click.option(
        "--scope",
        type=click.Choice(SCOPES),
        default="uniform",
        show_default=True,
        help="The same share everywhere, or what matters least in a layer or in the model.",
    ),
    click.option(
        "--round-to",
        default="auto",
        show_default=True,
        help="Channel counts become multiples of this; auto: what the target's vectors hold.",
    ),
    click.option(
        "--keep",
        multiple=True,
        metavar="NODE",
        help="Leave a node's channels: its name, or a regular expression; may be repeated.",
    ),
    click.option(
        "--recover",
        metavar="DATA",
        help="Correct the weights that are left by these samples, given as for `--calibrate`.",
    ),
    click.option("--samples", metavar="DATA", help="Judge channels by these, without correction."),
    click.option(
        "--distill",
        "distill_epochs",
        type=int,
        metavar="EPOCHS",
        help="Train the weights that are left, or their integers, to do what the whole model "
        "does on `--recover`'s (without `--prune`: `--calibrate`'s) samples; no labels.",
    ),
    click.option(
        "--learning-rate",
        type=float,
        default=0.003,
        show_default=True,
        help="Of distillation: the longest step, relative to the size of a weight.",
    ),
    click.option(
        "--augment",
        multiple=True,
        type=click.Choice(AUGMENTATIONS),
        help="Change samples for distillation: images are mirrored or moved, or samples mixed; "
        "may be repeated.",
    ),
    click.option("--distill-batch", "batch", type=int, default=32, show_default=True, help=BATCH),
    click.option("--logits", multiple=True, metavar="OUTPUT", help=LOGITS),
    click.option(
        "--checkpoint",
        type=PATH,
        help="Keep the state of distillation there, and go on from it.",
    ),
    click.option(
        "--sensitivity",
        metavar="FILE|DATA",
        help="Take from each group what the result misses least: by a file of `relaxc "
        "sensitivity`, or measured on these samples.",
    ),
)

_NOT_ALONE = frozenset(
    {"importance", "scope", "round_to", "keep", "recover", "samples", "sensitivity"}
)
_OF_DISTILLATION = frozenset({"learning_rate", "batch", "augment", "logits", "checkpoint"})


def read_pruning(
    options: CompileOptions,
    *,
    prune: tuple[str, ...],
    importance: Importance,
    scope: Scope,
    round_to: str,
    keep: tuple[str, ...],
    recover: str | None,
    samples: str | None,
    sensitivity: str | None,
    distill: DistillOptions | None,
) -> CompileOptions:
    """The options with what those of `pruning` say.

    Raises:
        OptionError: they do not fit together.
    """
    if not prune:
        refuse_alone(_NOT_ALONE, "`--prune`; with a recipe, give samples with `--calibrate`")
    curves: dict[str, dict[float, float]] = {}
    if sensitivity is not None:
        scope = "sensitivity"
        if data_of(sensitivity) is None:
            from relaxc.sensitivity import read_curves

            curves = read_curves(sensitivity)
        else:
            samples = samples or sensitivity
    if round_to != "auto" and not round_to.isdecimal():
        raise OptionError(f"`--round-to {round_to}` is neither `auto` nor a number")
    if prune and importance not in ("l1", "l2") and recover is None and samples is None:
        raise OptionError(
            f"`--importance {importance}` needs samples; give them with `--recover` or `--samples`"
        )
    for what, amount in map(parse_pruning, prune):
        if isinstance(what, int) or what == "unstructured" or what == "block":
            if options.sparsify is not None:
                raise OptionError("weights can be pruned in one way only; give `--prune` once")
            sparsify = SparsifyOptions(
                share=0.0 if isinstance(what, int) else amount,
                blocks=what == "block",
                pattern=(what, int(amount)) if isinstance(what, int) else None,
                criterion=_criterion(importance),
                exclude=keep,
                recover=recover is not None,
                distill=distill,
            )
            options = replace(options, sparsify=sparsify)
        elif options.prune is not None:
            raise OptionError("channels can be pruned in one way only; give `--prune` once")
        else:
            channels = PruneOptions(
                saving=what,
                share=amount,
                importance=importance,
                scope=scope,
                exclude=keep,
                round_to="auto" if round_to == "auto" else int(round_to),
                recover=recover is not None,
                curves=curves,
                distill=distill,
            )
            options = replace(options, prune=channels)
    return options


def read_distillation(
    *,
    prune: tuple[str, ...],
    quantize: Scheme | None,
    recover: str | None,
    calibrate: str | None,
    distill_epochs: int | None,
    learning_rate: float,
    batch: int,
    augment: tuple[Augmentation, ...],
    logits: tuple[str, ...],
) -> DistillOptions | None:
    """How to train what pruning leaves, or its integers.

    Raises:
        OptionError: there is nothing to train, or no data.
    """
    if distill_epochs is None:
        refuse_alone(_OF_DISTILLATION, "`--distill`")
        return None
    if not prune and quantize is None:
        raise OptionError("`--distill` goes with `--prune` or `--quantize`")
    if recover is None and (prune or calibrate is None):
        instead = "" if prune else " or `--calibrate`"
        raise OptionError(f"`--distill` needs samples; give them with `--recover`{instead}")
    return DistillOptions(
        epochs=distill_epochs,
        learning_rate=learning_rate,
        batch=batch,
        augment=augment,
        logits=logits,
    )


def _criterion(importance: Importance) -> Criterion:
    """How single weights are judged."""
    if importance in ("activation", "fisher"):
        instead = "wanda" if importance == "activation" else "obs"
        raise OptionError(f"`--importance {importance}` is for channels; use `{instead}`")
    return importance if importance == "wanda" or importance == "obs" else "magnitude"


def data_of(sensitivity: str | None) -> str | None:
    """The samples that `--sensitivity` names, if it names some."""
    return None if sensitivity is None or sensitivity.endswith(".json") else sensitivity
