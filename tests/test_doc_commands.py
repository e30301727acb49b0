"""Every command and every program of the tutorial and the how-to pages works when pasted."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "docs" / "tutorial.md", *sorted((ROOT / "docs" / "howto").glob("*.md"))]
LEFT_OUT = shutil.ignore_patterns(".*", "build", "__pycache__", "*.egg-info")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, to work in."""
    folder = tmp_path_factory.mktemp("docs") / "relaxc"
    shutil.copytree(ROOT, folder, ignore=LEFT_OUT)
    (folder / "build").mkdir()
    return folder


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_says_works(page: Path, checkout: Path) -> None:
    blocks = re.findall(r"```(bash|python)\n(.*?)```", page.read_text(), re.S)
    assert blocks
    for kind, text in blocks:
        for command in commands(kind, text):
            run(command, checkout)


def commands(kind: str, text: str) -> list[list[str]]:
    """The programs to run; this environment has what `pip install` would bring."""
    if kind == "python":
        return [[sys.executable, "-c", text]]
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith("pip install")]
    return [["bash", "-ec", "".join(lines)]]


def run(command: list[str], folder: Path) -> None:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}{done.stderr}"
