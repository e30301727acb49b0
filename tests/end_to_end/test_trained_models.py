"""Real trained models, bundled with the examples, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import MODELS

import relaxc
from relaxc.measure.check import CheckOptions, check
from relaxc.measure.feeds import FeedOptions
from relaxc.options import CompileOptions, Shape

TOLERANCE = {"atol": 1e-5, "rtol": 1e-4}
CASES: list[tuple[str, dict[str, Shape]]] = [
    ("mnist_cnn/mnist", {}),
    ("mlperf_tiny/kws_ref_model_float32", {}),
    ("mlperf_tiny/pretrainedResnet", {}),
    ("resnet_cifar/resnet20_cifar10", {}),
    ("superres_espcn/espcn_core", {"y": (1, 1, 20, 30)}),
]


@pytest.mark.parametrize(("name", "shapes"), CASES, ids=[name for name, _ in CASES])
def test_outputs_agree(name: str, shapes: dict[str, Shape], tmp_path: Path) -> None:
    model, artifact = MODELS / f"{name}.onnx", tmp_path / "a.rxc"
    relaxc.compile(model, artifact, CompileOptions(input_shapes=shapes))
    for seed in range(2):
        options = CheckOptions(model=model, feed=FeedOptions(seed=seed), limits=TOLERANCE)
        result = check(artifact, options)
        assert result.is_ok, result.outputs


@pytest.mark.parametrize("name", ["mnist_cnn/mnist", "mlperf_tiny/pretrainedResnet"])
def test_every_pass_leaves_a_well_formed_module(name: str, tmp_path: Path) -> None:
    relaxc.compile(
        MODELS / f"{name}.onnx", tmp_path / "a.rxc", diagnostics=relaxc.Diagnostics(verify=True)
    )


def test_a_batch(tmp_path: Path) -> None:
    options = CheckOptions(
        limits=TOLERANCE, compile=CompileOptions(input_shapes={"input": (3, 1, 49, 10)})
    )
    assert check(MODELS / "mlperf_tiny" / "kws_ref_model_float32.onnx", options).is_ok


@pytest.mark.long
@pytest.mark.parametrize("name", ["mobilenet_v1_025/mobilenet_v1_025"])
def test_larger_models(name: str) -> None:
    assert check(MODELS / f"{name}.onnx", CheckOptions(limits=TOLERANCE)).is_ok


@pytest.mark.parametrize(
    "name",
    ["mnist_cnn/mnist", pytest.param("mlperf_tiny/pretrainedResnet", marks=pytest.mark.long)],
)
def test_every_layer_agrees(name: str) -> None:
    result = check(MODELS / f"{name}.onnx", CheckOptions(per_layer=True, limits=TOLERANCE))
    assert result.is_ok
    assert result.first_divergence is None
    assert len(result.layers) > 10
