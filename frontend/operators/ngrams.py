"""TfIdfVectorizer over integers: how often each n-gram of a pool occurs."""

# TVMScript's annotations are values, which mypy cannot read.
# mypy: disable-error-code="valid-type, no-untyped-def"

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, tirx
from tvm.script import tirx as T

from relaxc.frontend.operators.base import Converter, NodeContext, constant, dims


def tf_idf_vectorizer(ctx: NodeContext) -> relax.Expr:
    """TfIdfVectorizer over integers."""
    attrs, x = ctx.attrs, ctx.input(0)
    if "pool_strings" in attrs:
        raise ValueError("a pool of strings is not supported")
    grams, sizes, indices = _pool(attrs, np.array(attrs["pool_int64s"], np.int64))
    width = max(int(i) for i in attrs["ngram_indexes"]) + 1
    shape = dims(x)
    rows, columns = shape if len(shape) == 2 else (1, shape[0])
    flat = ctx.bb.emit(relax.op.astype(x, "int64"))
    flat = ctx.bb.emit(relax.op.reshape(flat, relax.ShapeExpr([rows, columns])))
    func = _count((rows, columns), grams.shape, width, int(attrs["max_skip_count"]))
    gvar = ctx.bb.add_func(func, "count_ngrams")
    tables = [constant(a) for a in (grams, sizes, indices)]
    result = relax.TensorType([rows, width], "float32")
    counts = ctx.bb.emit(relax.call_tir(gvar, [flat, *tables], result))
    counts = _weighted(ctx, counts, ctx.text("mode", "TF"), width)
    return counts if len(shape) == 2 else relax.op.reshape(counts, [width])


def _weighted(ctx: NodeContext, counts: relax.Expr, mode: str, width: int) -> relax.Expr:
    given = ctx.attrs.get("weights")
    weights = np.ones(width, np.float32)
    if given and mode != "TF":
        weights[np.array(ctx.attrs["ngram_indexes"])] = given
    if mode == "IDF":
        is_there = ctx.bb.emit(relax.op.greater(counts, constant(np.zeros((), np.float32))))
        counts = ctx.bb.emit(relax.op.astype(is_there, "float32"))
    if mode == "TF" or not given:
        return counts
    return ctx.bb.emit(relax.op.multiply(counts, constant(weights)))


def _pool(attrs: dict[str, Any], pool: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """N-grams of the wanted sizes, one per row; their sizes; and the columns that they count in."""
    least, most = int(attrs["min_gram_length"]), int(attrs["max_gram_length"])
    starts = [*attrs["ngram_counts"], len(pool)]
    grams: list[np.ndarray] = []
    places: list[int] = []
    number = 0
    for size, (start, end) in enumerate(zip(starts, starts[1:]), 1):
        for at in range(start, end, size):
            if least <= size <= most:
                grams.append(pool[at : at + size])
                places.append(int(attrs["ngram_indexes"][number]))
            number += 1
    if not grams:
        raise ValueError("the pool has no n-grams of the lengths asked for")
    table = np.zeros((len(grams), max(len(g) for g in grams)), np.int64)
    for row, gram in zip(table, grams):
        row[: len(gram)] = gram
    return table, np.array([len(g) for g in grams], np.int64), np.array(places, np.int64)


def _count(shape: tuple[Any, Any], pool: tuple[int, ...], width: int, skips: int) -> tirx.PrimFunc:
    rows, columns = shape
    grams, longest = pool

    @T.prim_func(private=True)
    def count_ngrams(
        x: T.Buffer((rows, columns), "int64"),
        table: T.Buffer((grams, longest), "int64"),
        sizes: T.Buffer((grams,), "int64"),
        indices: T.Buffer((grams,), "int64"),
        y: T.Buffer((rows, width), "float32"),
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        is_same = T.alloc_buffer((1,), "int32")
        for n in range(rows):
            for i in range(width):
                y[n, i] = T.float32(0)
            for g in range(grams):
                # Distances make no difference to single elements.
                for skip in range(T.Select(sizes[g] > T.int64(1), skips + 1, 1)):
                    for start in range(
                        T.max(columns - (sizes[g] - T.int64(1)) * (skip + 1), T.int64(0))
                    ):
                        is_same[0] = 1
                        for k in range(sizes[g]):
                            if x[n, start + k * (skip + 1)] != table[g, k]:
                                is_same[0] = 0
                        if is_same[0] > 0:
                            y[n, indices[g]] = y[n, indices[g]] + T.float32(1)

    return count_ngrams


CONVERTERS: dict[str, Converter] = {"TfIdfVectorizer": tf_idf_vectorizer}
