"""Models above protobuf's limit of 2 GB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import onnx_model
from onnx import TensorProto, external_data_helper

import relaxc
from relaxc.cli import main

ROWS, COLUMNS = 550_000, 1000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 2.2 GB."""
    folder = tmp_path_factory.mktemp("large")
    model = onnx_model(
        f"g (int64[n] ids) => (float[n,{COLUMNS}] y) {{ a = Gather(table, ids)  y = Relu(a) }}"
    )
    tensor = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=[ROWS, COLUMNS])
    tensor.raw_data = b""
    external_data_helper.set_external_data(tensor, "table.bin", 0, ROWS * COLUMNS * 4)
    tensor.ClearField("raw_data")
    model.graph.initializer.append(tensor)
    onnx.save(model, folder / "model.onnx")
    table = np.memmap(folder / "table.bin", np.float32, "w+", shape=(ROWS, COLUMNS))  # sparse
    table[0], table[-1] = 1, 2
    table.flush()
    return folder / "model.onnx"


@pytest.mark.long
def test_external_data_above_two_gigabytes(large: Path, tmp_path: Path) -> None:
    relaxc.compile(large, tmp_path / "model.rxc")
    assert (tmp_path / "model.rxc").stat().st_size > 1 << 31
    y = relaxc.load(tmp_path / "model.rxc")(np.array([0, 7, ROWS - 1]))
    assert y[:, 0].tolist() == [1, 0, 2]


@pytest.mark.long
@pytest.mark.parametrize(
    "command",
    [
        ["inspect"],
        ["check"],
        ["check", "--per-layer"],
    ],
    ids=" ".join,
)
def test_commands_on_more_than_two_gigabytes(large: Path, command: list[str]) -> None:
    verb, *flags = command
    assert main([verb, str(large), *flags]) == 0
