"""A batch is divided among several devices; tested with several models on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import onnx_model

import relaxc
from relaxc.errors import InputError, OptionError
from relaxc.runtime.cuda import parts_of
from relaxc.runtime.divided_tensor import DividedTensor
from relaxc.runtime.model import Model, TensorInfo
from relaxc.runtime.replicas import Replicas

GRAPH = """g (float[{batch},3] x, float[3] shift) => (float[{batch},3] y, float[{batch}] z) {{
    y = Add(x, shift)  z = ReduceSum<keepdims=0>(y, axes)
}}"""


def replicas(compiled: Callable[..., Path], batch: str, count: int = 2) -> Replicas:
    path = compiled(onnx_model(GRAPH.format(batch=batch), axes=np.array([1])))
    return Replicas([relaxc.load(path) for _ in range(count)])


def feed(batch: int) -> dict[str, np.ndarray]:
    x = np.arange(batch * 3, dtype=np.float32).reshape(batch, 3)
    return {"x": x, "shift": np.array([1, 2, 3], np.float32)}


@pytest.mark.parametrize(("batch", "given"), [("2", 6), ("n", 9)])
def test_parts_are_computed_and_put_together(
    compiled: Callable[..., Path], batch: str, given: int
) -> None:
    model, inputs = replicas(compiled, batch, 3), feed(given)
    results = model.run(inputs)
    np.testing.assert_array_equal(results["y"], inputs["x"] + inputs["shift"])
    np.testing.assert_array_equal(results["z"], results["y"].sum(1))
    y, _ = model(*inputs.values())
    np.testing.assert_array_equal(y, results["y"])


def test_a_fixed_batch_is_that_of_all(compiled: Callable[..., Path]) -> None:
    model = replicas(compiled, "2")
    assert [info.shape for info in (*model.inputs, *model.outputs)] == [(4, 3), (3,), (4, 3), (4,)]


def test_batches_that_cannot_be_divided(compiled: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="batch of input `x` must be a multiple of 2, .* not 3"):
        replicas(compiled, "n").run(feed(3))
    with pytest.raises(InputError, match="unknown input `z`"):
        replicas(compiled, "n").run({"z": feed(2)["x"]})


def test_models_without_a_batch(compiled: Callable[..., Path]) -> None:
    path = compiled(onnx_model("g (float[4] x) => (float y) { y = ReduceSum<keepdims=0>(x) }"))
    with pytest.raises(OptionError, match="`y` has no batch to divide among"):
        Replicas([relaxc.load(path) for _ in range(2)])


def test_lists_of_devices() -> None:
    assert parts_of("cuda:0,1") == ["cuda:0", "cuda:1"]
    with pytest.raises(OptionError, match="names a GPU twice"):
        parts_of("cuda:1,1")
    with pytest.raises(OptionError, match="unknown device `cuda:x`"):
        parts_of("cuda:0,x")


@dataclass
class There:
    """A tensor that lies on a GPU."""

    array: np.ndarray
    address: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    def numpy(self) -> np.ndarray:
        return self.array


class OnGpu(Model):
    """Doubles what it is given, as a model on a GPU gives it back."""

    inputs = (TensorInfo("x", "float32", (2, 3)), TensorInfo("shift", "float32", (3,)))
    outputs = (TensorInfo("y", "float32", (2, 3)),)
    manifest: dict[str, object] = {}
    threads = 1

    def __init__(self, number: int) -> None:
        self.device = f"cuda:{number}"
        self.waited = False

    def put(self, array: np.ndarray, name: str | None = None) -> Any:
        return There(array)

    def run(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        x, shift = (v.array if isinstance(v, There) else v for v in feed.values())
        y = 2 * x + shift
        return {"y": There(y) if any(isinstance(v, There) for v in feed.values()) else y}

    def synchronize(self) -> None:
        self.waited = True


def test_inputs_on_the_gpus_are_used_there() -> None:
    models = [OnGpu(0), OnGpu(1)]
    model = Replicas(models)
    inputs = feed(4)
    there = {name: model.put(array, name) for name, array in inputs.items()}
    assert [part.shape for part in there["x"].parts] == [(2, 3), (2, 3)]
    wanted = 2 * inputs["x"] + inputs["shift"]
    for given in (there, {**there, "shift": inputs["shift"]}):
        result = model.run(given)["y"]
        assert isinstance(result, DividedTensor) and result.shape == (4, 3)
        np.testing.assert_array_equal(result.numpy(), wanted)
    np.testing.assert_array_equal(model.run(inputs)["y"], wanted)
    model.synchronize()
    assert all(m.waited for m in models)


def test_inputs_that_lie_on_the_gpus_otherwise() -> None:
    model, inputs = Replicas([OnGpu(0), OnGpu(1)]), feed(4)
    shift = model.put(inputs["shift"], "shift")
    with pytest.raises(InputError, match="input `x` lies on the GPUs in other parts"):
        model.run({"x": shift, "shift": shift})
    with pytest.raises(InputError, match="unknown input `z`; the model takes x, shift"):
        model.put(inputs["x"], "z")
    with pytest.raises(InputError, match="must be a multiple of 2, .* not 3"):
        model.put(inputs["x"][:3], "x")
