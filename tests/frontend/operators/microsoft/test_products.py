"""Matrix products of this domain, against ONNX Runtime."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from one_node import check_node, node_model

import relaxc
from relaxc.errors import UnsupportedOpError

RNG = np.random.default_rng(0)
OUT = {"y": np.float32}


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("trans_a", "trans_b"), list(itertools.product((0, 1), repeat=2)))
def test_fused_matmul(trans_a: int, trans_b: int) -> None:
    a = floats(2, 5, 4) if trans_a else floats(2, 4, 5)
    b = floats(2, 6, 5) if trans_b else floats(2, 5, 6)
    check_node(
        "FusedMatMul",
        {"a": a, "b": b},
        OUT,
        symbols={"a": {0: "n"}, "b": {0: "n"}},
        transA=trans_a,
        transB=trans_b,
        alpha=0.5,
    )


@pytest.mark.parametrize(("batch_a", "batch_b"), [(1, 0), (0, 1), (1, 1)])
def test_fused_matmul_of_batches_in_the_middle(batch_a: int, batch_b: int) -> None:
    a = floats(4, 2, 5) if batch_a else floats(2, 4, 5)
    b = floats(5, 2, 6) if batch_b else floats(2, 5, 6)
    check_node("FusedMatMul", {"a": a, "b": b}, OUT, transBatchA=batch_a, transBatchB=batch_b)


def weights(n: int, k: int, bits: int, block: int, zeros: bool) -> dict[str, np.ndarray | None]:
    blocks = -(-k // block)
    return {
        "b": RNG.integers(0, 256, (n, blocks, block * bits // 8), np.uint8),
        "s": RNG.uniform(0.1, 1, (n, blocks)).astype(np.float32),
        "z": RNG.integers(0, 256, (n, -(-blocks * bits // 8)), np.uint8) if zeros else None,
    }


@pytest.mark.parametrize(
    ("bits", "block", "k", "zeros"),
    [
        (4, 32, 64, False),
        (4, 16, 64, True),
        (4, 32, 48, True),
        (8, 32, 64, True),
        (8, 16, 40, False),
    ],
)
def test_matmul_nbits(bits: int, block: int, k: int, zeros: bool) -> None:
    given = weights(24, k, bits, block, zeros)
    check_node(
        "MatMulNBits",
        {"x": floats(3, k), **given},
        OUT,
        constants=["b", "s", "z"],
        symbols={"x": {0: "n"}},
        rtol=2e-4,
        K=k,
        N=24,
        bits=bits,
        block_size=block,
    )


def test_matmul_nbits_with_float_zero_points_and_bias() -> None:
    given = weights(8, 32, 4, 16, False)
    given["z"] = RNG.uniform(6, 9, (8, 2)).astype(np.float32)
    inputs = {"x": floats(3, 32), **given, "g": None, "c": floats(8)}
    check_node(
        "MatMulNBits", inputs, OUT, constants=["b", "s", "z"], rtol=2e-4,
        K=32, N=8, bits=4, block_size=16,
    )  # fmt: skip


def test_matmul_nbits_names_what_it_lacks(tmp_path: Path) -> None:
    given = weights(8, 32, 4, 16, False)
    inputs = {"x": floats(3, 32), **given, "g": np.zeros(32, np.int32)}
    model = node_model("MatMulNBits", inputs, OUT, K=32, N=8, bits=4, block_size=16)
    with pytest.raises(UnsupportedOpError, match="MatMulNBits.*`the_node`.*`g_idx`"):
        relaxc.compile(model, tmp_path / "a.rxc")


@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_dynamic_quantize_matmul(per_column: bool, kind: type) -> None:
    inputs: dict[str, np.ndarray | None] = {
        "x": floats(3, 8),
        "b": RNG.integers(0, 100, (8, 5)).astype(kind),
        "s": RNG.uniform(0.1, 1, 5 if per_column else 1).astype(np.float32),
        "z": np.full(5 if per_column else 1, 3, kind),
        "c": floats(5),
    }
    check_node("DynamicQuantizeMatMul", inputs, OUT, constants=["b", "s", "z"])


def test_nhwc_conv_is_a_convolution_of_channels_last_data(tmp_path: Path) -> None:
    """ONNX Runtime has no kernel for CPUs: its Conv is the oracle."""
    x, w, b = floats(1, 7, 8, 3), floats(4, 3, 3, 3), floats(4)
    attrs: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 1]}
    inputs = {"x": x, "w": w, "b": b}
    model = node_model("NhwcConv", inputs, OUT, constants=["w", "b"], **attrs)
    relaxc.compile(model, tmp_path / "a.rxc")
    actual = relaxc.load(tmp_path / "a.rxc").run({"x": x})["y"]
    first = {"x": x.transpose(0, 3, 1, 2), "w": w, "b": b}
    conv = node_model("Conv", first, OUT, domain="", **attrs)
    session = onnxruntime.InferenceSession(conv.SerializeToString())
    (expected,) = session.run(None, first)
    np.testing.assert_allclose(actual, expected.transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-5)
