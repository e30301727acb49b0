"""Products whose columns are taken apart become several."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

import numpy as np
import pytest
from tvm import IRModule, relax

from relaxc.passes.shard.shard_layers import ShardLayers
from relaxc.passes.shard.split_products import SplitProducts

PARTS = ((0, 8), (8, 12), (12, 24))


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


W, B = random(6, 24), random(24, seed=1)


def projections(*, split: bool, spans=PARTS, also_read: bool = False) -> IRModule:
    """A product with a bias, reshaped and cut; or as many products."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((3, 6), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():

            def columns(start: int, stop: int) -> relax.Expr:
                w, b = (relax.const(np.ascontiguousarray(a[..., start:stop])) for a in (W, B))
                y = builder.emit(relax.op.add(builder.emit(relax.op.matmul(x, w)), b))
                return builder.emit(relax.op.reshape(y, (1, 3, stop - start)))

            if split:
                parts = [columns(*span) for span in spans]
            else:
                whole = columns(0, 24)
                parts = [
                    builder.emit(relax.op.strided_slice(whole, [2], [start], [stop]))
                    for start, stop in spans
                ]
            if also_read:
                parts.append(builder.emit(relax.op.nn.relu(whole)))
            total = builder.emit_output(relax.op.concat(parts, 2))
        builder.emit_func_output(total)
    return builder.get()


def test_a_product_per_slice(golden) -> None:
    golden(SplitProducts(), projections(split=False), projections(split=True))


def test_same_numbers(execute) -> None:
    before = projections(split=False)
    x = random(3, 6, seed=2)
    after = SplitProducts().apply(before)
    np.testing.assert_allclose(execute(after, x), execute(before, x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "kept",
    [
        projections(split=False, spans=((0, 8), (4, 24))),
        projections(split=False, spans=((0, 24),)),
        projections(split=False, also_read=True),
    ],
    ids=["overlaps", "one slice", "read as a whole"],
)
def test_what_is_left_alone(golden, kept: IRModule) -> None:
    golden(SplitProducts(), kept, kept)


def heads(*, split: bool) -> IRModule:
    """Columns of three parts, three heads each, sliced behind a transpose."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 5, 6), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():

            def seen(columns: slice, parts: int) -> relax.Expr:
                w = relax.const(np.ascontiguousarray(random(6, 36)[:, columns]))
                y = builder.emit(relax.op.matmul(x, w))
                y = builder.emit(relax.op.reshape(y, (2, 5, parts, 3, 4)))
                return builder.emit(relax.op.permute_dims(y, [2, 0, 3, 1, 4]))

            if split:
                q, k = (seen(slice(i * 12, i * 12 + 12), 1) for i in (0, 2))
            else:
                y = seen(slice(0, 36), 3)
                q = builder.emit(relax.op.strided_slice(y, [0], [0], [1]))
                k = builder.emit(relax.op.strided_slice(y, [0], [2], [3]))
            total = builder.emit_output(relax.op.subtract(q, k))
        builder.emit_func_output(total)
    return builder.get()


def test_blocks_of_columns_behind_a_transpose(golden, execute) -> None:
    golden(SplitProducts(), heads(split=False), heads(split=True))
    x = random(2, 5, 6, seed=2)
    expected = execute(heads(split=False), x)
    np.testing.assert_allclose(execute(heads(split=True), x), expected, rtol=1e-6, atol=1e-6)


def test_gate_and_up_as_one_product_are_divided() -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((3, 6), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            both = builder.emit(relax.op.matmul(x, relax.const(W)))
            gate, up = (
                builder.emit(relax.op.strided_slice(both, [1], [start], [start + 12]))
                for start in (0, 12)
            )
            h = builder.emit(relax.op.multiply(builder.emit(relax.op.nn.silu(gate)), up))
            y = builder.emit_output(relax.op.matmul(h, relax.const(random(12, 6))))
        builder.emit_func_output(y)
    part = ShardLayers(2, 1).apply(SplitProducts().apply(builder.get()))["main"]
    weights = [
        b.value.args[1].value.numpy()
        for b in part.body.blocks[0].bindings
        if str(getattr(b.value.op, "name", "")) == "relax.matmul"
    ]
    assert [w.shape for w in weights] == [(6, 6), (6, 6), (6, 6)]
    np.testing.assert_array_equal(weights[0], W[:, 6:12])
    np.testing.assert_array_equal(weights[1], W[:, 18:])
