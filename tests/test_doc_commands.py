"""Every command and every program of the manual works when pasted.

Blocks of `bash` and `python` run as they are, but for searches, which get less time. Blocks of
`console` need other machines, and are not run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import onnx_model

import relaxc

ROOT = Path(__file__).resolve().parents[1]
NEEDS_A_GPU = "cuda"
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if page.stem != NEEDS_A_GPU and re.search(r"^ *```(bash|python)$", page.read_text(), re.M)
]
BENCHMARK = re.compile(r"python benchmarks/(\w+\.py)((?: +[^\s`,]+)*)")
LEFT_OUT = shutil.ignore_patterns(".*", "build", "__pycache__", "*.egg-info")
LESS_TIME = {r"--time-budget \w+": "--time-budget 20s", r"time_budget_s=\d+": "time_budget_s=20"}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, to work in, with the files that guides speak of."""
    folder = tmp_path_factory.mktemp("docs") / "relaxc"
    shutil.copytree(ROOT, folder, ignore=LEFT_OUT)
    (folder / "build").mkdir()
    for name in ("model.onnx", "big.onnx", "small.onnx"):
        shutil.copy(ROOT / "examples/models/mnist_cnn/mnist.onnx", folder / name)
    shutil.copy(ROOT / "examples/data/digits.npz", folder / "samples.npz")
    shutil.copy(ROOT / "examples/data/digits_labels.npy", folder / "labels.npy")
    relaxc.compile(folder / "model.onnx", folder / "model.rxc")
    onnx.save(pooled("1,3,224,224", "1,1000"), folder / "resnet50.onnx")
    onnx.save(pooled("1,3,416,416", "1,3549,85"), folder / "yolox_nano.onnx")
    return folder


def pooled(image: str, result: str) -> onnx.ModelProto:
    """A network of the inputs and outputs of a real one: the mean colour, times weights."""
    shape = np.fromstring(result, np.int64, sep=",")
    return onnx_model(
        f"""g (float[{image}] image) => (float[{result}] scores) {{
            mean = GlobalAveragePool (image)
            colour = Flatten (mean)
            flat = MatMul (colour, weight)
            scores = Reshape (flat, shape)
        }}""",
        weight=np.random.default_rng(0).normal(size=(3, shape.prod())).astype(np.float32),
        shape=shape,
    )


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_says_works(page: Path, checkout: Path) -> None:
    for kind, text in re.findall(r"^ *```(bash|python)\n(.*?)```", page.read_text(), re.S | re.M):
        for command in commands(kind, text):
            run(command, checkout)


def test_benchmarks_that_pages_name_have_the_options_that_they_give() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for script, arguments in BENCHMARK.findall(page.read_text()):
            program = (ROOT / "benchmarks" / script).read_text()
            for option in re.findall(r"--[\w-]+", arguments):
                assert f'"{option}"' in program, f"{page.name}: {script} has no {option}"


def commands(kind: str, text: str) -> list[list[str]]:
    """The programs to run; this environment has what `pip install` would bring."""
    for long, short in LESS_TIME.items():
        text = re.sub(long, short, text)
    if kind == "python":
        return [[sys.executable, "-c", text]]
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith("pip install")]
    return [["bash", "-ec", "".join(lines)]]


def run(command: list[str], folder: Path) -> None:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path, "XDG_CACHE_HOME": str(folder / "build/cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}{done.stderr}"
