"""Which channels are found to depend on one another."""

from __future__ import annotations

import numpy as np
from builders import onnx_model

from relaxc.frontend.importer import from_onnx
from relaxc.passes.prune.dependency import Group, dependencies

RNG = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def groups(graph: str, **weights: np.ndarray) -> dict[str, Group]:
    found = dependencies(from_onnx(onnx_model(graph, 18, **weights)).mod).groups
    return {group.name: group for group in found}


def sizes(graph: str, **weights: np.ndarray) -> list[int]:
    return sorted(len(group.channels) for group in groups(graph, **weights).values())


def test_channels_between_two_convolutions_are_a_group() -> None:
    found = groups(
        """g (float[1,3,8,8] x) => (float[1,5,8,8] y) {
            a = Conv(x, w)  b = Relu(a)  y = Conv(b, v)
        }""",
        w=weight(6, 3, 1, 1),
        v=weight(5, 6, 1, 1),
    )
    assert [len(g.channels) for g in found.values()] == [6]
    assert next(iter(found.values())).nodes == ("a", "y")


def test_a_residual_add_couples_its_branches() -> None:
    graph = """g (float[1,3,8,8] x) => (float[1,5,8,8] y) {
        a = Conv(x, w)  b = Conv(a, u)  c = Add(a, b)  y = Conv(c, v)
    }"""
    found = groups(graph, w=weight(6, 3, 1, 1), u=weight(6, 6, 1, 1), v=weight(5, 6, 1, 1))
    assert [set(g.nodes) for g in found.values()] == [{"a", "b", "y"}]


def test_concatenated_channels_stay_apart() -> None:
    graph = """g (float[1,3,8,8] x) => (float[1,5,8,8] y) {
        a = Conv(x, w)  b = Conv(x, u)  c = Concat<axis=1>(a, b)  y = Conv(c, v)
    }"""
    w, u, v = weight(6, 3, 1, 1), weight(4, 3, 1, 1), weight(5, 10, 1, 1)
    assert sizes(graph, w=w, u=u, v=v) == [4, 6]


def test_groups_of_a_grouped_convolution_go_as_a_whole() -> None:
    graph = """g (float[1,3,8,8] x) => (float[1,5,8,8] y) {
        a = Conv(x, w)  b = Conv<group=4>(a, u)  y = Conv(b, v)
    }"""
    w, u, v = weight(8, 3, 1, 1), weight(12, 2, 1, 1), weight(5, 12, 1, 1)
    (group,) = groups(graph, w=w, u=u, v=v).values()
    assert (len(group.channels), group.width) == (4, 2)


def test_flattened_channels_take_all_their_columns() -> None:
    graph = """g (float[1,3,2,2] x) => (float[1,5] y) {
        a = Conv(x, w)  b = Flatten(a)  y = MatMul(b, v)
    }"""
    assert sizes(graph, w=weight(6, 3, 1, 1), v=weight(24, 5)) == [6]


ATTENTION = """g (float[1,7,8] x, int64[4] split, int64[3] merge) => (float[1,7,5] y) {
    q = MatMul(x, wq)  q4 = Reshape(q, s)  qt = Transpose<perm=[0,2,1,3]>(q4)
    k = MatMul(x, wk)  k4 = Reshape(k, s)  kt = Transpose<perm=[0,2,3,1]>(k4)
    v = MatMul(x, wv)  v4 = Reshape(v, s)  vt = Transpose<perm=[0,2,1,3]>(v4)
    p = MatMul(qt, kt)  r = Softmax(p)  o = MatMul(r, vt)
    ot = Transpose<perm=[0,2,1,3]>(o)  o3 = Reshape(ot, m)  y = MatMul(o3, wo)
}"""


def test_attention_loses_heads() -> None:
    weights = {n: weight(8, 12) for n in ("wq", "wk", "wv")} | {"wo": weight(12, 5)}
    shapes = {"s": np.array([1, 7, 3, 4]), "m": np.array([1, 7, 12])}
    graph = ATTENTION.replace(", int64[4] split, int64[3] merge", "")
    (group,) = groups(graph, **weights, **shapes).values()
    assert (len(group.channels), group.width) == (3, 4)
    assert set(group.nodes) == {"q", "k", "v", "y"}


def test_what_is_normalized_over_stays() -> None:
    graph = """g (float[2,4] x) => (float[2,5] y) {
        a = MatMul(x, w)  b = LayerNormalization(a, s)  y = MatMul(b, v)
    }"""
    assert sizes(graph, w=weight(4, 6), v=weight(6, 5), s=np.ones(6, np.float32)) == []


def test_outputs_and_inputs_stay() -> None:
    graph = "g (float[2,4] x) => (float[2,6] y) { y = MatMul(x, w) }"
    assert sizes(graph, w=weight(4, 6)) == []


def test_what_an_unknown_operator_reads_stays() -> None:
    graph = """g (float[2,4] x) => (float[2,5] y) {
        a = MatMul(x, w)  b = Hardmax<axis=0>(a)  y = MatMul(b, v)
    }"""
    assert sizes(graph, w=weight(4, 6), v=weight(6, 5)) == []


def test_padding_adds_channels_that_can_go() -> None:
    graph = """g (float[1,3,4,4] x) => (float[1,5,4,4] y) {
        a = Conv(x, w)  b = Pad(a, p)  c = Conv(x, u)  d = Add(b, c)  y = Conv(d, v)
    }"""
    pads = np.array([0, 1, 0, 0, 0, 2, 0, 0])
    w, u, v = weight(4, 3, 1, 1), weight(7, 3, 1, 1), weight(5, 7, 1, 1)
    assert sizes(graph, w=w, u=u, v=v, p=pads) == [3, 4]
