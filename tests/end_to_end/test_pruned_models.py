"""Real trained models without half of their channels, against the dense ones that ignore them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tvm
from conftest import MODELS
from prune_reference import masked
from tvm import IRModule
from virtual_machine import virtual_machine

from relaxc.frontend.importer import from_onnx
from relaxc.options import Shape
from relaxc.passes.pipeline import default_passes
from relaxc.passes.prune.dependency import dependencies
from relaxc.passes.prune.remove import remove_channels
from relaxc.targets.registry import backend_for

CASES: list[tuple[str, Shape, int]] = [
    ("mnist_cnn/mnist", (1, 1, 28, 28), 1),
    ("mlperf_tiny/kws_ref_model_float32", (1, 1, 49, 10), 5),
    ("mlperf_tiny/pretrainedResnet", (1, 3, 32, 32), 6),
    ("mobilenet_v1_025/mobilenet_v1_025", (1, 3, 128, 128), 14),
    ("resnet_cifar/resnet20_cifar10", (1, 3, 32, 32), 12),
    ("superres_espcn/espcn_core", (1, 1, 20, 30), 3),
]


def canonical(path: Path, shape: Shape) -> IRModule:
    """The module as pruning gets it."""
    name = from_onnx(path).inputs[0]
    mod = from_onnx(path, {name: shape}).mod
    names = [item.name for item in default_passes(backend_for("llvm").kernels)]
    for item in default_passes(backend_for("llvm").kernels)[: names.index("sink-permute") + 1]:
        mod = item.apply(mod)
    return mod


def run(mod: IRModule, x: np.ndarray) -> np.ndarray:
    vm = virtual_machine(mod)
    return np.asarray(vm["main"](tvm.runtime.tensor(x)).numpy())


@pytest.mark.long
@pytest.mark.parametrize(("name", "shape", "groups"), CASES, ids=[name for name, _, _ in CASES])
def test_half_of_the_channels(name: str, shape: Shape, groups: int) -> None:
    mod = canonical(MODELS / f"{name}.onnx", shape)
    found = dependencies(mod)
    assert len(found.groups) == groups
    rng = np.random.default_rng(0)
    removed: Sequence[int] = [
        c
        for group in found.groups
        for c in rng.choice(group.channels, len(group.channels) // 2, replace=False)
    ]
    sizes = [int(d) for d in mod["main"].params[0].ty.shape.values]
    x = rng.standard_normal(sizes).astype(np.float32)
    dense, expected = run(mod, x), run(masked(mod, found, removed), x)
    actual = run(remove_channels(mod, found, removed), x)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert np.abs(dense - expected).max() > 1e-2 * np.abs(dense).max()
