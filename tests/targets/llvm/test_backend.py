"""What an artifact carries along."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from builders import onnx_model, relu_model

import relaxc

SORTING = {
    "TopK": "g (float[2,9] x) => (float[2,3] y, int64[2,3] z) { k = Constant <value_ints=[3]> () "
    "y, z = TopK (x, k) }",
    "NonZero": "g (float[2,9] x) => (int64[2,n] y) { y = NonZero (x) }",
}


@pytest.mark.parametrize("name", SORTING)
def test_sorting_needs_more_of_the_runtime_but_not_tvm(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.rxc"
    relaxc.compile(onnx_model(SORTING[name]), path)
    code = (
        "import sys, numpy as np, relaxc; "
        f"found = relaxc.load({str(path)!r}).run({{'x': np.arange(18.0, dtype='f4')"
        ".reshape(2, 9)})['y']; "
        "assert 'tvm' not in sys.modules; print(found.reshape(-1)[:3].tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == {"TopK": "[8.0, 7.0, 6.0]", "NonZero": "[0, 0, 0]"}[name]


def test_others_carry_no_more_than_they_need(tmp_path: Path) -> None:
    relaxc.compile(relu_model(), tmp_path / "m.rxc")
    assert "lib/libtvm_runtime_extra.so" not in zipfile.ZipFile(tmp_path / "m.rxc").namelist()
