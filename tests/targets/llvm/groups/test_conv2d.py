"""Convolutions of every algorithm, over shapes that do not divide evenly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import onnx_model
from kernels import TARGETS, check_model

from relaxc.targets.llvm.kernels.conv_direct import cuts
from relaxc.targets.llvm.kernels.conv_spec import ConvSpec
from relaxc.targets.llvm.kernels.direct_tile import Tile, choose_tile

# channels in, out, height, width, kernel, stride, dilation, groups, padding, algorithm
CASES = [
    (3, 16, 17, 23, (7, 7), 2, 1, 1, 3, "direct"),  # first layer: plain data
    (16, 24, 13, 7, (1, 1), 1, 1, 1, 0, "direct"),
    (24, 40, 9, 31, (3, 3), 2, 1, 1, 1, "direct"),
    (20, 33, 11, 11, (3, 3), 1, 2, 1, 2, "direct"),
    (32, 48, 8, 8, (5, 3), 1, 1, 1, 1, "direct"),
    (64, 64, 6, 6, (3, 3), 1, 1, 2, 1, "direct"),  # grouped
    (40, 40, 15, 15, (3, 3), 1, 1, 40, 1, "depthwise"),
    (24, 24, 20, 9, (5, 5), 2, 1, 24, 2, "depthwise"),
    (32, 32, 12, 12, (7, 7), 1, 1, 32, 3, "depthwise"),
    (32, 32, 19, 21, (3, 3), 1, 1, 1, 1, "winograd"),  # F(4,3)
    (48, 64, 7, 7, (3, 3), 1, 1, 1, 1, "winograd"),  # F(2,3)
    (32, 96, 35, 33, (3, 3), 1, 1, 1, 1, "winograd"),  # groups that two cores share unevenly
    (32, 32, 17, 17, (1, 7), 1, 1, 1, 0, "winograd"),
    (32, 32, 230, 230, (3, 3), 1, 1, 1, 1, "winograd"),  # a map that is fetched ahead
    (32, 64, 9, 9, (5, 5), 1, 1, 1, 2, "winograd"),
    (32, 64, 41, 47, (3, 3), 2, 1, 1, 1, "winograd"),  # even and odd pixels apart
    (48, 32, 21, 24, (3, 3), 2, 1, 1, 0, "winograd"),
    (64, 64, 9, 9, (3, 3), 1, 1, 16, 1, "packed"),  # four channels per group
    (40, 40, 9, 10, (3, 3), 2, 1, 20, 1, "packed"),
    (12, 24, 9, 9, (3, 3), 1, 1, 12, 1, "packed"),  # two outputs per input
    (24, 48, 9, 9, (1, 1), 1, 1, 12, 0, "packed"),
    (48, 24, 9, 9, (1, 1), 1, 1, 12, 0, "banded"),
    (544, 136, 7, 7, (1, 1), 1, 1, 4, 0, "banded"),
    (6, 9, 12, 12, (3, 3), 1, 2, 3, 1, "banded"),
    (51, 34, 8, 30, (3, 3), 2, 1, 17, 1, "banded"),
    (60, 100, 8, 8, (3, 1), 1, 1, 5, 1, "banded"),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[-1]}-{c[0]}to{c[1]}-{c[4]}")
def test_matches_onnxruntime(case: tuple[Any, ...], target: str) -> None:
    depth, width, height, length, (kh, kw), stride, dilation, groups, pad, algorithm = case
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((width, depth // groups, kh, kw)).astype(np.float32)
    model = onnx_model(
        f"""g (float[2,{depth},{height},{length}] x) => (float[n,c,h,w] y) {{
            a = Conv <kernel_shape=[{kh},{kw}], strides=[{stride},{stride}],
                      dilations=[{dilation},{dilation}], group={groups},
                      pads=[{pad},{pad},{pad},{pad}]> (x, weight, bias)
            b = Relu (a)
            y = Mul (b, b)
        }}""",
        weight=weight,
        bias=rng.standard_normal(width).astype(np.float32),
    )
    x = rng.standard_normal((2, depth, height, length)).astype(np.float32)
    check_model(model, {"x": x}, target, kernels={f"conv2d_{algorithm}"})


def test_residual_is_read_where_it_lies() -> None:
    """The residual has a border that the convolution's result has not."""
    rng = np.random.default_rng(0)
    model = onnx_model(
        """g (float[n,32,9,9] x) => (float[n,32,9,9] y) {
            a = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w)
            b = Relu (a)
            c = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (b, w)
            y = Add (c, b)
        }""",
        w=rng.standard_normal((32, 32, 3, 3)).astype(np.float32),
    )
    x = rng.standard_normal((3, 32, 9, 9)).astype(np.float32)
    check_model(model, {"x": x}, kernels={"conv2d_winograd"})


def test_heavy_epilogue_is_looped() -> None:
    rng = np.random.default_rng(0)
    model = onnx_model(
        """g (float[1,16,10,10] x) => (float[1,40,10,10] y) {
            a = Conv <kernel_shape=[1,1]> (x, w)
            s = Sigmoid (a)
            y = Mul (a, s)
        }""",
        w=rng.standard_normal((40, 16, 1, 1)).astype(np.float32),
    )
    check_model(model, {"x": rng.standard_normal((1, 16, 10, 10)).astype(np.float32)})


def test_cores_take_the_rows_that_they_wrote() -> None:
    def tile(depth: int, size: int, width: int, batch: int = 1) -> Tile:
        spec = ConvSpec(
            batch, depth, width, 1, size, size, size, size, (1, 1), (1, 1), (1, 1), (0, 0, 0, 0)
        )
        return choose_tile(spec, 16, 32, cores=2)

    assert tile(1024, 14, 256).parts == 2
    assert tile(1024, 7, 512).parts == 1  # one core would have 4 rows, the other 3
    assert tile(1024, 14, 256, batch=8).parts == 1


def test_rows_of_each_core_match_onnxruntime() -> None:
    rng = np.random.default_rng(0)
    model = onnx_model(
        """g (float[1,64,14,13] x) => (float[1,208,14,13] y) {
            a = Conv <kernel_shape=[1,1]> (x, w)
            y = Relu (a)
        }""",
        w=rng.standard_normal((208, 64, 1, 1)).astype(np.float32),
    )
    check_model(
        model,
        {"x": rng.standard_normal((1, 64, 14, 13)).astype(np.float32)},
        kernels={"conv2d_direct"},
    )


@pytest.mark.parametrize("pad, columns", [(0, 3000), (6, 3001)])
def test_cores_share_a_single_row(pad: int, columns: int) -> None:
    """Parts of a row, of which the first and the last one look at the edges."""
    rng = np.random.default_rng(0)
    model = onnx_model(
        f"""g (float[1,32,1,{columns}] x) => (float[1,c,1,w] y) {{
            a = Conv <kernel_shape=[1,5], dilations=[1,3], pads=[0,{pad},0,6]> (x, v)
            b = Relu (a)
            y = Conv <kernel_shape=[1,5], dilations=[1,3], pads=[0,6,0,{pad}]> (b, w)
        }}""",
        v=rng.standard_normal((40, 32, 1, 5)).astype(np.float32),
        w=rng.standard_normal((8, 40, 1, 5)).astype(np.float32),
    )
    x = rng.standard_normal((1, 32, 1, columns)).astype(np.float32)
    check_model(model, {"x": x}, kernels={"conv2d_direct"})


def test_a_row_is_cut_where_there_are_few() -> None:
    spec = ConvSpec(1, 32, 32, 1, 1, 4096, 1, 4096, (1, 7), (1, 1), (1, 1), (0, 3, 0, 3))
    tile = choose_tile(spec, 16, 32)
    assert cuts(spec, tile, 1) == 8
    assert cuts(replace(spec, batch=4), tile, 1) == 1
    assert cuts(replace(spec, in_width=64, out_width=64), tile, 1) == 1
    assert cuts(replace(spec, in_height=9, out_height=9), tile, 1) == 1
