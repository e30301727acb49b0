"""From the start of the process to the first output, and the memory that takes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import MODELS

import relaxc
from relaxc.artifact import read_artifact

OURS = """
import sys, numpy as np, relaxc
model = relaxc.load(sys.argv[1])
model(np.zeros((1, 1, 28, 28), np.float32))
"""
THEIRS = """
import sys, numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
session.run(None, {"Input3": np.zeros((1, 1, 28, 28), np.float32)})
"""
MEMORY = """
print([int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM")][0])
"""
BUDGET_S = 0.40
BUDGET_BYTES = 80e6


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mnist") / "mnist.rxc"
    relaxc.compile(MODELS / "mnist_cnn" / "mnist.onnx", path)
    return path


def start(code: str, path: Path, cache: Path) -> tuple[float, str]:
    """Seconds that a process takes, and what it prints; bytecode is cached as it would be."""
    env = {**os.environ, "PYTHONPYCACHEPREFIX": str(cache), "PYTHONDONTWRITEBYTECODE": ""}
    begin = time.perf_counter()
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return time.perf_counter() - begin, done.stdout


def test_the_first_output_comes_before_onnx_runtimes(
    artifact: Path, mnist_onnx: Path, tmp_path: Path
) -> None:
    ours, theirs = [], []
    for attempt in range(25):  # alternating, so that both meet the same disturbances
        ours.append(start(OURS, artifact, tmp_path)[0])
        theirs.append(start(THEIRS, mnist_onnx, tmp_path)[0])
        # The fastest start is what remains when nothing disturbs; a busy machine gets more tries.
        if attempt >= 5 and min(ours) <= BUDGET_S and min(ours) < min(theirs):
            break
    assert min(ours) <= BUDGET_S
    assert min(ours) < min(theirs), f"{min(ours):.3f} s against {min(theirs):.3f} s"


def test_memory_stays_near_the_weights(artifact: Path, tmp_path: Path) -> None:
    _, out = start(OURS + MEMORY, artifact, tmp_path)
    weights = read_artifact(artifact).manifest["memory"]["weight_bytes"]
    assert int(out) * 1024 <= weights + BUDGET_BYTES
