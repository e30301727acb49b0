"""QLinear operators against ONNX Runtime; where it sums in another order, one step is allowed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from one_node import check_node

RNG = np.random.default_rng(0)
KINDS = [np.uint8, np.int8]


def scale(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def data(kind: Any, *shape: int) -> np.ndarray:
    info = np.iinfo(kind)
    return RNG.integers(info.min, info.max + 1, shape).astype(kind)


def zero(kind: Any, value: int = 3) -> np.ndarray:
    return np.array(value, kind)


def one(kind: Any, *shape: int) -> dict[str, np.ndarray | None]:
    return {
        "x": data(kind, *shape),
        "xs": scale(0.05),
        "xz": zero(kind),
        "ys": scale(0.02),
        "yz": zero(kind, 7),
    }


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("kind", KINDS)
def test_binary(op: str, kind: Any) -> None:
    inputs = {
        "a": data(kind, 2, 3, 8),
        "as": scale(0.1),
        "az": zero(kind),
        "b": data(kind, 3, 1),
        "bs": scale(0.07),
        "bz": zero(kind, 1),
        "cs": scale(0.2),
        "cz": zero(kind, 5),
    }
    check_node(op, inputs, {"y": kind}, symbols={"a": {0: "n"}}, steps=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("op", ["QLinearSigmoid", "QLinearLeakyRelu"])
def test_unary(op: str, kind: Any) -> None:
    attrs: dict[str, Any] = {"alpha": 0.2} if op == "QLinearLeakyRelu" else {}
    constants = ["xs", "xz", "ys", "yz"]
    check_node(op, one(kind, 4, 64), {"y": kind}, constants=constants, **attrs)


@pytest.mark.parametrize(("axis", "opset"), [(-1, 13), (1, 13), (1, 12)])
def test_softmax(axis: int, opset: int) -> None:
    inputs = {**one(np.uint8, 2, 3, 5), "ys": scale(1 / 256), "yz": zero(np.uint8, 0)}
    constants = ["xs", "xz", "ys", "yz"]
    attrs = {"axis": axis, "opset": opset}
    check_node("QLinearSoftmax", inputs, {"y": np.uint8}, constants=constants, steps=1, **attrs)


@pytest.mark.parametrize("last", [0, 1])
def test_global_average_pool(last: int) -> None:
    shape = (2, 5, 4, 3) if last else (2, 3, 5, 4)
    inputs = one(np.uint8, *shape)
    check_node("QLinearGlobalAveragePool", inputs, {"y": np.uint8}, steps=1, channels_last=last)


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("counted", [0, 1])
def test_average_pool(last: int, counted: int) -> None:
    shape = (2, 6, 7, 3) if last else (2, 3, 6, 7)
    check_node(
        "QLinearAveragePool",
        one(np.uint8, *shape),
        {"y": np.uint8},
        steps=1,
        kernel_shape=[3, 2],
        strides=[2, 1],
        pads=[1, 0, 1, 1],
        channels_last=last,
        count_include_pad=counted,
    )


def test_concat() -> None:
    inputs = {"ys": scale(0.1), "yz": zero(np.uint8)}
    for i in range(3):
        part = {f"x{i}": data(np.uint8, 2, i + 1), f"s{i}": scale(0.05 * (i + 1))}
        inputs |= {**part, f"z{i}": zero(np.uint8, i)}
    check_node("QLinearConcat", inputs, {"y": np.uint8}, steps=1, axis=-1)


@pytest.mark.parametrize(("trans_a", "trans_b"), [(0, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("is_float", [False, True])
def test_gemm(trans_a: int, trans_b: int, is_float: bool) -> None:
    inputs = {
        "a": data(np.uint8, 8, 3) if trans_a else data(np.uint8, 3, 8),
        "as": scale(0.05),
        "az": zero(np.uint8, 9),
        "b": data(np.int8, 6, 8) if trans_b else data(np.int8, 8, 6),
        "bs": RNG.uniform(0.01, 0.1, 6).astype(np.float32),
        "bz": np.zeros(6, np.int8),
        "c": RNG.integers(-500, 500, 6).astype(np.int32),
        "ys": None if is_float else scale(1.5),
        "yz": None if is_float else zero(np.uint8, 100),
    }
    inputs = {n: a for n, a in inputs.items() if a is not None}
    out = {"y": np.float32 if is_float else np.uint8}
    attrs = {"transA": trans_a, "transB": trans_b, "alpha": 0.5}
    constants = ["az", "b", "bs", "bz", "c"]
    check_node("QGemm", inputs, out, constants=constants, steps=1, **attrs)
