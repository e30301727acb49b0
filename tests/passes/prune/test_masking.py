"""A masked module computes what the smaller one does."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from builders import onnx_model
from prune_reference import masked
from tvm import IRModule, relax
from virtual_machine import virtual_machine

from relaxc.frontend.importer import from_onnx
from relaxc.passes.prune.dependency import dependencies
from relaxc.passes.prune.masking import mask_channels

RNG = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def run(mod: IRModule, *inputs: np.ndarray) -> np.ndarray:
    vm = virtual_machine(mod)
    result = vm["main"](*(tvm.runtime.tensor(array) for array in inputs))
    return np.asarray((result if hasattr(result, "numpy") else result[0]).numpy())


CASES = {
    "convolutions, one value read twice": (
        """g (float[1,3,8,8] x) => (float[1,5,8,8] y) {
            a = Conv(x, w)  b = Relu(a)  c = Conv(b, u)  d = Conv(b, t)  y = Add(c, d)
        }""",
        {"w": weight(8, 3, 1, 1), "u": weight(5, 8, 1, 1), "t": weight(5, 8, 1, 1)},
    ),
    "depthwise and transposed": (
        """g (float[1,3,8,8] x) => (float[1,5,16,16] y) {
            a = Conv(x, w)  b = Conv<group=8>(a, u)  y = ConvTranspose<strides=[2,2]>(b, v)
        }""",
        {"w": weight(8, 3, 1, 1), "u": weight(8, 1, 1, 1), "v": weight(8, 5, 2, 2)},
    ),
    "products": (
        """g (float[4,6] x) => (float[4,5] y) {
            a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, v)
        }""",
        {"w": weight(6, 8), "v": weight(8, 5)},
    ),
    "weight on the left": (
        """g (float[6,4] x) => (float[5,4] y) {
            a = MatMul(w, x)  b = Relu(a)  y = MatMul(v, b)
        }""",
        {"w": weight(8, 6), "v": weight(5, 8)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_masks_do_what_zeros_in_weights_do(case: str) -> None:
    graph, weights = CASES[case]
    mod = from_onnx(onnx_model(graph, 18, **weights)).mod
    found = dependencies(mod)
    result = mask_channels(mod, found)
    relax.analysis.well_formed(result.mod)
    shape = [int(d) for d in mod["main"].params[0].ty.shape.values]
    x = weight(*shape)
    np.testing.assert_allclose(
        run(result.mod, x, *result.masks([])), run(mod, x), rtol=1e-5, atol=1e-5
    )
    removed = [c for group in found.groups for c in group.channels[::2]]
    expected = run(masked(mod, found, removed), x)
    np.testing.assert_allclose(
        run(result.mod, x, *result.masks(removed)), expected, rtol=1e-5, atol=1e-5
    )
    assert np.abs(run(mod, x) - expected).max() > 1e-2


def test_equal_reads_share_a_mask() -> None:
    graph, weights = CASES["convolutions, one value read twice"]
    mod = from_onnx(onnx_model(graph, 18, **weights)).mod
    assert len(mask_channels(mod, dependencies(mod)).shapes) == 1
