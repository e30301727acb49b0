"""What ends up in the wheel."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]


def test_every_subpackage_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    on_disk = {
        "relaxc." + ".".join(path.parent.relative_to(ROOT).parts)
        for top in ("frontend", "passes", "targets")
        for path in (ROOT / top).rglob("__init__.py")
    }
    roof = ROOT / "src" / "relaxc"
    for path in roof.rglob("__init__.py"):
        if not any(parent.is_symlink() for parent in path.parents):
            on_disk.add(".".join(("relaxc", *path.parent.relative_to(roof).parts)))
    assert set(listed) == on_disk


def test_links_for_static_tools_point_to_the_real_folders() -> None:
    for name in ("frontend", "passes", "targets"):
        link = ROOT / "src" / "relaxc" / name
        assert link.is_symlink()
        assert link.resolve() == ROOT / name


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(folder), str(ROOT)], check=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_every_source_file(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for top in ("frontend", "passes", "targets"):
        for path in (ROOT / top).rglob("*.py"):
            assert f"relaxc/{path.relative_to(ROOT)}" in names
    sources = {"relaxc/measure/peaks.c", "relaxc/targets/llvm/threadpool.c"}
    sources |= {"relaxc/cpp/relaxc-config.cmake", "relaxc/cpp/include/relaxc.hpp"}
    assert {"relaxc/py.typed"} | sources <= names
    assert "relaxc/licenses/TVM-LICENSE.txt" in names
    assert not any(name.startswith("tests/") or "__pycache__" in name for name in names)


def test_the_wheel_works_where_it_is_unpacked(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = "import relaxc.compiler, relaxc.cli; print(relaxc.compiler.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)


def test_the_source_distribution_builds(tmp_path: Path) -> None:
    code = (
        "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = archive.getnames()
    assert any(name.endswith("/frontend/importer.py") for name in names)
    assert any(name.endswith("/targets/llvm/threadpool.c") for name in names)
