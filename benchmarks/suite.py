"""The fifteen models of the comparison, and what relaxc promises on them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Models that spend their time in the same kernels.

    Attributes:
        name: for tables.
        models: names of their files.
        bar: how much of the better float32 peer's time they may take, in the geometric mean.
    """

    name: str
    models: tuple[str, ...]
    bar: float


FAMILIES = (
    Family("3x3 convolutions", ("resnet18", "densenet121", "inception_v3", "unet"), 0.62),
    Family(
        "pointwise and depthwise",
        ("resnet50", "mobilenetv2", "mobilenetv3_large", "efficientnet_b0"),
        0.82,
    ),
    Family(
        "transformers, ConvNeXt",
        ("convnext_tiny", "vit_tiny", "vit_base", "minilm_static", "bert_base_s128", "swin_tiny"),
        0.92,
    ),
    Family("recurrent", ("lstm_tagger",), 0.97),
)
MODELS = tuple(model for family in FAMILIES for model in family.models)
# Float32 against the better float32 peer: geometric mean of all, and the worst.
OVERALL, WORST = 0.70, 0.97
# bfloat16 against OpenVINO's default precision, likewise.
OVERALL_BF16, WORST_BF16 = 0.92, 1.05


@dataclass(frozen=True)
class Verdict:
    """A promise and what came of it.

    Attributes:
        what: is promised.
        value: was measured; a ratio of times, smaller is better.
        bar: may not be exceeded.
    """

    what: str
    value: float
    bar: float

    def __str__(self) -> str:
        verdict = "ok" if self.value <= self.bar else "MISSED"
        return f"{self.what}: {self.value:.2f} (bar {self.bar:.2f}) {verdict}"


def verdicts(ratios: Mapping[str, float]) -> list[Verdict]:
    """Judge float32 ratios by model; families without any are left out."""
    found = [Verdict("geometric mean", statistics.geometric_mean(ratios.values()), OVERALL)]
    worst = max(ratios, key=lambda name: ratios[name])
    found.append(Verdict(f"worst, {worst}", ratios[worst], WORST))
    for family in FAMILIES:
        members = _present(ratios, family.models)
        if members:
            found.append(Verdict(family.name, statistics.geometric_mean(members), family.bar))
    return found


def verdicts_bf16(ratios: Mapping[str, float]) -> list[Verdict]:
    """Judge bfloat16 ratios by model."""
    worst = max(ratios, key=lambda name: ratios[name])
    mean = statistics.geometric_mean(ratios.values())
    return [
        Verdict("bf16 geometric mean", mean, OVERALL_BF16),
        Verdict(f"bf16 worst, {worst}", ratios[worst], WORST_BF16),
    ]


def _present(ratios: Mapping[str, float], names: Iterable[str]) -> list[float]:
    return [ratios[name] for name in names if name in ratios]
