"""Queries, keys and values come from one product."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import IRModule, relax
from tvm.script import ir as I
from tvm.script import relax as R

from relaxc.passes.fuse.merge_parallel_products import MergeParallelProducts


def weights(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(s).astype(np.float32) for s in shapes]


def attention(first, biases, extra=False) -> IRModule:
    """Three projections of x, or slices of one, and the products of attention."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 5, 8), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            if len(first) == 1:
                whole = builder.emit(relax.op.matmul(x, relax.const(first[0])))
                if biases:
                    whole = builder.emit(relax.op.add(whole, relax.const(biases[0])))
                parts = [
                    builder.emit(
                        relax.op.strided_slice(whole, [2], [i], [i + 8], [1], assume_inbound=True)
                    )
                    for i in (0, 8, 16)
                ]
            else:
                parts = []
                for i, w in enumerate(first):
                    part = builder.emit(relax.op.matmul(x, relax.const(w)))
                    if biases:
                        part = builder.emit(relax.op.add(part, relax.const(biases[i])))
                    parts.append(part)
            q, k, v = (
                builder.emit(
                    relax.op.permute_dims(
                        builder.emit(relax.op.reshape(part, (2, 5, 2, 4))), [0, 2, 1, 3]
                    )
                )
                for part in parts
            )
            kt = builder.emit(relax.op.permute_dims(k, [0, 1, 3, 2]))
            p = builder.emit(relax.op.nn.softmax(builder.emit(relax.op.matmul(q, kt))))
            result = builder.emit(relax.op.matmul(p, v))
            if extra:
                total = builder.emit(relax.op.sum(parts[2]))
                result = builder.emit(relax.op.add(result, total))
            result = builder.emit_output(result)
        builder.emit_func_output(result)
    return builder.get()


@pytest.mark.parametrize("biased", [False, True])
def test_projections_of_attention_are_merged(golden, biased: bool) -> None:
    ws = weights((8, 8), (8, 8), (8, 8))
    bs = weights((8,), (8,), (8,)) if biased else []
    joined = [np.concatenate(bs)] if biased else []
    before = attention(ws, bs)
    golden(MergeParallelProducts(), before, attention([np.concatenate(ws, 1)], joined))


def test_same_numbers(execute) -> None:
    before = attention(weights((8, 8), (8, 8), (8, 8)), weights((8,), (8,), (8,)))
    (x,) = weights((2, 5, 8))
    after = MergeParallelProducts().apply(before)
    np.testing.assert_allclose(execute(after, x), execute(before, x), rtol=1e-5, atol=1e-6)


def test_what_others_read_is_left_alone(golden) -> None:
    ws = weights((8, 8), (8, 8), (8, 8))
    mod = MergeParallelProducts().apply(attention(ws, [], extra=True))
    calls = [b.value for b in mod["main"].body.blocks[0].bindings]
    products = [c for c in calls if getattr(c, "op", None) == tvm.ir.Op.get("relax.matmul")]
    types = [c.args[1].ty for c in products if c.args[1].ty.ndim == 2]
    shapes = [tuple(map(int, ty.shape.values)) for ty in types]
    assert sorted(shapes) == [(8, 8), (8, 16)]


@I.ir_module
class Other:
    @R.function
    def main(x: R.Tensor((4, 8), "float32")) -> R.Tensor((4, 8), "float32"):
        with R.dataflow():
            a = R.matmul(x, R.const(np.ones((8, 8), "float32")))
            b = R.matmul(x, R.const(np.ones((8, 8), "float32")))
            gv = R.add(a, b)
            R.output(gv)
        return gv


def test_products_that_no_attention_reads_are_left_alone(golden) -> None:
    golden(MergeParallelProducts(), Other, Other)


def rotated(merged: bool) -> IRModule:
    """Two projections in heads, one of which is turned by its position."""
    ws = weights((8, 8), (8, 12))
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 5, 8), "float32"))
    turn = relax.Var("turn", relax.TensorType((5, 1, 4), "float32"))
    with builder.function("main", [x, turn]):
        with builder.dataflow():
            if merged:
                whole = builder.emit(relax.op.matmul(x, relax.const(np.concatenate(ws, 1))))
                whole = builder.emit(relax.op.reshape(whole, (2, 5, 5, 4)))
                q, k = (
                    builder.emit(
                        relax.op.strided_slice(whole, [2], [a], [b], [1], assume_inbound=True)
                    )
                    for a, b in ((0, 2), (2, 5))
                )
            else:
                parts = [builder.emit(relax.op.matmul(x, relax.const(w))) for w in ws]
                q, k = (
                    builder.emit(relax.op.reshape(part, (2, 5, n, 4)))
                    for part, n in zip(parts, (2, 3))
                )
            q = builder.emit(relax.op.multiply(q, turn))
            result = builder.emit_output(relax.op.concat([q, k], 2))
        builder.emit_func_output(result)
    return builder.get()


def test_projections_in_heads_are_merged(golden) -> None:
    golden(MergeParallelProducts(), rotated(merged=False), rotated(merged=True))


def test_heads_have_the_same_numbers(execute) -> None:
    x, turn = weights((2, 5, 8), (5, 1, 4))
    before, after = rotated(merged=False), rotated(merged=True)
    np.testing.assert_allclose(execute(after, x, turn), execute(before, x, turn), rtol=1e-5)
