"""relaxc cpp-runtime."""

from __future__ import annotations

from pathlib import Path

from commands import Run


def test_it_says_what_was_written(relaxc: Run, tmp_path: Path) -> None:
    folder = tmp_path / "cpp"
    done = relaxc("cpp-runtime", folder)
    assert (done.code, done.err) == (0, "")
    assert done.out.split() == [
        str(folder / name) for name in ("include", "lib/libtvm_ffi.so", "relaxc-config.cmake")
    ]
    assert (folder / "include" / "relaxc.hpp").is_file()


def test_json(relaxc: Run, tmp_path: Path) -> None:
    fields = relaxc("cpp-runtime", tmp_path / "cpp", "--json").json
    assert fields["folder"] == str(tmp_path / "cpp")


def test_a_file_in_the_way(relaxc: Run, tmp_path: Path) -> None:
    (tmp_path / "cpp").touch()
    done = relaxc("cpp-runtime", tmp_path / "cpp")
    assert done.code == 73
    assert "cannot write" in done.err
