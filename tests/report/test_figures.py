"""Plots are written whole, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import matplotlib.figure
import pytest

from relaxc.errors import OutputError
from relaxc.report.figures import write_figure


def test_the_name_says_the_format(tmp_path: Path) -> None:
    figure = matplotlib.figure.Figure()
    write_figure(figure, tmp_path / "plot.png")
    write_figure(figure, tmp_path / "plot")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "plot").read_bytes().startswith(b"<?xml")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("nosuch/plot.svg", "plot.svg`: No such file or directory$"), ("plot.foo", "Format 'foo'")],
)
def test_what_cannot_be_written(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=reason):
        write_figure(matplotlib.figure.Figure(), tmp_path / name)
    assert not list(tmp_path.iterdir())
