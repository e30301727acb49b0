"""The same model, options and versions give the same bytes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import onnx_model
from conftest import MODELS

NAMES = ("mnist", "kws_ref_model_float32", "espcn_core", "symbolic")
COMPILE = """
import sys, relaxc
from pathlib import Path
for source in map(Path, sys.argv[1:]):
    relaxc.compile(source, source.stem + ".rxc")
"""


def symbolic_model() -> onnx.ModelProto:
    """Loop nests over expressions of several symbols: what TVM keeps in hash tables of pointers."""
    return onnx_model(
        """g (float[n,3,h,w] x) => (float[n,4,p,q] y) {
            a = Conv<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x, k)
            b = Erf(a)  c = Conv<kernel_shape=[1,1], strides=[3,3]>(b, l)  y = Sin(c) }""",
        k=np.ones((4, 3, 3, 3), np.float32),
        l=np.ones((4, 4, 1, 1), np.float32),
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders in which processes compiled all models, each in an order of its own."""
    folder = tmp_path_factory.mktemp("determinism")
    onnx.save(symbolic_model(), folder / "symbolic.onnx")
    sources = [next(MODELS.glob(f"*/{n}.onnx"), folder / f"{n}.onnx") for n in NAMES]
    found = []
    for seed in (1, 2, 3):
        run, scratch = folder / f"run {seed}", folder / f"scratch{seed}"
        run.mkdir()
        scratch.mkdir()
        subprocess.run(
            [sys.executable, "-c", COMPILE, *sources[seed:], *sources[:seed]],
            cwd=run,
            env={**os.environ, "PYTHONHASHSEED": str(seed), "TMPDIR": str(scratch)},
            check=True,
            capture_output=True,
        )
        found.append(run)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_processes_agree(runs: list[Path], name: str) -> None:
    digests = {hashlib.sha256((run / f"{name}.rxc").read_bytes()).hexdigest() for run in runs}
    assert len(digests) == 1
