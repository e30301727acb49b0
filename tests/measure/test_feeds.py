"""Inputs, read or made up; outputs, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from relaxc.errors import InputError, OptionError, OutputError
from relaxc.measure.feeds import FeedOptions, make_feed, read_feed, symbol_sizes, write_outputs
from relaxc.runtime.model import TensorInfo

X = TensorInfo("x", "float32", ("batch", 3, "h", "w"))
IDS = TensorInfo("ids", "int64", ("batch", "seq_len"))
FLAG = TensorInfo("flag", "bool", (4,))


def test_shapes_are_guessed_from_names_and_places() -> None:
    feed = make_feed([X, IDS], {})
    assert feed["x"].shape == (1, 3, 224, 224)
    assert feed["ids"].shape == (1, 16)


def test_given_shapes_reach_every_input_with_the_symbol() -> None:
    feed = make_feed([X, IDS], {"ids": (2, 5)})
    assert feed["x"].shape[0] == 2
    assert feed["ids"].shape == (2, 5)


def test_equal_seeds_give_equal_inputs() -> None:
    first, second = make_feed([IDS], {}, seed=3), make_feed([IDS], {}, seed=3)
    np.testing.assert_array_equal(first["ids"], second["ids"])


def test_integers_are_small_and_booleans_both() -> None:
    feed = make_feed([IDS, FLAG], {"ids": (50, 50)})
    assert feed["ids"].min() >= 0
    assert feed["ids"].max() < 2
    assert feed["flag"].dtype == bool


@pytest.mark.parametrize(("mode", "value"), [("zeros", 0), ("ones", 1)])
def test_fill_modes(mode: str, value: int) -> None:
    feed = make_feed([FLAG], {}, mode)  # type: ignore[arg-type]
    assert (feed["flag"] == value).all()


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"y": (1,)}, "unknown input `y`; the inputs are `x`, `ids`"),
        ({"idz": (1, 2)}, "did you mean `ids`"),
        ({"ids": (1,)}, "input `ids` has 2 dimensions, the shape given has 1"),
        ({"ids": ("n", 2)}, "dimension `n` of input `ids` must be a number here"),
        ({"x": (1, 4, 8, 8)}, "the shape given for `x` says 4 where the model has 3"),
        (
            {"x": (1, 3, 8, 8), "ids": (2, 5)},
            "says 2 where the model has batch, which is 1 already",
        ),
    ],
)
def test_shapes_that_do_not_fit(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        symbol_sizes([X, IDS], shapes)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    arrays = {"x": np.ones((2, 3), np.float32), "b": np.ones(4, ml_dtypes.bfloat16)}
    write_outputs(tmp_path / "a.npz", arrays)
    infos = [TensorInfo("x", "float32", (2, 3)), TensorInfo("b", "bfloat16", (4,))]
    read = read_feed(tmp_path / "a.npz", infos)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read inputs from `.*`: No such file"):
        read_feed(tmp_path / "nosuch.npz", [])


@pytest.mark.parametrize("contents", [b"", b"text", b"PK\x03\x04 broken", b"\x93NUMPY"])
def test_a_file_of_another_kind(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(contents)
    with pytest.raises(InputError, match="is not a readable .npz file; write it with"):
        read_feed(tmp_path / "a.npz", [])


def test_a_single_array(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(3))
    with pytest.raises(InputError, match="is not a readable .npz file"):
        read_feed(tmp_path / "a.npy", [])


def test_options_read_or_make_up(tmp_path: Path) -> None:
    ones = FeedOptions(shapes={"ids": (2, 5)}, fill_mode="ones").feed([IDS])
    assert ones["ids"].tolist() == [[1] * 5] * 2
    np.savez(tmp_path / "a.npz", ids=np.zeros((1, 3), np.int64))
    assert FeedOptions(path=tmp_path / "a.npz").feed([IDS])["ids"].shape == (1, 3)


def test_outputs_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write `.*nosuch/a.npz`: No such file"):
        write_outputs(tmp_path / "nosuch" / "a.npz", {"x": np.ones(3)})
    assert list(tmp_path.iterdir()) == []
