"""No kernel reads or writes beyond a tensor: each ends at a page that ends the process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_TESTS = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    library = tmp_path_factory.mktemp("guard") / "guard.so"
    source = str(_TESTS / "memory_guard.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def run_guarded(guard: Path, kind: str, first: int, count: int) -> None:
    done = subprocess.run(
        [sys.executable, "guarded_chains.py", kind, str(first), str(count)],
        cwd=_TESTS,
        env={**os.environ, "LD_PRELOAD": str(guard)},
        capture_output=True,
        text=True,
    )
    seeds = done.stdout.split()
    assert done.returncode == 0, f"seed {seeds[-1:]}: {done.stderr[-500:]}"
    assert len(seeds) == count


def test_chains_of_odd_shapes(guard: Path) -> None:
    """Seed 7 has an operand per channel, with fewer dimensions than the map."""
    run_guarded(guard, "chain", 0, 12)


def test_images_without_a_border(guard: Path) -> None:
    run_guarded(guard, "image", 0, 6)


def test_maps_with_factors(guard: Path) -> None:
    run_guarded(guard, "squeeze", 0, 4)


def test_joined_convolutions(guard: Path) -> None:
    run_guarded(guard, "expanded", 0, 3)


def test_recurrent_layers(guard: Path) -> None:
    run_guarded(guard, "recurrent", 0, 3)


@pytest.mark.long
def test_many_chains(guard: Path) -> None:
    run_guarded(guard, "chain", 1000, 300)
    run_guarded(guard, "image", 1000, 100)
    run_guarded(guard, "squeeze", 1000, 100)
    run_guarded(guard, "expanded", 1000, 100)
    run_guarded(guard, "recurrent", 1000, 40)
