"""What the fuzzer found: empty tensors, symbols that turn out to be 1, unsigned numbers."""

from __future__ import annotations

import numpy as np
import pytest
from builders import onnx_model
from fuzz.judge import Feeds, judge


def numbers(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(np.float32)


def indices(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


BYTES = np.arange(3, dtype=np.uint8)

CASES: dict[str, tuple[str, list[Feeds], dict[str, np.ndarray]]] = {
    "a symbol expands to what its axis must have": (
        "g (float[n,7,1] x) => (float[a,b,c,d] y) { y = Expand(x, s) }",
        [{"x": numbers(2, 7, 1)}, {"x": numbers(1, 7, 1)}],
        {"s": indices(2, 2, 7, 2)},
    ),
    "a transposed vector and a constant of more axes": (
        "g (float[n] x) => (float[a,b] y) { t = Transpose<perm=[0]>(x) y = Add(t, c) }",
        [{"x": numbers(2)}],
        {"c": numbers(2, 1)},
    ),
    "no indices, of several empty axes": (
        "g (float[3,n,n,k] x) => (float[a,b,c,d] y) { y = GatherElements<axis=2>(x, c) }",
        [{"x": numbers(3, 2, 2, 4)}],
        {"c": np.zeros((0, 0, 1, 2), np.int64)},
    ),
    "booleans that equal a constant": (
        "g (float[n,5] x) => (bool[a,b] y) { t = Greater(x, c) y = Equal(t, no) }",
        [{"x": numbers(2, 5)}],
        {"c": np.array(3, np.float32), "no": np.array(False)},
    ),
    "the mean of nothing": (
        "g (float[0,n,0] x) => (float[a,b,c] y) { y = GlobalAveragePool(x) }",
        [{"x": numbers(0, 3, 0)}],
        {},
    ),
    "a mean beside a symbol whose size is asked for": (
        "g (float[n,m] x) => (float[k] a, float[b,c] y) {"
        ' a = ReduceMean<keepdims=0>(x, one) y = Pad<mode = "reflect">(x, pads, ) }',
        [{"x": numbers(3, 4)}, {"x": numbers(2, 6)}],
        {"one": indices(1), "pads": indices(1, 0, 0, 1)},
    ),
    "a mean beside axes that the model is given": (
        "g (float[n,m] x, int64[2] axes) => (float[k] a, float[b,c] y) {"
        " a = ReduceMean<keepdims=0>(x, one) y = Pad(x, pads, , axes) }",
        [{"x": numbers(3, 4), "axes": indices(0, 1)}, {"x": numbers(2, 6), "axes": indices(1, 0)}],
        {"one": indices(1), "pads": indices(1, 0, 0, 1)},
    ),
    "an empty part of computed size, padded and cropped": (
        "g (float[n,5,m] x) => (float[a,b,c] y) {"
        " t = Slice(x, from, to, along, step) u = Sigmoid(t) y = Pad(u, pads, ) }",
        [{"x": numbers(3, 5, 4)}, {"x": numbers(1, 5, 7)}],
        {
            "from": indices(-2, 0, -1),
            "to": indices(-1, -2, 3),
            "along": indices(2, 1, 0),
            "step": indices(1, -1, 1),
            "pads": indices(0, 2, -1, 1, 1, 2),
        },
    ),
    "a product of no columns": (
        "g (float[n,4] x) => (float[a,b] y) { y = MatMul(x, c) }",
        [{"x": numbers(2, 4)}],
        {"c": numbers(4, 0)},
    ),
    "a product over nothing": (
        "g (float[n,0] x) => (float[a,b] y) { y = MatMul(x, c) }",
        [{"x": numbers(2, 0)}],
        {"c": numbers(0, 16)},
    ),
    "a sum along an axis of several symbols": (
        "g (float[1,m,m,k] x) => (float[a,b,c,d] y) { y = CumSum(x, c) }",
        [{"x": numbers(1, 7, 7, 3)}],
        {"c": np.array(-4, np.int64)},
    ),
    "the sign of unsigned numbers": (
        "g (uint8[3] x) => (uint8[3] y) { y = Sign(x) }",
        [{"x": BYTES}],
        {},
    ),
    "the mean of integers, toward zero": (
        "g (int64[3,2] x) => (int64[a] y) { y = ReduceMean<keepdims=0>(x, i) }",
        [{"x": np.array([[-3, 2], [-2, 3], [0, 1]], np.int64)}],
        {"i": indices(0)},
    ),
    "functions that halves lack": (
        "g (float16[3] x) => (float16[3] y) { a = Asinh(x) b = Atan(a) y = Cosh(b) }",
        [{"x": BYTES.astype(np.float16)}],
        {},
    ),
    "nothing to scatter": (
        "g (float[2,m] x) => (float[a,b] y) { y = ScatterElements(x, i, u) }",
        [{"x": numbers(2, 5)}],
        {"i": np.zeros((2, 0), np.int64), "u": numbers(2, 0)},
    ),
    "a scatter to a part of the data": (
        "g (float[4,3,k] x) => (float[a,b,c] y) { y = ScatterElements<axis=0>(x, i, u) }",
        [{"x": numbers(4, 3, 5)}],
        {"i": np.array([[[-1, 2]]]), "u": -numbers(1, 1, 2)},
    ),
    "nothing, flattened": (
        "g (float[2,0,3,n] x) => (float[a,b] y) { y = Flatten<axis=2>(x) }",
        [{"x": numbers(2, 0, 3, 4)}],
        {},
    ),
    "negative numbers as bytes": (
        "g (float[4] x) => (uint8[4] y) { b = Cast<to=2>(x) y = Div(b, c) }",
        [{"x": -numbers(4)}],
        {"c": np.array(5, np.uint8)},
    ),
    "nothing, squeezed": (
        "g (float[n,1,0,5] x) => (float[a,b,c] y) { y = Squeeze(x, i) }",
        [{"x": numbers(2, 1, 0, 5)}],
        {"i": indices(1)},
    ),
    "a quotient of a negative size": (
        """g (float[n] x) => (int64[a] y, int64[b] z)
        { s = Shape(x) m = Neg(s) y = Div(m, c) z = Mod<fmod=1>(m, c) }""",
        [{"x": numbers(3)}, {"x": numbers(4)}],
        {"c": indices(2)},
    ),
    "a computed size of 0 stands for what was there": (
        """g (float[n] x) => (float[a,b] y)
        { p = Slice(x, i, j) s = Shape(p) t = Concat<axis=0>(s, k) y = Reshape(x, t) }""",
        [{"x": numbers(5)}, {"x": numbers(3)}],
        {"i": indices(-3), "j": indices(1), "k": indices(-1)},
    ),
    "two roundings, of which the first clips": (
        """g (float[n,3] x) => (float[a,b] y)
        { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) r = QuantizeLinear(d, s, w)
          e = DequantizeLinear(r, s, w) y = LayerNormalization(e, v) }""",
        [{"x": numbers(4, 3) - 6}],
        {
            "s": np.array(1, np.float32),
            "z": np.array(0, np.uint8),
            "w": np.array(3, np.int8),
            "v": numbers(3),
        },
    ),
    "a computed size beside a quantization": (
        """g (float[n,3] x, int64[1] k) => (float[a] y, float[b,c] z)
        { y = ConstantOfShape(k) q = QuantizeLinear(x, s, o) z = DequantizeLinear(q, s, o) }""",
        [{"x": numbers(4, 3), "k": indices(5)}],
        {"s": np.array(1, np.float32), "o": np.array(0, np.uint8)},
    ),
    "a product of as many rows as two symbols make": (
        "g (float[n,m,2,4] x) => (float[a,b] y) { r = Reshape(x, i) y = MatMul(r, c) }",
        [{"x": numbers(3, 2, 2, 4)}],
        {"i": indices(-1, 4), "c": numbers(4, 8)},
    ),
    "a product of expressions of symbols on both sides": (
        """g (float[n,2,4] x, float[m,2,4] z) => (float[a,b] y)
        { r = Reshape(x, i) t = Reshape(z, i) u = Transpose<perm=[1,0]>(t) y = MatMul(r, u) }""",
        [{"x": numbers(3, 2, 4), "z": numbers(2, 2, 4)}],
        {"i": indices(-1, 4)},
    ),
    "a reduction over a symbol of size 0": (
        "g (float[n,3] x) => (float[a] y) { y = ReduceSum<keepdims=0>(x, i) }",
        [{"x": numbers(0, 3)}, {"x": numbers(2, 3)}],
        {"i": indices(0)},
    ),
    "a norm of symbols whose scale is of numbers, in both precisions": (
        """g (float[n,m] x) => (float[a,b] y, double[c,d] z)
        { y = LayerNormalization(x, s, s) w = Cast<to=11>(x) z = LayerNormalization(w, t) }""",
        [{"x": numbers(3, 4)}],
        {"s": numbers(4), "t": numbers(4).astype(np.float64)},
    ),
    "the first maximum along a symbol": (
        "g (float[n,m] x) => (float[a,b] y) { y = Hardmax<axis=0>(x) }",
        [{"x": numbers(3, 4)}],
        {},
    ),
    "products of batches of which either may be 1": (
        "g (float[n,m,k] x, float[p,q,r] z) => (float[a,b,c] y) { y = MatMul(x, z) }",
        [{"x": numbers(n, 2, 4), "z": numbers(p, 4, 3)} for n, p in ((3, 1), (1, 3), (2, 2))],
        {},
    ),
    "a slope that says how large a symbol is, of a group's result": (
        """g (float[m,3,n] x) => (float[a,b,c] y, float[d,e] z)
        { t = Erf(x) y = PRelu(t, s) z = ReduceMax<keepdims=0>(t, i) }""",
        [{"x": numbers(2, 3, 4) - 12}],
        {"s": numbers(4), "i": indices(2)},
    ),
    "roots and logarithms of integers": (
        """g (int64[n,m] x) => (int64[a,b] y, int64[c] z, int64[d,e] u, int64[f,g] v)
        { y = ReduceL2(x, i) z = ReduceLogSum<keepdims=0>(x, i) u = ReduceLogSumExp(x, i)
          v = ReduceMean(x, i) }""",
        [{"x": numbers(3, 4).astype(np.int64)}],
        {"i": indices(1)},
    ),
    "norms of as many channels as their constants have, and blocks of symbols": (
        """g (float[n,c,h,w] x) => (float[a,b,d,e] y, float[f,g,i,j] z, float[k,l,m,o] u)
        { y = BatchNormalization(x, s, s, s, s) z = InstanceNormalization(x, s, s)
          u = SpaceToDepth<blocksize=2>(x) }""",
        [{"x": numbers(2, 3, 4, 2)}],
        {"s": numbers(3) + 1},
    ),
    "many exponentials in a row": (
        """g (float[n,16] x) => (float[a,b] y)
        { q = Mul(x, w) r = Softplus(q) s = Softplus(r) t = Softplus(s) y = Softplus(t) }""",
        [{"x": numbers(2, 16) / 16}],
        {"w": numbers(1, 16)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_edge(name: str) -> None:
    graph, feeds, weights = CASES[name]
    verdict = judge(onnx_model(graph, 18, **weights), feeds)
    assert verdict.status == "passed", verdict.detail
