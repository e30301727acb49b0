"""Boxes on the way out of a model, against NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builders import onnx_model

import relaxc
from relaxc.errors import OptionError
from relaxc.frontend.extension import Extension

ROWS = "g (float[n,40,8] x) => (float[n,40,8] s) { s = Identity (x) }"
COLUMNS = "g (float[2,7,40] x) => (float[2,7,40] s) { s = Identity (x) }"
# A grid of 4 x 8, one of 2 x 4 and one of 1 x 2: of an image of 32 x 64.
CELLS = """g (float[1,3,32,64] i, float[1,42,8] x) => (float[1,42,8] s, float[1,3,32,64] j) {
    s = Identity (x) j = Neg (i) }"""
RNG = np.random.default_rng(3)


def rows(batch: int, count: int = 40) -> np.ndarray:
    centers = RNG.uniform(0, 60, (batch, count, 2))
    sizes = RNG.uniform(5, 40, (batch, count, 2))
    scores = RNG.uniform(0, 1, (batch, count, 4))
    return np.concatenate([centers, sizes, scores], 2).astype(np.float32)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    shared = float(sides.prod())
    return shared / float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared)


def expected(image: np.ndarray, most: float, least: float) -> list[tuple[int, float, np.ndarray]]:
    """Of rows [n, 8]: class, score, corners, the best first."""
    scores = image[:, 5:].max(1) * image[:, 4]
    corners = np.concatenate(
        [image[:, :2] - image[:, 2:4] / 2, image[:, :2] + image[:, 2:4] / 2], 1
    )
    found: list[tuple[int, float, np.ndarray]] = []
    for i in np.argsort(-scores):
        kind = int(image[i, 5:].argmax())
        if scores[i] > least and all(
            k != kind or overlap(corners[i], c) <= most for k, _, c in found
        ):
            found.append((kind, float(scores[i]), corners[i]))
    return found


def outputs(
    tmp_path: Path, words: str, model: str, feed: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    options = relaxc.CompileOptions(postprocess=(words,))
    relaxc.compile(onnx_model(model), tmp_path / "m.rxc", options)
    found: dict[str, np.ndarray] = relaxc.load(tmp_path / "m.rxc").run(feed)
    return found


def compare(found: dict[str, np.ndarray], images: np.ndarray, keep: int, least: float) -> None:
    for i, image in enumerate(images):
        wanted = expected(image, 0.45, least)[:keep]
        count = int(found["s.count"][i])
        assert count == len(wanted)
        assert count > 3
        assert found["s.classes"][i, :count].tolist() == [kind for kind, _, _ in wanted]
        np.testing.assert_allclose(
            found["s.scores"][i, :count], [s for _, s, _ in wanted], rtol=1e-5
        )
        np.testing.assert_allclose(
            found["s.boxes"][i, :count], [c for _, _, c in wanted], rtol=1e-4
        )
        for name in ("boxes", "scores", "classes"):
            assert not found[f"s.{name}"][i, count:].any()


def test_rows_of_yolov5(tmp_path: Path) -> None:
    x = rows(3)
    found = outputs(tmp_path, "nms=0.45,score=0.1,keep=30", ROWS, {"x": x})
    assert list(found) == ["s.boxes", "s.scores", "s.classes", "s.count"]
    assert found["s.boxes"].shape == (3, 30, 4)
    compare(found, x, 30, 0.1)


def test_no_more_than_asked_for(tmp_path: Path) -> None:
    x = rows(1)
    compare(outputs(tmp_path, "s:nms=0.45,keep=4", ROWS, {"x": x}), x, 4, 0.25)


def test_there_may_be_none(tmp_path: Path) -> None:
    found = outputs(tmp_path, "nms=0.45", ROWS, {"x": np.zeros((2, 40, 8), np.float32)})
    assert found["s.count"].tolist() == [0, 0]
    assert found["s.boxes"].shape == (2, 40, 4)
    assert not found["s.boxes"].any()


def test_columns_of_yolov8(tmp_path: Path) -> None:
    x = rows(2)
    x[..., 4] = 1
    given = np.delete(x, 4, axis=2).transpose(0, 2, 1)
    compare(outputs(tmp_path, "nms=0.45,boxes=yolov8", COLUMNS, {"x": given}), x, 40, 0.25)


def test_cells_of_yolox(tmp_path: Path) -> None:
    x = rows(1, 42)
    x[..., 2:4] = RNG.uniform(-1, 1, (1, 42, 2))
    decoded = x.copy()
    row = 0
    for stride in (8, 16, 32):
        for top in range(32 // stride):
            for left in range(64 // stride):
                decoded[0, row, :2] = (x[0, row, :2] + (left, top)) * stride
                decoded[0, row, 2:4] = np.exp(x[0, row, 2:4]) * stride
                row += 1
    image = np.zeros((1, 3, 32, 64), np.float32)
    found = outputs(tmp_path, "s:nms=0.45,boxes=yolox", CELLS, {"x": x, "i": image})
    compare(found, decoded, 42, 0.25)


def test_grids_are_those_of_the_network_not_of_the_camera(tmp_path: Path) -> None:
    options = relaxc.CompileOptions(
        preprocess=("i:size=64x128,resize=32x64",), postprocess=("s:nms=0.45,boxes=yolox",)
    )
    relaxc.compile(onnx_model(CELLS), tmp_path / "m.rxc", options)
    assert [str(i) for i in relaxc.load(tmp_path / "m.rxc").inputs][0] == "i: uint8[1, 64, 128, 3]"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nms=2", "`nms=2` in postprocessing: give a number from 0 to 1"),
        ("nms=half", "give a number from 0 to 1"),
        ("nms=0.5,score=-1", "`score=-1` in postprocessing"),
        ("nms=0.5,keep=0", "give a number of boxes"),
        ("nms=0.5,boxes=yolov7", "did you mean `yolov"),
        ("nms=0.5,nms=0.5", "each once"),
        ("nms=0.5,argmax", "cannot use `argmax`"),
    ],
)
def test_words_that_make_no_sense(words: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Extension.parse((), (words,))


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        ("g (float[2,7] x) => (float[2,7] s) { s = Neg (x) }", "nms=0.5", r"\[2, 7\] has no rows"),
        ("g (float[2,m,9] x) => (float[2,m,9] s) { s = Neg (x) }", "nms=0.5", "must be fixed"),
        ("g (int64[2,3,9] x) => (int64[2,3,9] s) { s = Neg (x) }", "nms=0.5", "must be float32"),
        (ROWS, "nms=0.5,boxes=yolox", "40 rows are not those of `yolox`"),
    ],
)
def test_outputs_that_hold_no_boxes(tmp_path: Path, model: str, words: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        relaxc.compile(
            onnx_model(model), tmp_path / "m.rxc", relaxc.CompileOptions(postprocess=(words,))
        )
