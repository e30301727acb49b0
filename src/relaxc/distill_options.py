"""Options of training without labels, of what is pruned or quantized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from relaxc.errors import OptionError, near_matches

Augmentation = Literal["flip", "shift", "mix"]
AUGMENTATIONS: tuple[Augmentation, ...] = get_args(Augmentation)


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """How a pruned or quantized model is trained to do what the whole one does; no labels.

    Attributes:
        epochs: times that every sample is seen.
        learning_rate: the longest step, relative to the size of a weight.
        batch: samples per step, where the model's batch is open.
        augment: what happens to samples before both models see them: `flip` and `shift` for images,
            `mix` blends two.
        logits: outputs that hold scores of classes along the last axis: not numbers are compared,
            but the probabilities that follow from them.
    """

    epochs: int = 20
    learning_rate: float = 0.003
    batch: int = 32
    augment: tuple[Augmentation, ...] = ()
    logits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1:
            raise OptionError("distillation takes at least one epoch and one sample per batch")
        if not 0 < self.learning_rate < 1:
            raise OptionError(
                f"the learning rate is a share of a weight, in (0, 1), not {self.learning_rate:g}"
            )
        for word in self.augment:
            check_word("augmentation", word, AUGMENTATIONS)


def check_word(what: str, word: str, words: tuple[str, ...]) -> None:
    """Fail unless a word is one of some.

    Raises:
        OptionError: it is none.
    """
    if word not in words:
        listed = ", ".join(f"`{name}`" for name in words)
        raise OptionError(f"unknown {what} `{word}`{near_matches(word, words)}; use {listed}")
