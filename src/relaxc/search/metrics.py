"""How good a model's outputs are: against labels, or against the float model's outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from relaxc.errors import InputError, OptionError, near_matches

Outputs = Mapping[str, np.ndarray]
# Label of tokens that don't count, as in the training code of most language models.
_IGNORED = -100


@dataclass(frozen=True)
class Metric:
    """A number for a set of results.

    Attributes:
        name: as the user says it.
        truth: what the results are compared with.
        is_higher_better: whether more is better.
        score: from predictions [n, ...] and truths [n, ...], the first output of the model and the
            labels or the float model's first output, to the number.
    """

    name: str
    truth: str
    is_higher_better: bool
    score: Callable[[np.ndarray, np.ndarray], float]

    @property
    def needs_labels(self) -> bool:
        """Whether the user has to give labels."""
        return self.truth == "labels"

    def drop(self, score: float, base: float) -> float:
        """How much worse `score` is than `base`: positive is worse."""
        return base - score if self.is_higher_better else score - base


def _classes(predictions: np.ndarray) -> np.ndarray:
    """Scores as [n, classes]."""
    return predictions.reshape(len(predictions), -1)


def _top(count: int) -> Callable[[np.ndarray, np.ndarray], float]:
    def score(predictions: np.ndarray, labels: np.ndarray) -> float:
        best = np.argsort(-_classes(predictions), axis=1, kind="stable")[:, :count]
        return float((best == labels.reshape(-1, 1)).any(axis=1).mean())

    return score


def _f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Macro-averaged over the classes that occur."""
    found, wanted = _classes(predictions).argmax(axis=1), labels.reshape(-1)
    scores = []
    for label in np.union1d(found, wanted):
        hits = np.sum((found == label) & (wanted == label))
        scores.append(2 * hits / (np.sum(found == label) + np.sum(wanted == label)))
    return float(np.mean(scores))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks with ties averaged."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    average: np.ndarray = (ends - (counts - 1) / 2)[inverse]
    return average


def _spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    ours, theirs = _ranks(predictions.reshape(-1)), _ranks(labels.reshape(-1))
    return float(np.corrcoef(ours, theirs)[0, 1])


def _psnr(predictions: np.ndarray, truth: np.ndarray) -> float:
    """In dB, relative to the range of the truth."""
    error = float(np.mean((predictions.astype(np.float64) - truth) ** 2))
    peak = float(truth.max()) - float(truth.min())
    return float(10 * np.log10(peak**2 / max(error, 1e-30)))


def _perplexity(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Of logits [n, ..., vocabulary] and the tokens [n, ...] that they predict."""
    logits = predictions.astype(np.float64).reshape(-1, predictions.shape[-1])
    tokens = labels.reshape(-1)
    counted = tokens != _IGNORED
    logits, tokens = logits[counted], tokens[counted]
    largest = logits.max(axis=1, keepdims=True)
    total = np.log(np.exp(logits - largest).sum(axis=1)) + largest[:, 0]
    chosen = logits[np.arange(len(tokens)), tokens]
    return float(np.exp(np.mean(total - chosen)))


def _cosine(predictions: np.ndarray, reference: np.ndarray) -> float:
    """Mean cosine of the angle between a sample's output and the float model's."""
    a = predictions.astype(np.float64).reshape(len(predictions), -1)
    b = reference.astype(np.float64).reshape(len(reference), -1)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    # Two outputs of zeros agree.
    cosines = np.where(norms > 0, (a * b).sum(axis=1) / np.maximum(norms, 1e-300), a.sum(1) == 0)
    return float(cosines.mean())


def _agreement(predictions: np.ndarray, reference: np.ndarray) -> float:
    """Share of samples in which the largest score is that of the same class."""
    return float((_classes(predictions).argmax(1) == _classes(reference).argmax(1)).mean())


METRICS = {
    metric.name: metric
    for metric in (
        Metric("top1", "labels", True, _top(1)),
        Metric("top5", "labels", True, _top(5)),
        Metric("f1", "labels", True, _f1),
        Metric("spearman", "labels", True, _spearman),
        Metric("psnr", "labels", True, _psnr),
        Metric("perplexity", "labels", False, _perplexity),
        Metric("cosine", "the float model", True, _cosine),
        Metric("agreement", "the float model", True, _agreement),
    )
}


def metric_named(name: str, has_labels: bool) -> Metric:
    """Look a metric up.

    Raises:
        OptionError: there is none of that name, or it needs labels and has none.
    """
    if name not in METRICS:
        raise OptionError(
            f"unknown metric `{name}`{near_matches(name, METRICS)}; metrics are "
            + ", ".join(f"`{known}`" for known in METRICS)
        )
    metric = METRICS[name]
    if metric.needs_labels and not has_labels:
        raise OptionError(f"metric `{name}` needs labels; give them with `--labels`")
    return metric


def evaluate(metric: Metric, predictions: np.ndarray, truth: np.ndarray) -> float:
    """Compute a metric.

    Raises:
        InputError: predictions and truth don't fit together.
    """
    try:
        score = metric.score(predictions, truth)
    except (ValueError, IndexError) as err:
        raise InputError(
            f"metric `{metric.name}` does not fit outputs of shape {list(predictions.shape)} and "
            f"{metric.truth} of shape {list(truth.shape)}: {err}"
        ) from err
    return score if np.isfinite(score) else float("-inf" if metric.is_higher_better else "inf")


def concatenated(outputs: Sequence[np.ndarray]) -> np.ndarray:
    """The first output of every call, stacked along the first axis.

    Raises:
        InputError: their shapes differ, or an output has no axis for samples.
    """
    try:
        return np.concatenate(outputs)
    except ValueError as err:
        raise InputError(
            "the first output of the model has other shapes for other samples, so no built-in "
            "metric fits; give a function of your own with `--evaluate`"
        ) from err
