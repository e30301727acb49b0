"""Slices of every n-th pixel become part of the convolution that reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import IRModule, relax

from relaxc.passes.canonicalize.fold_space_to_depth import FoldSpaceToDepth

SIZE, LAST = 12, 2**31 - 1
PLACES = [(0, 0), (1, 0), (0, 1), (1, 1)]
WEIGHT = np.random.default_rng(0).standard_normal((5, 12, 3, 3)).astype(np.float32)


def model(
    places: Sequence[tuple[int, int]] = PLACES, step: int = 2, in_two: bool = True, **conv: Any
) -> IRModule:
    """A convolution of slices of an image."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 3, SIZE, SIZE), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            parts = []
            for row, column in places:
                if in_two:
                    rows = builder.emit(relax.op.strided_slice(x, [2], [row], [LAST], [step]))
                    part = relax.op.strided_slice(rows, [3], [column], [LAST], [step])
                else:
                    part = relax.op.strided_slice(x, [2, 3], [row, column], [LAST] * 2, [step] * 2)
                parts.append(builder.emit(part))
            joined = builder.emit(relax.op.concat(parts, 1))
            weight = WEIGHT[:, : 3 * len(places)]
            y = builder.emit_output(relax.op.nn.conv2d(joined, relax.const(weight), **conv))
        builder.emit_func_output(y)
    return builder.get()


def operators(mod: IRModule) -> list[str]:
    return [b.value.op.name for b in mod["main"].body.blocks[0].bindings]


def test_becomes_one_convolution(golden: Callable[..., None]) -> None:
    weight = np.zeros((5, 3, 6, 6), np.float32)
    for i, (row, column) in enumerate(PLACES):
        weight[:, :, row::2, column::2] = WEIGHT[:, 3 * i : 3 * i + 3]
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 3, SIZE, SIZE), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = relax.op.nn.conv2d(x, relax.const(weight), 2, 2, out_dtype="float32")
            y = builder.emit_output(y)
        builder.emit_func_output(y)
    golden(FoldSpaceToDepth(), model(padding=1, out_dtype="float32"), builder.get())


@pytest.mark.parametrize(
    "before",
    [
        model(padding=1),
        model(PLACES[::-1], in_two=False),
        model(padding=(0, 1, 2, 1), strides=(2, 1)),
    ],
)
def test_same_numbers(execute: Callable[..., np.ndarray], before: IRModule) -> None:
    x = np.random.default_rng(1).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)
    after = FoldSpaceToDepth().apply(before)
    assert operators(after) == ["relax.nn.conv2d"]
    np.testing.assert_allclose(execute(after, x), execute(before, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "before",
    [
        model(PLACES[:3]),  # not every pixel
        model([(0, 0), (0, 0), (0, 1), (1, 1)]),  # one of them twice
        model(step=5),  # no divisor
        model(dilation=2),
    ],
)
def test_leaves_others_alone(before: IRModule) -> None:
    tvm.ir.assert_structural_equal(FoldSpaceToDepth().apply(before), before)
