"""A folder of candidates: compiled, with what it takes to measure them without TVM.

    measure.py        run it where the GPU is; with the modules of ours that it needs, in relaxc/
    plan.json         tasks, and for each of its kernels the choice and how it is launched
    cubins/           machine code
    constants/        what kernels take beside data and weights
    measured.jsonl    the results

Weights do not travel: random ones are packed on the spot.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from relaxc.errors import OutputError, PassError
from relaxc.targets.cuda.kernels import packing
from relaxc.targets.cuda.kernels.kernel import Kernel
from relaxc.targets.cuda.kernels.launch import KernelSource, launch_of, source_of
from relaxc.targets.cuda.library import CudaSite
from relaxc.targets.cuda.toolchain import find_compiler
from relaxc.targets.tuning.task import Choice
from relaxc.tuning import conversation, judging
from relaxc.tuning.gpu import bench, driver, measure

# Relative to the largest number: how far a candidate may be from the untuned kernel.
_TOLERANCES = {
    **{"float32": 2e-4, "tf32": 4e-3, "float16": 4e-3, "bfloat16": 3e-2, "int8": 4e-3},
    "float8": 1e-2,
}
_MODULES = (packing, judging, conversation, bench, driver, measure)
_SCRIPT = '''"""Measures these candidates on this machine's GPU; see `--help`."""

import sys

from relaxc.tuning.gpu.measure import main

sys.exit(main())
'''


@dataclass(frozen=True)
class Candidates:
    """What of a task is to be measured.

    Attributes:
        site: a place where the kernel stands.
        calls: how many there are.
        choices: to try, beside the untuned one.
    """

    site: CudaSite
    calls: int
    choices: Sequence[Choice]


def write_folder(
    folder: Path,
    arch: str,
    seconds: float,
    tasks: Sequence[Candidates],
    tell: Callable[[str], None] = lambda _text: None,
) -> int:
    """Write and compile candidates.

    Args:
        folder: to make.
        arch: the GPU's architecture.
        seconds: to spend on measurements at most.
        tasks: what to compile.
        tell: is told how far it is.

    Returns:
        How many candidates there are, those included that could not be compiled.

    Raises:
        OutputError: the folder exists, or cannot be written.
        TargetError: there is no compiler.
    """
    try:
        folder.mkdir(parents=True)
        for name in ("cubins", "constants"):
            (folder / name).mkdir()
    except FileExistsError:
        raise OutputError(
            f"`{folder}` exists; give a new folder, or the results in it with `--measured`"
        ) from None
    except OSError as err:
        raise OutputError(f"cannot write `{folder}`: {err.strerror}") from err
    plan, sources = _planned(folder, arch, tasks)
    failed = _compiled(folder, arch, sources, tell)
    for task in plan:
        for kernel in task["kernels"]:
            kernel.update(failed.get(kernel["name"], {}))
        if task["kernels"][0]["name"] in failed:
            raise PassError(str(failed[task["kernels"][0]["name"]]["detail"]))
    about = {"version": 1, "arch": arch, "seconds": seconds, "tasks": plan}
    (folder / "plan.json").write_text(json.dumps(about), encoding="utf-8")
    _write_script(folder)
    return sum(len(task.choices) for task in tasks)


def _planned(
    folder: Path, arch: str, tasks: Sequence[Candidates]
) -> tuple[list[dict[str, Any]], dict[str, KernelSource]]:
    sources: dict[str, KernelSource] = {}
    plan = []
    for candidates in tasks:
        site = candidates.site
        kernels = []
        for choice in (site.choices[0], *candidates.choices):
            kernel = site.written(choice)
            source = source_of(kernel.func)
            sources[source.name] = source
            kernels.append(_about(folder, arch, choice, kernel, source))
        plan.append(
            {
                "text": str(site.task),
                "workload": site.task.workload,
                "context": site.task.context,
                "calls": candidates.calls,
                "tolerance": _TOLERANCES[str(site.task.workload["precision"])],
                "kernels": kernels,
            }
        )
    return plan, sources


def _about(
    folder: Path, arch: str, choice: Choice, kernel: Kernel, source: KernelSource
) -> dict[str, Any]:
    launch = launch_of(kernel.func)
    assert launch is not None, "sites have known sizes"
    constants = []
    for place, array in enumerate(kernel.constants):
        packed = kernel.packed.get(place)
        about: dict[str, Any] = {"packed": None if packed is None else asdict(packed)}
        if packed is None:
            digest = hashlib.sha256(array.dtype.str.encode() + array.tobytes()).hexdigest()[:16]
            about["file"] = f"{digest}.npy"
            np.save(folder / "constants" / about["file"], array, allow_pickle=False)
        constants.append(about)
    return {
        "choice": dict(choice),
        "name": source.name,
        "launch": {**launch, "overlaps": source.overlaps(arch)},
        "constants": constants,
    }


def _compiled(
    folder: Path, arch: str, sources: dict[str, KernelSource], tell: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Write the cubins; returns what became of those that the compiler refuses."""
    compiler = find_compiler()
    failed: dict[str, dict[str, Any]] = {}
    count = 0

    def compiled(source: KernelSource) -> None:
        nonlocal count
        try:
            cubin = compiler.compile(source.source, source.architecture(arch))
            Path(folder, "cubins", f"{source.name}.cubin").write_bytes(cubin)
        except PassError as err:
            failed[source.name] = {"outcome": "failed", "detail": str(err)[:300]}
        count += 1
        tell(f"{count} of {len(sources)} kernels compiled")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compiled, sources.values()))
    return failed


def _write_script(folder: Path) -> None:
    """The script, and the modules that it needs under the names that they have here."""
    (folder / "measure.py").write_text(_SCRIPT, encoding="utf-8")
    for module in _MODULES:
        assert module.__file__ is not None
        *packages, name = module.__name__.split(".")
        place = folder
        for package in packages:
            place = place / package
            place.mkdir(exist_ok=True)
            (place / "__init__.py").touch()
        shutil.copy(module.__file__, place / f"{name}.py")
