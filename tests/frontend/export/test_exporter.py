"""Relax back to ONNX: the same numbers, under the same names, or a node's name in an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import onnx_model
from conftest import MODELS
from fuzz.cases import random_case
from fuzz.graphs import run_reference
from fuzz.judge import difference
from tvm import IRModule, relax

from relaxc.errors import ModelError
from relaxc.frontend.export.exporter import to_onnx
from relaxc.frontend.importer import from_onnx
from relaxc.options import Diagnostics
from relaxc.pass_runner import PassRunner
from relaxc.passes.blocks import rewrite_main
from relaxc.passes.pipeline import graph_passes

RNG = np.random.default_rng(0)


def exported(model: onnx.ModelProto | Path) -> onnx.ModelProto:
    imported = from_onnx(model, keeps_source=True)
    mod = PassRunner(Diagnostics()).run(graph_passes(), imported.mod)
    result = to_onnx(imported, mod, mod)
    onnx.checker.check_model(result, full_check=True)
    return result


def outputs(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed)))


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


CASES = {
    "batch norm": """g (float[n,3,8,8] x) => (float[n,4,4,4] y) {
        c = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w)
        b = BatchNormalization(c, scale, bias, mean, var) y = Relu(b) }""",
    "symbols": """g (float[n,m,6] x) => (float[n,k] y, float[n,m,2,3] z, float[m,12] t) {
        s = Shape(x)  first = Gather(s, zero)  rows = Unsqueeze(first, axes)
        flat = Concat<axis=0>(rows, minus)  y = Reshape(x, flat)  z = Reshape(x, split)
        p = Transpose<perm=[1,0,2]>(x)  q = ReduceMean<axes=[1], keepdims=0>(p)
        t = Concat<axis=1>(q, q) }""",
    "attention": """g (float[n,t,6] x) => (float[n,t,6] y) {
        q = MatMul(x, u)  r = Reshape(q, heads)  a = Transpose<perm=[0,2,1,3]>(r)
        b = Transpose<perm=[0,2,3,1]>(r)  c = MatMul(a, b)  d = Softmax<axis=-1>(c)
        e = MatMul(d, a)  f = Transpose<perm=[0,2,1,3]>(e)  h = Reshape(f, joined)
        y = LayerNormalization<axis=-1>(h, gamma, beta) }""",
    "table": """g (int64[n] x) => (float[n,6] y) { y = Gather(u, x) }""",
    "whole nodes": """g (float[1,3,8,8] x) => (float[1,3,12,12] y, float[1,3,8,8] z) {
        y = Resize<mode="linear">(x, , scales)  z = CumSum(x, two) }""",
    "pieces": """g (float[2,6] x) => (float[2,2] a, float[2,2] c, float[2,6] x2) {
        a, b, c = Split<axis=1>(x)  x2 = Identity(x) }""",
    "gates": """g (float[n,3,4,4] x) => (float[n,3,4,4] y) {
        a = GlobalAveragePool(x)  b = Clip(a, low, high)  c = Mul(x, b)
        d = Pad(c, pads)  e = MaxPool<kernel_shape=[3,3]>(d)  f = Erf(e)  h = Sigmoid(f)
        i = HardSwish(h)  y = Where(mask, i, f) }""",
}
WEIGHTS = {
    "w": random(4, 3, 3, 3),
    **{name: random(4) for name in ("scale", "bias", "mean")},
    "var": np.abs(random(4)) + 0.5,
    "u": random(6, 6),
    **{name: random(6) for name in ("gamma", "beta")},
    **{name: np.array(n, np.int64) for name, n in (("zero", 0), ("two", 2))},
    **{name: np.array([n], np.int64) for name, n in (("axes", 0), ("minus", -1))},
    "split": np.array([0, 0, 2, 3], np.int64),
    "heads": np.array([0, 0, 2, 3], np.int64),
    "joined": np.array([0, 0, 6], np.int64),
    "scales": np.array([1, 1, 1.5, 1.5], np.float32),
    **{name: np.array(n, np.float32) for name, n in (("low", -0.5), ("high", 0.5))},
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
    "mask": np.array([True, False, True, True]),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_numbers_under_the_same_names(name: str) -> None:
    used = {n: a for n, a in WEIGHTS.items() if f"{n})" in CASES[name] or f"{n}," in CASES[name]}
    model = onnx_model(CASES[name], 17, **used)
    sizes = {"n": 2, "m": 5, "t": 4}
    feed = {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        shape = [sizes.get(d.dim_param, d.dim_value) for d in dims]
        is_index = value.type.tensor_type.elem_type == onnx.TensorProto.INT64
        feed[value.name] = np.array([3, -1]) if is_index else random(*shape)
    wanted, found = outputs(model, feed), outputs(exported(model), feed)
    assert list(found) == list(wanted)
    for key, array in wanted.items():
        np.testing.assert_allclose(found[key], array, rtol=1e-4, atol=1e-5)


def test_names_of_nodes_and_biases() -> None:
    model = onnx_model(CASES["batch norm"], 17, **{n: WEIGHTS[n] for n in list(WEIGHTS)[:5]})
    result = exported(model)
    (conv, relu) = result.graph.node
    assert (conv.op_type, conv.name, relu.op_type) == ("Conv", "c", "Relu")
    assert list(conv.input) == ["x", "c.weight", "c.bias"]
    assert [d.dim_param for d in result.graph.input[0].type.tensor_type.shape.dim][0] == "n"


@pytest.mark.parametrize(
    "path", ["mnist_cnn/mnist.onnx", "resnet_cifar/resnet20_cifar10.onnx"], ids=["mnist", "resnet"]
)
def test_a_trained_model(path: str) -> None:
    model = onnx.load(MODELS / path)
    value = model.graph.input[0]
    shape = [d.dim_value or 2 for d in value.type.tensor_type.shape.dim]
    feed = {value.name: random(*shape)}
    for a, b in zip(outputs(model, feed).values(), outputs(exported(model), feed).values()):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-3 * float(np.abs(a).max()))


def test_a_changed_node_without_counterpart_is_named() -> None:
    text = """g (float[2,1,3] x) => (float[2,1,1,4] y) {
        [layer] y, h, c = LSTM<hidden_size=4>(x, w, r, b) }"""
    weights = {"w": random(1, 16, 3), "r": random(1, 16, 4), "b": random(1, 32)}
    model = onnx_model(text, 17, **weights)
    imported = from_onnx(model, keeps_source=True)
    whole = to_onnx(imported, imported.mod, imported.mod)
    feed = {"x": random(2, 1, 3)}
    np.testing.assert_allclose(outputs(whole, feed)["y"], outputs(model, feed)["y"], rtol=1e-5)
    with pytest.raises(ModelError, match="node `layer` cannot be written as ONNX: its weights"):
        to_onnx(imported, imported.mod, _subtracted(imported.mod))


def _subtracted(mod: IRModule) -> IRModule:
    """Subtracts twice what is added."""

    def rewrite(block: relax.BindingBlock) -> list[relax.Binding]:
        return [
            relax.VarBinding(b.var, relax.op.subtract(b.value.args[0], _twice(b.value.args[1])))
            if getattr(getattr(b.value, "op", None), "name", "") == "relax.add"
            else b
            for b in block.bindings
        ]

    return rewrite_main(relax.BlockBuilder(mod), rewrite)


def _twice(weight: relax.Expr) -> relax.Expr:
    return relax.const(weight.value.numpy() * 2)


@pytest.mark.long
def test_random_graphs() -> None:
    count = 0
    for seed in range(200):
        model, feeds = random_case(seed)
        try:
            result = exported(model)
        except ModelError:
            continue
        for feed in feeds:
            if any(array.size == 0 for array in feed.values()):
                continue
            for a, b in zip(run_reference(result, feed), run_reference(model, feed), strict=True):
                assert not difference(np.asarray(a), np.asarray(b)), seed
        count += 1
    assert count > 150
