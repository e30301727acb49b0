"""Which samples serve what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from relaxc.errors import InputError
from relaxc.search.dataset import read_labels, split


def feeds(count: int) -> list[dict[str, np.ndarray]]:
    return [{"x": np.full((2, 3), i, np.float32)} for i in range(count)]


def numbers(part: object) -> set[float]:
    return {float(feed["x"][0, 0]) for feed in part.feeds}  # type: ignore[attr-defined]


def test_parts_are_disjoint_and_complete() -> None:
    data = split(feeds(40), np.arange(80), seed=0)
    parts = [numbers(part) for part in (data.calibration, data.search, data.held_out)]
    assert [len(part) for part in parts] == [10, 15, 15]
    assert set.union(*parts) == set(range(40))
    for part in (data.calibration, data.search, data.held_out):
        assert part.labels is not None
        for feed, label in zip(part.feeds, part.labels):
            assert label.tolist() == [2 * feed["x"][0, 0], 2 * feed["x"][0, 0] + 1]


def test_calibration_has_enough_with_256() -> None:
    assert len(split(feeds(2000), None, seed=0).calibration.feeds) == 256


def test_the_seed_decides() -> None:
    one, same, other = (split(feeds(40), None, seed) for seed in (1, 1, 2))
    assert numbers(one.search) == numbers(same.search) != numbers(other.search)
    assert one.sha256 == same.sha256 == other.sha256
    assert split(feeds(41), None, 1).sha256 != one.sha256


def test_few_samples_serve_everything() -> None:
    data = split(feeds(5), None, seed=0)
    assert not data.is_split
    assert numbers(data.calibration) == numbers(data.held_out) == set(range(5))


def test_what_does_not_fit() -> None:
    with pytest.raises(InputError, match="there are no samples"):
        split([], None, seed=0)
    with pytest.raises(InputError, match=r"labels of shape \[7\] do not fit 4 calls"):
        split(feeds(4), np.arange(7), seed=0)


def test_labels_from_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", np.arange(3))
    assert read_labels(tmp_path / "y.npy").tolist() == [0, 1, 2]
    np.savez(tmp_path / "y.npz", a=np.arange(3))
    (tmp_path / "text.npy").write_text("no labels")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(InputError, match="cannot read labels from `.*none.npy`: No such file"):
        read_labels(tmp_path / "none.npy")
    with pytest.raises(InputError, match="holds several arrays"):
        read_labels(tmp_path / "y.npz")
    for name in ("text.npy", "objects.npy"):
        with pytest.raises(InputError, match="is not a readable .npy file"):
            read_labels(tmp_path / name)
