"""Calibration data from files, folders and code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from relaxc.errors import InputError, OptionError
from relaxc.measure.samples import samples_from
from relaxc.runtime.model import TensorInfo

X, Y = TensorInfo("x", "float32", ("n", 3)), TensorInfo("y", "float32", (2, 5))


def test_a_file_is_split_along_the_first_axis(tmp_path: Path) -> None:
    x, y = np.arange(12, dtype=np.float32).reshape(4, 3), np.zeros((9, 5), np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    feeds = list(samples_from(str(tmp_path / "data.npz"))([X, Y]))
    assert [feed["x"].shape for feed in feeds] == [(1, 3)] * 4
    assert [feed["y"].shape for feed in feeds] == [(2, 5)] * 4
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in feeds]), x)


def test_a_folder_holds_one_call_per_file(tmp_path: Path) -> None:
    for i in range(3):
        np.savez(tmp_path / f"{i}.npz", x=np.full((i + 1, 3), i, np.float32))
    feeds = list(samples_from(str(tmp_path))([X]))
    assert [feed["x"].shape for feed in feeds] == [(1, 3), (2, 3), (3, 3)]


def test_a_function_gives_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_samples.py").write_text("def load():\n    yield {'x': [[1, 2, 3]]}\n")
    monkeypatch.chdir(tmp_path)
    assert list(samples_from("my_samples:load")([X])) == [{"x": [[1, 2, 3]]}]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.npz", "does not exist"),
        ("no_such_module:load", "cannot import `load`"),
        ("os:no_such_function", "cannot import `no_such_function`"),
        ("os:sep", "is not a function"),
        ("nonsense", "is not calibration data"),
    ],
)
def test_what_is_no_data(source: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        samples_from(source)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="holds no .npz files"):
        samples_from(str(tmp_path))


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=np.zeros((4, 3), np.float32))
    with pytest.raises(InputError, match="has no samples of `y`"):
        list(samples_from(str(path))([X, Y]))
    np.savez(path, x=np.zeros((4, 3), np.float32), y=np.zeros((4, 5), np.float32))
    with pytest.raises(InputError, match="different numbers of samples: 4 of `x`, 2 of `y`"):
        list(samples_from(str(path))([X, Y]))
    np.savez(path, s=np.float32(1))
    with pytest.raises(InputError, match="no axis to hold samples"):
        list(samples_from(str(path))([TensorInfo("s", "float32", ())]))
