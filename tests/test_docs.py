"""What the documentation says is true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from relaxc import errors
from relaxc.cli.group import cli
from relaxc.errors import RelaxcError

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert (tmp_path / "resnet20.rxc").is_file()


def test_the_demo_recognizes_its_digit() -> None:
    command = [sys.executable, str(ROOT / "examples" / "demo.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "PASSED" in done.stdout
    assert "Throughput: " in done.stdout
    assert done.stdout.endswith("The model sees a 7.\n")


def test_every_option_is_documented() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    assert isinstance(cli, click.Group)
    for name, command in cli.commands.items():
        assert f"relaxc {name}" in text
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                longest = max(parameter.opts, key=len)
                assert longest in text or parameter.opts[0] in text, f"{name} {longest}"


def test_every_error_is_documented() -> None:
    text = (ROOT / "docs" / "errors.md").read_text()
    for cls in vars(errors).values():
        if isinstance(cls, type) and issubclass(cls, RelaxcError) and cls is not RelaxcError:
            assert re.search(rf"`{cls.__name__}`.*\| {cls.exit_code} \|", text), cls.__name__


def test_every_exit_code_is_documented() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    for code in {c.exit_code for c in RelaxcError.__subclasses__()} | {0, 1, 130, 141, 143}:
        assert f"| {code} |" in text
