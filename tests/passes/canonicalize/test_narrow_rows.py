"""Rows that nobody reads are not computed, where that spares a product."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import IRModule, relax, tirx
from tvm.script import ir as I
from tvm.script import relax as R

from relaxc.passes.canonicalize.narrow_rows import NarrowRows


@I.ir_module
class Before:
    @R.function
    def main(
        x: R.Tensor((2, 5, 4), "float32"),
        w: R.Tensor((4, 4), "float32"),
        g: R.Tensor((4,), "float32"),
    ):
        with R.dataflow():
            q = R.reshape(x, (2, 5, 2, 2))
            heads = R.permute_dims(q, axes=[0, 2, 1, 3])
            keys = R.permute_dims(q, axes=[0, 2, 3, 1])
            scores = R.matmul(heads, keys)
            p = R.nn.softmax(scores, axis=-1)
            o = R.permute_dims(R.matmul(p, heads), axes=[0, 2, 1, 3])
            a = R.add(x, R.matmul(R.reshape(o, (2, 5, 4)), w))
            n = R.nn.layer_norm(a, g, g, axes=[-1])
            b = R.add(a, R.nn.gelu(R.matmul(n, w)))
            y = R.take(b, R.const(-2, "int64"), axis=1, mode="wrap")
            R.output(y)
        return y


@I.ir_module
class Expected:
    @R.function
    def main(
        x: R.Tensor((2, 5, 4), "float32"),
        w: R.Tensor((4, 4), "float32"),
        g: R.Tensor((4,), "float32"),
    ):
        with R.dataflow():
            q = R.reshape(x, (2, 5, 2, 2))
            heads = R.permute_dims(q, axes=[0, 2, 1, 3])
            keys = R.permute_dims(q, axes=[0, 2, 3, 1])
            row = R.strided_slice(heads, (2,), (3,), (4,), (1,))
            scores = R.matmul(row, keys)
            p = R.nn.softmax(scores, axis=-1)
            o = R.permute_dims(R.matmul(p, heads), axes=[0, 2, 1, 3])
            m = R.matmul(R.reshape(o, (2, 1, 4)), w)
            own = R.strided_slice(x, (1,), (3,), (4,), (1,))
            a = R.add(own, m)
            n = R.nn.layer_norm(a, g, g, axes=[-1])
            b = R.add(a, R.nn.gelu(R.matmul(n, w)))
            y = R.take(b, R.const(0, "int64"), axis=1, mode="wrap")
            R.output(y)
        return y


def test_rewrites(golden: Callable[..., None]) -> None:
    golden(NarrowRows(), Before, Expected)


def test_same_numbers(execute: Callable[..., np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(s).astype(np.float32) for s in ((2, 5, 4), (4, 4), (4,))]
    narrow = execute(NarrowRows().apply(Before), *inputs)
    np.testing.assert_allclose(narrow, execute(Before, *inputs), rtol=1e-5, atol=1e-6)


def module(body: Callable[[relax.BlockBuilder, relax.Var, relax.Var], object], rows=6) -> IRModule:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((rows, 4), "float32"))
    w = relax.Var("w", relax.TensorType((4, 4), "float32"))
    with builder.function("main", [x, w]):
        with builder.dataflow():
            y = builder.emit_output(body(builder, x, w))
        builder.emit_func_output(y)
    return builder.get()


def rows(data: relax.Expr, begin: int, end: int, step: int = 1) -> relax.Expr:
    return relax.op.strided_slice(data, [0], [begin], [end], [step])


def products(mod: IRModule) -> list[tuple[int, ...]]:
    shapes = []
    for binding in mod["main"].body.blocks[0].bindings:
        if getattr(binding.value, "op", None) == tvm.ir.Op.get("relax.matmul"):
            shapes.append(tuple(int(d) for d in binding.var.ty.shape.values))
    return shapes


def test_slices_and_constants(execute: Callable[..., np.ndarray]) -> None:
    bias = np.arange(24, dtype=np.float32).reshape(6, 4)

    def body(builder: relax.BlockBuilder, x: relax.Var, w: relax.Var) -> relax.Expr:
        a = builder.emit(relax.op.add(relax.op.matmul(x, w), relax.const(bias)))
        b = builder.emit(relax.op.multiply(a, relax.const(bias[0])))
        return rows(b, -3, -1)

    before = module(body)
    after = NarrowRows().apply(before)
    assert products(after) == [(2, 4)]
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(s).astype(np.float32) for s in ((6, 4), (4, 4))]
    np.testing.assert_allclose(execute(after, *inputs), execute(before, *inputs), rtol=1e-5)


@pytest.mark.parametrize(
    "read",
    [
        lambda a: relax.Tuple([rows(a, 0, 1), rows(a, 1, 2)]),  # two ranges
        lambda a: relax.Tuple([rows(a, 0, 1), a]),  # and all of it
        lambda a: rows(a, 0, 6, 2),
        lambda a: rows(a, 0, 6),
        lambda a: relax.op.strided_slice(a, [1], [0], [1], [1]),  # columns
        lambda a: relax.op.take(a, relax.const([0, 2], "int64"), axis=0),
        lambda a: relax.op.take(a, relax.const(-1, "int64"), axis=0, mode="clip"),
        lambda a: rows(relax.op.nn.softmax(a, axis=0), 0, 1),
        lambda a: rows(relax.op.reshape(a, (3, 8)), 0, 1),
    ],
)
def test_leaves_others_alone(read: Callable[[relax.Expr], relax.Expr]) -> None:
    def body(builder: relax.BlockBuilder, x: relax.Var, w: relax.Var) -> relax.Expr:
        product = builder.emit(relax.op.matmul(x, w))
        return builder.normalize(read(product))

    before = module(body)
    tvm.ir.assert_structural_equal(NarrowRows().apply(before), before)


def test_leaves_slices_without_a_product_alone() -> None:
    before = module(lambda builder, x, w: rows(builder.emit(relax.op.add(x, x)), 0, 1))
    tvm.ir.assert_structural_equal(NarrowRows().apply(before), before)


def test_leaves_rows_alone_that_may_not_exist() -> None:
    def body(builder: relax.BlockBuilder, x: relax.Var, w: relax.Var) -> relax.Expr:
        product = builder.emit(relax.op.matmul(x, w))
        return relax.op.take(product, relax.const(1, "int64"), axis=0)

    before = module(body, rows=tirx.Var("n", "int64"))
    tvm.ir.assert_structural_equal(NarrowRows().apply(before), before)


@pytest.mark.parametrize(("axis", "rows_left"), [(1, 1), (0, 6)])
def test_rounded_products(axis: int, rows_left: int, execute: Callable[..., np.ndarray]) -> None:
    """Scales of columns go with every row; those of rows would have to be cut as well."""
    scale = relax.const(np.linspace(0.1, 0.2, (6, 4)[axis], dtype=np.float32))
    zero = relax.const(np.zeros((6, 4)[axis], np.int8))

    def body(builder: relax.BlockBuilder, x: relax.Var, w: relax.Var) -> relax.Expr:
        product = builder.emit(relax.op.matmul(x, w))
        integers = builder.emit(relax.op.quantize(product, scale, zero, axis=axis))
        return rows(builder.emit(relax.op.dequantize(integers, scale, zero, axis=axis)), 2, 3)

    before = module(body)
    after = NarrowRows().apply(before)
    assert products(after) == [(rows_left, 4)]
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(s).astype(np.float32) for s in ((6, 4), (4, 4))]
    np.testing.assert_allclose(execute(after, *inputs), execute(before, *inputs), rtol=1e-5)
