"""What a machine needs that only runs models: NumPy and apache-tvm-ffi."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import sys
import numpy as np
import relaxc
model = relaxc.load(sys.argv[1], cache_dir=sys.argv[2])
x = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
print(model(x).ravel().tolist())
"""


def expected(artifact: Path) -> list[float]:
    import relaxc

    x = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
    numbers: list[float] = relaxc.load(artifact)(x).ravel().tolist()
    return numbers


def run(code: str, *args: object, python: str = sys.executable, **env: str) -> str:
    done = subprocess.run(
        [python, "-c", code, *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_import_beyond_numpy(conv_artifact: Path, tmp_path: Path) -> None:
    tail = "print([m for m in ('tvm', 'tvm_ffi', 'onnx', 'click', 'rich') if m in sys.modules])"
    out = run(RUN + tail, conv_artifact, tmp_path).splitlines()
    assert eval(out[0]) == expected(conv_artifact)
    assert out[1] == "[]"


@pytest.mark.parametrize("order", ["import tvm" + RUN, RUN + "import tvm", RUN + "import tvm_ffi"])
def test_tvm_may_be_imported_before_or_after(
    conv_artifact: Path, tmp_path: Path, order: str
) -> None:
    tail = "\nprint(model(x).ravel().tolist())"
    first, second = run(order + tail, conv_artifact, tmp_path).splitlines()
    assert first == second


def test_a_fresh_environment(conv_artifact: Path, tmp_path: Path) -> None:
    """Only numpy and apache-tvm-ffi, taken over from this environment, and relaxc itself."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(run("import site; print(site.getsitepackages()[0])", python=str(python)).strip())
    import tvm_ffi

    for folder in (Path(np.__file__).parent, Path(tvm_ffi.__file__).parent):
        (site / folder.name).symlink_to(folder)
    libs = Path(np.__file__).parent.parent / "numpy.libs"
    if libs.is_dir():
        (site / libs.name).symlink_to(libs)
    (site / "relaxc").symlink_to(ROOT / "src" / "relaxc")
    env = {"PYTHONPATH": "", "PYTHONSAFEPATH": "1"}
    assert "ModuleNotFoundError" in run(
        "try:\n import tvm\nexcept ModuleNotFoundError as e: print(repr(e))",
        python=str(python),
        **env,
    )
    out = run(RUN, conv_artifact, tmp_path / "cache", python=str(python), **env)
    assert eval(out) == expected(conv_artifact)
    assert len(list((tmp_path / "cache" / "lib").glob("*.so"))) == 3


def test_the_command_line_says_what_it_lacks(conv_artifact: Path) -> None:
    code = (
        "import sys; sys.modules['click'] = None\n"
        "from relaxc.cli import main\nsys.exit(main(['run', sys.argv[1]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(conv_artifact)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 69
    assert (
        done.stderr
        == "error: the command line needs `click` and `rich`; run `pip install relaxc`\n"
    )
