"""Scores on the way out of a model, against NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builders import onnx_model

import relaxc
from relaxc.errors import OptionError
from relaxc.frontend.extension import Extension
from relaxc.frontend.postprocess import add_postprocess, parse_postprocess

SCORES = "g (float[n,7] x) => (float[n,7] s) { s = Neg (x) }"
MAP = "g (float[1,4,2,3] x) => (float[1,4,2,3] s) { s = Neg (x) }"
X = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)


def outputs(
    tmp_path: Path, words: str, x: np.ndarray, model: str = SCORES
) -> dict[str, np.ndarray]:
    options = relaxc.CompileOptions(postprocess=(words,))
    relaxc.compile(onnx_model(model), tmp_path / "m.rxc", options)
    found: dict[str, np.ndarray] = relaxc.load(tmp_path / "m.rxc").run({"x": x})
    return found


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    result: np.ndarray = e / e.sum(axis, keepdims=True)
    return result


def test_probabilities(tmp_path: Path) -> None:
    found = outputs(tmp_path, "softmax", X)
    np.testing.assert_allclose(found["s"], softmax(-X, 1), rtol=1e-5)


def test_the_best_class(tmp_path: Path) -> None:
    found = outputs(tmp_path, "s:argmax", X)["s"]
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, (-X).argmax(1))


def test_the_best_five(tmp_path: Path) -> None:
    found = outputs(tmp_path, "softmax,topk=5", X)
    assert list(found) == ["s.values", "s.indices"]
    order = np.argsort(X, axis=1)[:, :5]
    np.testing.assert_array_equal(found["s.indices"], order)
    expected = np.take_along_axis(softmax(-X, 1), order, 1)
    np.testing.assert_allclose(found["s.values"], expected, rtol=1e-5)


def test_maps_have_their_classes_along_axis_1(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((1, 4, 2, 3)).astype(np.float32)
    np.testing.assert_array_equal(outputs(tmp_path, "argmax", x, MAP)["s"], (-x).argmax(1))
    found = outputs(tmp_path, "argmax@-1", x, MAP)["s"]
    np.testing.assert_array_equal(found, (-x).argmax(-1))


def test_a_result_that_others_read(tmp_path: Path) -> None:
    text = "g (float[n,7] x) => (float[n,7] s, float[n,7] t) { s = Neg (x) t = Abs (s) }"
    found = outputs(tmp_path, "s:softmax", X, text)
    np.testing.assert_allclose(found["t"], np.abs(X))
    np.testing.assert_allclose(found["s"], softmax(-X, 1), rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "`` is no postprocessing"),
        ("sofmax", r"unknown word `sofmax` in postprocessing \(did you mean `softmax`"),
        ("topk", "`topk` takes a number, as `topk=5`"),
        ("softmax=3", "`topk` takes a number"),
        ("argmax,softmax", "`argmax` must be the last word"),
    ],
)
def test_words_that_make_no_sense(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_postprocess(text)


@pytest.mark.parametrize(
    ("text", "graph", "message"),
    [
        ("r:softmax", SCORES, "given for `r`, but the model's outputs are `s`"),
        ("softmax@2", SCORES, r"output `s` has 2 axes; `softmax@2` in postprocessing is none"),
        ("topk=8", SCORES, "output `s` has 7 classes, fewer than 8"),
        (
            "softmax",
            "g (float[2] x) => (float[2] s, float[2] t) { s = Neg (x) t = Abs (x) }",
            "postprocessing must say which output",
        ),
        (
            "s:softmax",
            "g (float[2] s) => (float[2] s, float[2] t) { t = Abs (s) }",
            "output `s` is computed by no node",
        ),
    ],
)
def test_what_does_not_fit_the_model(text: str, graph: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        add_postprocess(onnx_model(graph), parse_postprocess(text))


def test_twice_for_one_tensor() -> None:
    with pytest.raises(OptionError, match="given twice"):
        Extension.parse(("x:scale=1", "x:crop=2x2"), ())
