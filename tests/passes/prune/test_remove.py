"""A smaller module computes what the dense one does with the removed channels unread."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builders import onnx_model
from hypothesis import given, settings
from hypothesis import strategies as st
from prune_reference import check_removal
from tvm import IRModule

from relaxc.frontend.importer import from_onnx
from relaxc.passes.prune.dependency import dependencies
from relaxc.passes.prune.remove import remove_channels

RNG = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def imported(graph: str, **weights: np.ndarray) -> IRModule:
    return from_onnx(onnx_model(graph, 18, **weights)).mod


CASES: dict[str, tuple[str, dict[str, np.ndarray]]] = {
    "grouped": (
        """g (float[1,3,8,8] x) => (float[1,5,8,8] y) {
            a = Conv(x, w)  b = Conv<group=4>(a, u)  y = Conv(b, v)
        }""",
        {"w": weight(8, 3, 1, 1), "u": weight(12, 2, 1, 1), "v": weight(5, 12, 1, 1)},
    ),
    "depthwise": (
        """g (float[1,3,8,8] x) => (float[1,5,8,8] y) {
            a = Conv(x, w)  b = Conv<group=8>(a, u)  y = Conv(b, v)
        }""",
        {"w": weight(8, 3, 1, 1), "u": weight(16, 1, 1, 1), "v": weight(5, 16, 1, 1)},
    ),
    "transposed": (
        """g (float[1,3,8,8] x) => (float[1,5,16,16] y) {
            a = Conv(x, w)  y = ConvTranspose<strides=[2,2]>(a, v)
        }""",
        {"w": weight(8, 3, 1, 1), "v": weight(8, 5, 2, 2)},
    ),
    "concatenation": (
        """g (float[1,3,8,8] x) => (float[1,5,8,8] y) {
            a = Conv(x, w)  b = Conv(x, u)  c = Concat<axis=1>(a, x, b)  y = Conv(c, v)
        }""",
        {"w": weight(6, 3, 1, 1), "u": weight(4, 3, 1, 1), "v": weight(5, 13, 1, 1)},
    ),
    "split": (
        """g (float[1,3,8,8] x) => (float[1,5,8,8] y) {
            a = Conv(x, w)  b, c = Split<axis=1>(a, s)  d = Sigmoid(b)  e = Mul(c, d)
            y = Conv(e, v)
        }""",
        {"w": weight(8, 3, 1, 1), "v": weight(5, 4, 1, 1), "s": np.array([4, 4])},
    ),
    "flatten": (
        """g (float[1,3,8,8] x) => (float[1,5] y) {
            a = Conv(x, w)  p = MaxPool<kernel_shape=[4,4],strides=[4,4]>(a)
            b = Flatten(p)  y = MatMul(b, v)
        }""",
        {"w": weight(6, 3, 1, 1), "v": weight(24, 5)},
    ),
    "padding": (
        """g (float[1,3,8,8] x) => (float[1,5,8,8] y) {
            a = Conv(x, w)  b = Pad(a, p)  c = Conv(x, u)  d = Add(b, c)  y = Conv(d, v)
        }""",
        {
            "w": weight(4, 3, 1, 1),
            "u": weight(7, 3, 1, 1),
            "v": weight(5, 7, 1, 1),
            "p": np.array([0, 1, 0, 0, 0, 2, 0, 0]),
        },
    ),
    "squeeze and excitation": (
        """g (float[1,3,8,8] x) => (float[1,5,8,8] y) {
            a = Conv(x, w)  m = GlobalAveragePool(a)  f = Conv(m, u)  r = Relu(f)
            h = Conv(r, t)  s = Sigmoid(h)  e = Mul(a, s)  y = Conv(e, v)
        }""",
        {
            "w": weight(8, 3, 1, 1),
            "u": weight(4, 8, 1, 1),
            "t": weight(8, 4, 1, 1),
            "v": weight(5, 8, 1, 1),
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_smaller_module_equals_masked_one(name: str) -> None:
    graph, weights = CASES[name]
    check_removal(imported(graph, **weights), weight(1, 3, 8, 8))


def test_attention_with_one_product_for_all() -> None:
    graph = """g (float[1,7,8] x) => (float[1,7,5] y) {
        f = MatMul(x, w)  s = Reshape(f, shape)  t = Transpose<perm=[2,0,3,1,4]>(s)
        q = Gather<axis=0>(t, zero)  k = Gather<axis=0>(t, one)  v = Gather<axis=0>(t, two)
        kt = Transpose<perm=[0,1,3,2]>(k)  p = MatMul(q, kt)  r = Softmax(p)  o = MatMul(r, v)
        ot = Transpose<perm=[0,2,1,3]>(o)  m = Reshape(ot, merged)  y = MatMul(m, wo)
    }"""
    numbers = {n: np.array(i) for i, n in enumerate(("zero", "one", "two"))}
    shapes = {"shape": np.array([1, 7, 3, 4, 2]), "merged": np.array([1, 7, 8])}
    mod = imported(graph, w=weight(8, 24), wo=weight(8, 5), **numbers, **shapes)
    small = check_removal(mod, weight(1, 7, 8))
    assert "(1, 7, 3, 2, 2)" in small.script()  # two heads of four


def test_nothing_removed_is_the_same_module() -> None:
    graph, weights = CASES["flatten"]
    mod = imported(graph, **weights)
    assert remove_channels(mod, dependencies(mod), []).same_as(mod)


@st.composite
def networks(draw: Any) -> tuple[str, dict[str, np.ndarray], int]:
    """Random chains of convolutions with skips, joins, gates and pools."""
    lines, weights, live = [], {}, [("x", 3)]
    for i in range(draw(st.integers(2, 7))):
        name, (source, width) = f"t{i}", draw(st.sampled_from(live))
        kind = draw(st.sampled_from(["conv", "conv", "depthwise", "add", "concat", "relu", "pad"]))
        partners = [n for n, c in live if c == width and n != source]
        if kind == "add" and partners:
            lines.append(f"{name} = Add({source}, {draw(st.sampled_from(partners))})")
        elif kind == "concat":
            other, more = draw(st.sampled_from(live))
            lines.append(f"{name} = Concat<axis=1>({source}, {other})")
            width += more
        elif kind == "depthwise":
            weights[f"w{i}"] = weight(width, 1, 3, 3)
            lines.append(f"{name} = Conv<group={width},pads=[1,1,1,1]>({source}, w{i})")
        elif kind == "relu":
            lines.append(f"{name} = Relu({source})")
        elif kind == "pad":
            weights[f"p{i}"] = np.array([0, 1, 0, 0, 0, 2, 0, 0])
            lines.append(f"{name} = Pad({source}, p{i})")
            width += 3
        else:
            out = draw(st.integers(2, 6))
            weights[f"w{i}"], width = weight(out, width, 1, 1), out
            lines.append(f"{name} = Conv({source}, w{i})")
        live.append((name, width))
    weights["w"] = weight(4, live[-1][1], 1, 1)
    lines.append(f"h = Relu({live[-1][0]})  first = Conv(h, w)  y = Conv(first, last)")
    weights["last"] = weight(5, 4, 1, 1)
    body = "  ".join(lines)
    graph = f"g (float[1,3,4,4] x) => (float[1,5,4,4] y) {{ {body} }}"
    return graph, weights, draw(st.integers(0, 99))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(networks())
def test_random_networks(network: tuple[str, dict[str, np.ndarray], int]) -> None:
    graph, weights, seed = network
    check_removal(imported(graph, **weights), weight(1, 3, 4, 4), seed)
