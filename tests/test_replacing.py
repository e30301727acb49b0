"""Files are written whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from relaxc.replacing import replacing


def test_the_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with replacing(path) as file:
        file.write(b"contents")
        assert not path.exists()
    assert path.read_bytes() == b"contents"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, ValueError])
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def write() -> None:
        with replacing(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_only_files_are_replaced(tmp_path: Path) -> None:
    """A rename over `/dev/null` would succeed where root does it."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError, match="it is not a regular file"), replacing(path):
            pass
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
