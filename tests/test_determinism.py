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

COMPILE = "import sys, relaxc; relaxc.compile(sys.argv[1], 'model.rxc')"


def symbolic_model() -> onnx.ModelProto:
    """Loop nests over expressions of several symbols: what TVM keeps in hash tables of pointers."""
    return onnx_model(
        """g (float[n,3,h,w] x) => (float[n,4,p,q] y) {
            a = Conv<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x, k)
            b = Erf(a)  c = Conv<kernel_shape=[1,1], strides=[3,3]>(b, l)  y = Sin(c) }""",
        k=np.ones((4, 3, 3, 3), np.float32),
        l=np.ones((4, 4, 1, 1), np.float32),
    )


@pytest.mark.parametrize("model", ["mnist", "kws_ref_model_float32", "espcn_core", "symbolic"])
def test_processes_agree(tmp_path: Path, model: str) -> None:
    source = next(MODELS.glob(f"*/{model}.onnx"), tmp_path / "symbolic.onnx")
    if not source.exists():
        onnx.save(symbolic_model(), source)
    digests = set()
    for seed in (1, 2, 3):
        folder, scratch = tmp_path / f"run {seed}", tmp_path / f"scratch{seed}"
        folder.mkdir()
        scratch.mkdir()
        subprocess.run(
            [sys.executable, "-c", COMPILE, str(source)],
            cwd=folder,
            env={**os.environ, "PYTHONHASHSEED": str(seed), "TMPDIR": str(scratch)},
            check=True,
            capture_output=True,
        )
        digests.add(hashlib.sha256((folder / "model.rxc").read_bytes()).hexdigest())
    assert len(digests) == 1
