"""Metrics against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from relaxc.errors import InputError, OptionError
from relaxc.search.metrics import METRICS, concatenated, evaluate, metric_named

SCORES = np.array([[0.1, 0.7, 0.2], [0.6, 0.3, 0.1], [0.2, 0.3, 0.5], [0.4, 0.5, 0.1]])


def score(name: str, predictions: np.ndarray, truth: np.ndarray) -> float:
    return evaluate(METRICS[name], predictions, truth)


def test_top1_and_top5() -> None:
    labels = np.array([1, 0, 1, 2])
    assert score("top1", SCORES, labels) == 0.5
    assert score("top1", SCORES.reshape(4, 3, 1, 1), labels) == 0.5
    wide = np.tile(np.arange(10.0), (2, 1))
    assert score("top5", wide, np.array([5, 4])) == 0.5


def test_f1_is_averaged_over_classes() -> None:
    # Class 0: 2 of 3 found, one false alarm. Class 1: 1 of 2 found, one false alarm.
    found = np.eye(2)[[0, 0, 1, 0, 1]]
    assert score("f1", found, np.array([0, 0, 0, 1, 1])) == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_spearman_with_ties() -> None:
    ours = np.array([1.0, 2.0, 2.0, 5.0])
    assert score("spearman", ours, np.array([10.0, 20.0, 20.0, 30.0])) == pytest.approx(1)
    # Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4.
    expected = np.corrcoef([1, 2.5, 2.5, 4], [1, 2, 3, 4])[0, 1]
    assert score("spearman", ours, np.arange(4.0)) == pytest.approx(expected)


def test_psnr_in_db() -> None:
    truth = np.array([0.0, 1.0])
    assert score("psnr", truth + 0.1, truth) == pytest.approx(20)


def test_perplexity_of_certain_and_of_clueless_models() -> None:
    tokens = np.array([[1, 2, -100]])
    certain = 100 * np.eye(4)[[[1, 2, 0]]]
    assert score("perplexity", certain, tokens) == pytest.approx(1)
    assert score("perplexity", np.zeros((1, 3, 4)), tokens) == pytest.approx(4)
    assert METRICS["perplexity"].drop(3.5, 3.0) == 0.5


def test_cosine_and_agreement_with_the_float_model() -> None:
    assert score("cosine", 3 * SCORES, SCORES) == pytest.approx(1)
    assert score("cosine", np.zeros((1, 2)), np.zeros((1, 2))) == 1
    assert score("cosine", np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])) == 0
    other = SCORES.copy()
    other[0] = [1, 0, 0]
    assert score("agreement", other, SCORES) == 0.75
    assert METRICS["top1"].drop(0.8, 0.9) == pytest.approx(0.1)


@pytest.mark.parametrize(("name", "expected"), [("psnr", -np.inf), ("perplexity", np.inf)])
def test_nan_is_the_worst(name: str, expected: float) -> None:
    broken = np.full((2, 4), np.nan)
    truth = np.array([1, 2]) if name == "perplexity" else np.arange(8.0).reshape(2, 4)
    assert score(name, broken, truth) == expected


def test_names() -> None:
    assert metric_named("cosine", has_labels=False).name == "cosine"
    with pytest.raises(OptionError, match=r"unknown metric `top2` \(did you mean `top"):
        metric_named("top2", has_labels=True)
    with pytest.raises(OptionError, match="metric `top1` needs labels; give them with `--labels`"):
        metric_named("top1", has_labels=False)


def test_what_does_not_fit() -> None:
    with pytest.raises(InputError, match=r"metric `top1` does not fit outputs of shape \[4, 3\]"):
        score("top1", SCORES, np.zeros((4, 7)))
    with pytest.raises(InputError, match="other shapes for other samples"):
        concatenated([np.zeros((1, 3)), np.zeros((1, 4))])
