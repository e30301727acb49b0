"""Layers of transformers are divided among GPUs, and compute together what they did."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from builders import onnx_model
from ranks import joined
from tvm import IRModule, relax

import relaxc
from relaxc.emitting import write_probe
from relaxc.errors import OptionError
from relaxc.frontend.importer import from_onnx
from relaxc.passes.pipeline import graph_passes
from relaxc.passes.shard.shard_layers import ShardLayers
from relaxc.targets.registry import backend_for


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def feed_forward(up: np.ndarray, bias: np.ndarray, down: np.ndarray, ranks: int = 1) -> IRModule:
    """Two products with a bias each, and the sum over several GPUs behind them."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((3, 8), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            h = builder.emit(relax.op.matmul(x, relax.const(up)))
            h = builder.emit(relax.op.nn.relu(builder.emit(relax.op.add(h, relax.const(bias)))))
            y = builder.emit(relax.op.matmul(h, relax.const(down)))
            if ranks > 1:
                y = builder.emit(relax.op.ccl.allreduce(y, "sum", True))
            y = builder.emit_output(relax.op.add(y, relax.const(np.ones(8, np.float32))))
        builder.emit_func_output(y)
    return builder.get()


@pytest.mark.parametrize("rank", [0, 1])
def test_products_are_divided_by_columns_then_rows(golden, rank: int) -> None:
    up, bias, down = random(8, 12), random(12, seed=1), random(12, 8, seed=2)
    part = slice(rank * 6, rank * 6 + 6)
    expected = feed_forward(
        np.ascontiguousarray(up[:, part]), bias[part], np.ascontiguousarray(down[part]), ranks=2
    )
    before = feed_forward(up, bias, down)
    golden(ShardLayers(2, rank), before, expected, idempotent=False)


def decoder(heads: int = 4, groups: int = 2, hidden: int = 12, batch: int = 1):
    """A layer with grouped queries, caches in and out, a mask per head, and biases."""
    depth, words, past = 8, 3, 5
    width, every = heads * depth, past + words
    cache = f"float[{batch},{groups},{past},{depth}]"
    return onnx_model(
        f"""g (float[{batch},{words},{width}] x, {cache} k0, {cache} v0,
               float[1,{heads},1,{every}] slopes)
            => (float[{batch},{words},{width}] y, float[b,g,p,d] k1, float[b,g,p,d] v1) {{
            n = LayerNormalization<axis=-1,epsilon=1e-5>(x, scale, offset)
            q0 = MatMul(n, wq)  q1 = Add(q0, bq)  q2 = Reshape(q1, into_heads)
            q = Transpose<perm=[0,2,1,3]>(q2)
            a0 = MatMul(n, wk)  a1 = Reshape(a0, into_groups)  a = Transpose<perm=[0,2,1,3]>(a1)
            b0 = MatMul(n, wv)  b1 = Reshape(b0, into_groups)  b = Transpose<perm=[0,2,1,3]>(b1)
            k1 = Concat<axis=2>(k0, a)  v1 = Concat<axis=2>(v0, b)
            k2 = Unsqueeze(k1, two)  k3 = Expand(k2, repeated)  k = Reshape(k3, as_heads)
            v2 = Unsqueeze(v1, two)  v3 = Expand(v2, repeated)  v = Reshape(v3, as_heads)
            kt = Transpose<perm=[0,1,3,2]>(k)
            s0 = MatMul(q, kt)  s1 = Add(s0, slopes)  s = Softmax<axis=-1>(s1)
            o0 = MatMul(s, v)  o1 = Transpose<perm=[0,2,1,3]>(o0)  o2 = Reshape(o1, joined)
            o3 = MatMul(o2, wo)  o4 = Add(o3, bo)  h = Add(o4, x)
            g0 = MatMul(h, wg)  g1 = Sigmoid(g0)  g2 = Mul(g0, g1)  u = MatMul(h, wu)
            m = Mul(g2, u)  e = MatMul(m, wd)  y = Add(e, h)
        }}""",
        into_heads=np.array([batch, words, heads, depth]),
        into_groups=np.array([batch, words, groups, depth]),
        repeated=np.array([batch, groups, heads // groups, every, depth]),
        as_heads=np.array([batch, heads, every, depth]),
        joined=np.array([batch, words, width]),
        two=np.array([2]),
        scale=random(width) / 4 + 1,
        offset=random(width, seed=1) / 4,
        wq=random(width, width, seed=2) / 8,
        bq=random(width, seed=3),
        wk=random(width, groups * depth, seed=4) / 8,
        wv=random(width, groups * depth, seed=5) / 8,
        wo=random(width, width, seed=6) / 8,
        bo=random(width, seed=7),
        wg=random(width, hidden, seed=8) / 8,
        wu=random(width, hidden, seed=9) / 8,
        wd=random(hidden, width, seed=10) / 8,
    )


def canonical(model) -> IRModule:
    mod = from_onnx(model).mod
    for item in graph_passes():
        mod = item.apply(mod)
    return mod


@pytest.mark.parametrize("batch", [1, 2])
def test_same_numbers(tmp_path: Path, batch: int) -> None:
    model = decoder(batch=batch)
    whole = canonical(model)
    imported = replace(from_onnx(model), mod=joined(whole, 2))
    path = tmp_path / "joined.rxc"
    write_probe(path, imported, backend_for("llvm"))
    feed = {"x": random(batch, 3, 32, seed=20), "slopes": random(1, 4, 1, 8, seed=21)}
    feed |= {n: random(batch, 2, 5, 8, seed=22 + i) for i, n in enumerate(("k0", "v0"))}
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)
    for actual, wanted in zip(relaxc.load(path).run(feed).values(), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-5)


def test_caches_are_divided_by_heads() -> None:
    part = ShardLayers(2, 0).apply(canonical(decoder()))["main"]
    shapes = [[int(d) for d in p.ty.shape.values] for p in part.params]
    assert shapes == [[1, 3, 32], [1, 1, 5, 8], [1, 1, 5, 8], [1, 2, 1, 8]]
    results = [[int(d) for d in field.shape.values] for field in part.ret_ty.fields]
    assert results == [[1, 3, 32], [1, 1, 8, 8], [1, 1, 8, 8]]


def test_heads_that_are_no_multiple() -> None:
    mod = canonical(decoder(heads=3, groups=3))
    with pytest.raises(OptionError, match=r"the attention of `s` .* among 2 GPUs: 3 heads are no"):
        ShardLayers(2, 0).apply(mod)


def test_too_few_heads_of_keys() -> None:
    with pytest.raises(OptionError, match=r"the attention of `s` cannot be divided among 4 GPUs"):
        ShardLayers(4, 0).apply(canonical(decoder()))


def test_what_is_needed_whole_stays_whole() -> None:
    model = onnx_model(
        """g (float[3,8] x) => (float[3,8] y) {
            a = MatMul(x, w)  b = Softmax<axis=-1>(a)  y = Add(b, x)
        }""",
        w=random(8, 8),
    )
    with pytest.raises(
        OptionError,
        match="nothing in this model .* 2 GPUs .*: `nn.softmax` works along the divided",
    ):
        ShardLayers(2, 0).apply(canonical(model))


def test_nothing_to_divide() -> None:
    model = onnx_model("g (float[3,8] x) => (float[3,8] y) { y = Relu(x) }")
    with pytest.raises(OptionError, match="nothing in this model can be divided among 2 GPUs"):
        ShardLayers(2, 0).apply(canonical(model))


def test_open_dimensions() -> None:
    model = onnx_model(
        "g (float[n,8] x) => (float[n,8] y) { a = MatMul(x, w) y = MatMul(a, w) }", w=random(8, 8)
    )
    with pytest.raises(OptionError, match=r"`x` has dimensions that are open.*`--input-shapes`"):
        ShardLayers(2, 0).apply(canonical(model))
