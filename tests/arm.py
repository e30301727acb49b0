"""An aarch64 machine, emulated: `scripts/arm-machine` puts it together."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MACHINE = ROOT / ".arm"

# Runs every artifact of a folder on the inputs beside it.
_RUN = """
import sys
from pathlib import Path
import numpy as np
import relaxc
folder = Path(sys.argv[1])
for path in sorted(folder.glob("*.rxc")):
    model = relaxc.load(path, threads=2, cache_dir=folder / "cache")
    with np.load(path.with_suffix(".in.npz")) as feed:
        np.savez(path.with_suffix(".out.npz"), **model.run(dict(feed)))
"""


def why_not() -> str | None:
    """What this machine lacks to compile for aarch64 and to emulate it; None if nothing."""
    if shutil.which("qemu-aarch64") is None:
        return "needs qemu-user"
    if not (MACHINE / "python").is_file():
        return "needs an emulated machine: run scripts/arm-machine"
    if not importlib.util.find_spec("ziglang") and not shutil.which("aarch64-linux-gnu-g++"):
        return "needs ziglang or g++ for aarch64"
    return None


def wheel() -> Path:
    """TVM's wheel for aarch64."""
    return next((MACHINE / "wheels").glob("apache_tvm-*.whl"))


def run_all(folder: Path, cpu: str) -> None:
    """Run every `NAME.rxc` of a folder on `NAME.in.npz`, into `NAME.out.npz`.

    Args:
        folder: where they lie.
        cpu: what qemu shall be, such as `neoverse-n1`.
    """
    root = MACHINE / "root"
    python = root / "usr" / "bin" / (MACHINE / "python").read_text().strip()
    command = ["qemu-aarch64", "-cpu", cpu, "-L", str(root), str(python), "-c", _RUN, str(folder)]
    paths = os.pathsep.join(map(str, (MACHINE / "site", ROOT / "src")))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": paths, "HOME": str(folder)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
