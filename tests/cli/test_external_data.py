"""Every command takes models whose weights lie beside them, and none leaves the model's folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import onnx_model
from commands import Run
from onnx import external_data_helper

# What a command takes besides the model, and samples for those that want them.
COMMANDS: dict[str, list[str]] = {
    "compile": [],
    "check": [],
    "check --per-layer": [],
    "inspect": [],
    "export": ["--quantize", "int8-weights"],
    "sensitivity": ["--data", "DATA", "--ratios", "0.5"],
    "tune": ["--dry-run"],
    "bench": ["--duration", "0.1", "--warmup", "1"],
    "optimize": ["--data", "DATA", "--time-budget", "20s", "--no-tune"],
}
SLOW = ("bench", "optimize", "sensitivity")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "models"
    made.mkdir()
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", x=rng.standard_normal((40, 3, 8, 8)).astype(np.float32))
    return made


def save_external(folder: Path) -> Path:
    """The model with all of its weights in one file."""
    path = folder / "model.onnx"
    rng = np.random.default_rng(0)
    model = onnx_model(
        """g (float[1,3,8,8] x) => (float[1,4,4,4] y) {
            a = Conv (x, w)
            b = Relu (a)
            y = Conv (b, v)
        }""",
        w=rng.standard_normal((8, 3, 3, 3)).astype(np.float32),
        v=rng.standard_normal((4, 8, 3, 3)).astype(np.float32),
    )
    onnx.save_model(
        model, path, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    return path


def arguments(command: str, path: Path) -> list[str]:
    data = str(path.parent.parent / "data.npz")
    more = [data if word == "DATA" else word for word in COMMANDS[command]]
    verb, *flags = command.split()
    return [verb, str(path), *flags, *more]


@pytest.mark.parametrize(
    "command", [pytest.param(c, marks=[pytest.mark.long] if c in SLOW else []) for c in COMMANDS]
)
def test_weights_beside_the_model(relaxc: Run, folder: Path, command: str) -> None:
    done = relaxc(*arguments(command, save_external(folder)))
    assert done.code == 0, done.err


def _points_up(folder: Path) -> str:
    return "../weights.bin"


def _points_to_a_path(folder: Path) -> str:
    return str(folder.parent / "weights.bin")


def _points_to_a_link(folder: Path) -> str:
    (folder / "link.bin").symlink_to(folder.parent / "weights.bin")
    return "link.bin"


def _points_through_a_folder(folder: Path) -> str:
    (folder / "sub").symlink_to(folder.parent)
    return "sub/weights.bin"


ATTACKS = (_points_up, _points_to_a_path, _points_to_a_link, _points_through_a_folder)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.__name__.strip("_"))
@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "bench"])
def test_weights_elsewhere_are_refused(
    relaxc: Run, folder: Path, command: str, attack: Callable[[Path], str]
) -> None:
    done = relaxc(*arguments(command, _attacked(folder, attack)))
    assert done.code == 2
    assert "outside of the model's folder; refused" in done.err
    assert not list(folder.glob("*.rxc"))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.__name__.strip("_"))
def test_the_model_behind_an_artifact_is_not_trusted_either(
    relaxc: Run, folder: Path, attack: Callable[[Path], str]
) -> None:
    good = save_external(folder)
    assert relaxc("compile", good, "-o", folder / "good.rxc").code == 0
    done = relaxc("check", folder / "good.rxc", "--model", _attacked(folder, attack))
    assert done.code == 2
    assert "outside of the model's folder; refused" in done.err


def _attacked(folder: Path, attack: Callable[[Path], str]) -> Path:
    path = save_external(folder)
    shutil.move(folder / "weights.bin", folder.parent / "weights.bin")
    model = onnx.load(path, load_external_data=False)
    location = attack(folder)
    for tensor in external_data_helper._get_all_tensors(model):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())
    return path
