"""Weights of which most blocks are zero: same numbers, fewer products, and dense where faster."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from builders import onnx_model
from kernels import TARGETS, BuiltModel, check_model

from relaxc.targets.llvm.groups import sparse as groups
from relaxc.targets.llvm.groups.sparse import Product
from relaxc.targets.llvm.kernels.sparse_plan import Window, choose_tile
from relaxc.targets.llvm.machine import Machine, machine_of
from relaxc.targets.registry import backend_for

# channels in, out, height, width, kernel, stride, dilation, padding, kept blocks
CONVOLUTIONS = [
    (3, 16, 17, 23, (7, 7), 2, 1, 3, 0.2),  # plain data
    (16, 24, 13, 7, (1, 1), 1, 1, 0, 0.3),
    (24, 40, 9, 31, (3, 3), 2, 1, 1, 0.2),
    (20, 33, 11, 11, (3, 3), 1, 2, 2, 0.2),
    (64, 64, 14, 14, (3, 3), 1, 1, 1, 0.1),  # not Winograd's border
    (96, 50, 1, 1, (1, 1), 1, 1, 0, 0.2),
    (37, 131, 5, 3, (1, 1), 1, 1, 0, 0.0),  # nothing left
]


def blocks(out: int, inputs: int, lanes: int, kept: float, seed: int = 0) -> np.ndarray:
    """A mask over [out, inputs]; with few kept blocks some vectors have none."""
    kept_blocks = np.random.default_rng(seed).random((-(-out // lanes), inputs)) < kept
    return np.repeat(kept_blocks, lanes, axis=0)[:out]


def lanes_of(target: str) -> int:
    return machine_of(backend_for(target).target).lanes


def convolution(case: tuple[Any, ...], lanes: int, batch: str = "2") -> onnx.ModelProto:
    depth, width, height, length, (kh, kw), stride, dilation, pad, kept = case
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((width, depth, kh, kw)).astype(np.float32)
    weight *= blocks(width, depth * kh * kw, lanes, kept).reshape(weight.shape)
    return onnx_model(
        f"""g (float[{batch},{depth},{height},{length}] x) => (float[n,c,h,w] y) {{
            a = Conv <kernel_shape=[{kh},{kw}], strides=[{stride},{stride}],
                      dilations=[{dilation},{dilation}], pads=[{pad},{pad},{pad},{pad}]>
                (x, weight, bias)
            b = Relu (a)
            y = Mul (b, b)
        }}""",
        weight=weight,
        bias=rng.standard_normal(width).astype(np.float32),
    )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda c: f"{c[0]}to{c[1]}-{c[4]}")
def test_convolutions(case: tuple[Any, ...], target: str) -> None:
    model = convolution(case, lanes_of(target))
    x = np.random.default_rng(1).standard_normal((2, case[0], *case[2:4])).astype(np.float32)
    check_model(model, {"x": x}, target, kernels={"conv2d_blocks"})


def test_convolution_of_symbolic_batch() -> None:
    model = convolution((32, 48, 7, 7, (3, 3), 1, 1, 1, 0.1), lanes_of("llvm"), "n")
    built = BuiltModel(model)
    x = np.random.default_rng(1).standard_normal((3, 32, 7, 7)).astype(np.float32)
    (all_images,) = built.run({"x": x})
    np.testing.assert_array_equal(built.run({"x": x[1:2]})[0], all_images[1:2])
    check_model(model, {"x": x}, kernels={"conv2d_blocks"})


def test_convolutions_in_a_row() -> None:
    """The second reads a border that the first has written, and adds what it reads."""
    rng, lanes = np.random.default_rng(0), lanes_of("llvm")
    pointwise = rng.standard_normal((40, 40, 1, 1)) * blocks(40, 40, lanes, 0.2)[:, :, None, None]
    kernel = rng.standard_normal((40, 40, 3, 3)) * blocks(40, 360, lanes, 0.1).reshape(40, 40, 3, 3)
    model = onnx_model(
        """g (float[1,40,30,9] x) => (float[1,40,30,9] y) {
            a = Conv <kernel_shape=[1,1]> (x, u)
            b = Sigmoid (a)
            c = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (b, v)
            y = Add (c, b)
        }""",
        u=pointwise.astype(np.float32),
        v=kernel.astype(np.float32),
    )
    x = rng.standard_normal((1, 40, 30, 9)).astype(np.float32)
    check_model(model, {"x": x}, kernels={"conv2d_blocks"})


def test_zeros_survive_batch_norm() -> None:
    """Scales that are folded into the weights leave zeros where they are."""
    rng, lanes = np.random.default_rng(0), lanes_of("llvm")
    weight = rng.standard_normal((48, 64, 1, 1)) * blocks(48, 64, lanes, 0.2)[:, :, None, None]
    scale, shift, mean = (rng.standard_normal(48).astype(np.float32) for _ in range(3))
    model = onnx_model(
        """g (float[1,64,12,12] x) => (float[1,48,12,12] y) {
            a = Conv <kernel_shape=[1,1]> (x, w)
            b = BatchNormalization (a, scale, shift, mean, variance)
            y = Relu (b)
        }""",
        w=weight.astype(np.float32),
        scale=scale,
        shift=shift,
        mean=mean,
        variance=rng.random(48).astype(np.float32) + 0.5,
    )
    x = rng.standard_normal((1, 64, 12, 12)).astype(np.float32)
    check_model(model, {"x": x}, kernels={"conv2d_blocks"})


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "rows, depth, columns",
    [(1, 61, 7), (2, 33, 40), (3, 17, 300), (49, 96, 31), (131, 10, 16), (300, 2048, 50)],
)
def test_products(rows: int, depth: int, columns: int, target: str) -> None:
    model, feed = product(rows, depth, columns, lanes_of(target))
    check_model(model, feed, target, kernels={"matmul_blocks"})


@pytest.mark.parametrize("rows", [1, 3, 6, 7, 8, 33])
def test_symbolic_rows(rows: int) -> None:
    model, feed = product(rows, 101, 70, lanes_of("llvm"), "n")
    check_model(model, feed, kernels={"matmul_blocks"})


def product(
    rows: int, depth: int, columns: int, lanes: int, size: str = ""
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((depth, columns)) * blocks(columns, depth, lanes, 0.2).T
    model = onnx_model(
        f"""g (float[{size or rows},{depth}] x, float[{size or rows},{columns}] r)
              => (float[m,{columns}] y) {{
            a = MatMul (x, w)
            b = Add (a, bias)
            c = Tanh (b)
            y = Add (c, r)
        }}""",
        w=weight.astype(np.float32),
        bias=rng.standard_normal(columns).astype(np.float32),
    )
    x, r = rng.standard_normal((rows, depth)), rng.standard_normal((rows, columns))
    return model, {"x": x.astype(np.float32), "r": r.astype(np.float32)}


def test_dense_stays_where_it_is_faster() -> None:
    """Single zeros, few blocks, and Winograd's method, which multiplies less than half."""
    rng, lanes = np.random.default_rng(0), lanes_of("llvm")
    single = rng.random((64, 64, 3, 3)) < 0.1
    few = blocks(64, 64, lanes, 0.9)[:, :, None, None]
    half = blocks(64, 64 * 9, lanes, 0.5).reshape(64, 64, 3, 3)
    for mask in (single, few, half):
        size = mask.shape[2]
        model = onnx_model(
            f"""g (float[1,64,20,20] x) => (float[1,64,h,w] y) {{
                y = Conv <kernel_shape=[{size},{size}]> (x, w)
            }}""",
            w=(rng.standard_normal(mask.shape) * mask).astype(np.float32),
        )
        assert not {"conv2d_blocks", "conv2d_scattered"} & BuiltModel(model).kernels


def force(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """A kernel that leaves zeros out, whatever that costs."""
    monkeypatch.setattr(groups, "WORTHWHILE", np.inf)
    other = "relative_scattered_cost" if method == "blocks" else "relative_cost"
    monkeypatch.setattr(groups, other, lambda *_: 1e9)


@pytest.mark.parametrize("method", ["blocks", "scattered"])
def test_random_patterns(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the pattern: against NumPy, in float64."""
    force(monkeypatch, method)
    rng = np.random.default_rng(5)
    for _ in range(4):
        rows, depth, columns = (int(n) for n in rng.integers(17, 120, 3))
        weight = rng.standard_normal((depth, columns)) * (rng.random((depth, columns)) < 0.3)
        weight[rng.random(depth) < 0.5] = 0  # inputs that nothing reads
        weight[:, rng.random(columns) < 0.5] = 0  # outputs that read nothing
        weight = weight.astype(np.float32)
        model = onnx_model(
            f"g (float[{rows},{depth}] x) => (float[m,n] y) {{ y = MatMul (x, w) }}", w=weight
        )
        x = rng.standard_normal((rows, depth)).astype(np.float32)
        built = BuiltModel(model)
        assert f"matmul_{method}" in built.kernels
        expected = x.astype(np.float64) @ weight
        np.testing.assert_allclose(built.run({"x": x})[0], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "depth, width, height, length, kept",
    [(16, 24, 13, 7, 0.1), (37, 131, 9, 31, 0.05), (64, 40, 5, 5, 0.2), (40, 64, 28, 1, 0.0)],
)
def test_scattered_convolutions(
    depth: int,
    width: int,
    height: int,
    length: int,
    kept: float,
    target: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Single zeros; the depthwise convolution wants a border around the result."""
    force(monkeypatch, "scattered")
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((width, depth, 1, 1))
    weight *= rng.random(weight.shape) < kept
    model = onnx_model(
        f"""g (float[n,{depth},{height},{length}] x) => (float[n,c,h,w] y) {{
            a = Conv <kernel_shape=[1,1]> (x, weight, bias)
            b = Relu (a)
            y = Conv <kernel_shape=[3,3], pads=[1,1,1,1], group={width}> (b, u)
        }}""",
        weight=weight.astype(np.float32),
        bias=rng.standard_normal(width).astype(np.float32),
        u=rng.standard_normal((width, 1, 3, 3)).astype(np.float32),
    )
    x = rng.standard_normal((3, depth, height, length)).astype(np.float32)
    check_model(model, {"x": x}, target, kernels={"conv2d_scattered"})


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("is_symbolic", [False, True])
@pytest.mark.parametrize("rows, depth, columns", [(33, 96, 40), (131, 100, 16), (17, 2048, 50)])
def test_scattered_products(
    rows: int,
    depth: int,
    columns: int,
    is_symbolic: bool,
    target: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a long epilogue, and as many inputs as take several ranges."""
    force(monkeypatch, "scattered")
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((depth, columns))
    weight *= rng.random(weight.shape) < 0.1
    size = "n" if is_symbolic else str(rows)
    model = onnx_model(
        f"""g (float[{size},{depth}] x) => (float[m,{columns}] y) {{
            a = MatMul (x, w)
            b = Add (a, bias)
            y = Tanh (b)
        }}""",
        w=weight.astype(np.float32),
        bias=rng.standard_normal(columns).astype(np.float32),
    )
    x = rng.standard_normal((rows, depth)).astype(np.float32)
    check_model(model, {"x": x}, target, kernels={"matmul_scattered"})


def test_few_rows_are_not_scattered() -> None:
    weight = np.where(np.random.default_rng(0).random((64, 64, 1, 1)) < 0.05, 1, 0)
    machine = Machine(16, 32, 48 << 10, 1 << 20, 2)
    found = Product(weight, Window(1, 1, 3)).sparsity(machine)
    assert found is not None and found.method != "scattered"
    many = Product(weight, Window(1, 1, 300)).sparsity(machine)
    assert many is not None and many.method == "scattered"


def test_tiles_fit_registers_and_maps() -> None:
    for machine in (Machine(16, 32, 48 << 10, 1 << 20, 2), Machine(8, 16, 32 << 10, 512 << 10, 2)):
        for height, width in ((1, 1), (7, 7), (13, 29), (112, 112), (1, 300)):
            for depth in (16, 960, 4096):
                tile = choose_tile(Window(1, height, width), depth, 9, machine, depth)
                assert tile.rows <= height and tile.columns <= width
                assert tile.pixels * tile.chains <= machine.registers - 4
                assert 1 <= tile.parts <= 9


def test_sparsity_counts_blocks() -> None:
    weight = np.ones((32, 40, 1, 1), np.float32)
    weight[:16, :30] = 0
    weight[16:31] = 0
    machine = Machine(16, 32, 48 << 10, 1 << 20, 2)
    found = Product(weight, Window(1, 14, 14)).sparsity(machine)
    assert found is not None
    assert found.zeros == pytest.approx((16 * 30 + 15 * 40) / weight.size)
    assert found.zero_blocks == pytest.approx(30 / 80)
    dense = np.ones((32, 40, 1, 1), np.float32)
    assert Product(dense, Window(1, 14, 14)).sparsity(machine) is None
