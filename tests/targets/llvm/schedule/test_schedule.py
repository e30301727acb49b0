"""Scheduled loop nests compute what ONNX Runtime does, whatever the shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime
import pytest
from builders import onnx_model
from kernels import TARGETS, BuiltModel

RNG = np.random.default_rng(0)


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def check(
    graph: str,
    feeds: Sequence[Mapping[str, np.ndarray]],
    weights: Mapping[str, np.ndarray],
    target: str = "llvm",
    opset: int = 18,
) -> None:
    model = onnx_model(graph, opset, **weights)
    for output in model.graph.output:  # ranks follow from the inputs
        output.type.tensor_type.ClearField("shape")
    session = onnxruntime.InferenceSession(model.SerializeToString())
    built = BuiltModel(model, target)
    assert built.schedules and not any(s.startswith("none") for s in built.schedules)
    for feed in feeds:
        for actual, expected in zip(built.run(feed), session.run(None, dict(feed)), strict=True):
            assert actual.shape == expected.shape and actual.dtype == expected.dtype
            limit = 2e-5 * max(float(np.abs(expected).max(initial=0)), 1e-6)
            np.testing.assert_allclose(actual, expected, rtol=0, atol=limit)


# Shorter than a vector, between vectors, above the grain of threads.
MATRICES = [(1, 1), (3, 5), (7, 16), (17, 33), (40, 77), (130, 300)]

SYMBOLIC = {
    "transpose": "g (float[n,m] x) => (float[m,n] y) { y = Transpose <perm=[1,0]> (x) }",
    "elementwise": """g (float[n,m] x) => (float[n,m] y) {
        a = Erf(x)  b = Tanh(a)  c = Sigmoid(b)  d = Exp(c)  e = Log(d)  y = Mul(e, x) }""",
    "sum of rows": "g (float[n,m] x) => (float[n] y) { y = ReduceSum <keepdims=0> (x, axis1) }",
    "mean of columns": "g (float[n,m] x) => (float[1,m] y) { y = ReduceMean (x, axis0) }",
    "sum of all": "g (float[n,m] x) => (float y) { y = ReduceSum <keepdims=0> (x) }",
    "product": "g (float[n,m] x) => (float[n,1] y) { y = ReduceProd (x, axis1) }",
    "extremes": """g (float[n,m] x) => (float[n,1] y, float[1,m] z) {
        y = ReduceMax (x, axis1)  z = ReduceMin (x, axis0) }""",
    "argmax": """g (float[n,m] x) => (int64[n,1] y, int64[1,m] z) {
        y = ArgMax <axis=1> (x)  z = ArgMin <axis=0> (x) }""",
    "softmax": "g (float[n,m] x) => (float[n,m] y) { y = Softmax (x) }",
    "softmax of columns": "g (float[n,m] x) => (float[n,m] y) { y = Softmax <axis=0> (x) }",
    "log softmax": "g (float[n,m] x) => (float[n,m] y) { y = LogSoftmax (x) }",
    "gram": """g (float[n,m] x) => (float[n,n] y, float[m,m] z) {
        t = Transpose <perm=[1,0]> (x)  y = MatMul (x, t)  z = MatMul (t, x) }""",
    "concat": "g (float[n,m] x) => (float[n,k] y) { y = Concat <axis=1> (x, x, x) }",
    "pad": 'g (float[n,m] x) => (float[p,q] y) { y = Pad <mode="edge"> (x, pads) }',
    "gather": "g (float[n,m] x) => (float[n,3] y) { y = Gather <axis=1> (x, zeros) }",
}


# Vectors of another width take other paths only where tails and register tiles are.
CASES = [(name, TARGETS[0]) for name in SYMBOLIC]
CASES += [(name, TARGETS[1]) for name in ("transpose", "sum of rows", "mean of columns", "gram")]


@pytest.mark.parametrize(("name", "target"), CASES)
def test_symbolic(name: str, target: str) -> None:
    weights = {
        "axis0": np.array([0]),
        "axis1": np.array([1]),
        "pads": np.array([1, 2, 3, 0]),
        "zeros": np.array([0, 0, 0]),
    }
    used = {k: v for k, v in weights.items() if k in SYMBOLIC[name]}
    check(SYMBOLIC[name], [{"x": random(*shape)} for shape in MATRICES], used, target)


STATIC = {
    "transpose": ((2, 19, 5, 33), "y = Transpose <perm=[0,3,1,2]> (x)"),
    "depth to space": ((1, 12, 7, 9), "y = DepthToSpace <blocksize=2> (x)"),
    "sum of a middle axis": ((3, 40, 37), "y = ReduceSum (x, one)"),
    "mean of two axes": ((3, 5, 20, 21), "y = ReduceMean (x, three)"),
    "sum of short rows": ((50, 3), "y = ReduceSum (x, one)"),
    "softmax of channels": ((2, 21, 13, 17), "y = Softmax <axis=1> (x)"),
    "group norm": ((2, 12, 9, 11), "y = GroupNormalization <num_groups=3> (x, s12, b12)"),
    "instance norm": ((2, 12, 17, 19), "y = InstanceNormalization (x, s12, b12)"),
    "rows by rows": ((4, 37, 45), 'y = Einsum <equation="bid,bjd->bij"> (x, x)'),
    "outer product": ((37, 45), 'y = Einsum <equation="ij,kl->ijkl"> (x, small)'),
    "local response": ((1, 12, 9, 11), "y = LRN <size=5> (x)"),
    "nearest": ((1, 3, 7, 8), 'y = Resize <mode="nearest"> (x, , scales)'),
    "linear": ((1, 3, 7, 8), 'y = Resize <mode="linear"> (x, , scales)'),
    "cubic": ((1, 3, 7, 8), 'y = Resize <mode="cubic"> (x, , scales)'),
}


@pytest.mark.parametrize("name", STATIC)
def test_static(name: str) -> None:
    shape, body = STATIC[name]
    weights = {
        "one": np.array([1]),
        "three": np.array([0, 2]),
        "s12": random(12),
        "b12": random(12),
        "small": random(5, 6),
        "scales": np.array([1, 1, 2, 2.5], np.float32),
    }
    used = {k: v for k, v in weights.items() if k in body}
    dims = ",".join(map(str, shape))
    graph = f"g (float[{dims}] x) => (float y) {{ {body} }}"
    # With vectors of 16, Resize is a kernel.
    target = TARGETS["Resize" in body]
    check(graph, [{"x": random(*shape)}], used, target, 21 if "Group" in body else 18)


def test_convolution_of_open_size() -> None:
    graph = """g (float[n,3,h,w] x) => (float[n,9,p,q] y) {
        a = Conv <pads=[1,1,1,1]> (x, k, b)  y = Relu (a) }"""
    feeds = [{"x": random(n, 3, h, w)} for n, h, w in ((1, 3, 3), (2, 7, 20), (1, 40, 50))]
    check(graph, feeds, {"k": random(9, 3, 3, 3), "b": random(9)})


def test_products_of_open_size() -> None:
    graph = "g (float[b,n,k] x, float[b,k,m] z) => (float[b,n,m] y) { y = MatMul (x, z) }"
    shapes = [(1, 1, 1, 1), (2, 3, 40, 5), (1, 9, 7, 16), (3, 40, 33, 70), (2, 129, 64, 95)]
    check(graph, [{"x": random(b, n, k), "z": random(b, k, m)} for b, n, k, m in shapes], {})
