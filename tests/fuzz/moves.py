"""Candidates that move elements around: shapes, slices, gathers, and shapes as data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from fuzz.graphs import Graph, Value

Candidate = Callable[[Graph], bool]


def reshape(g: Graph) -> bool:
    x = g.pick()
    if x is None:
        return False
    size = int(np.prod(x.shape))
    wanted: list[int] = []
    roll = g.rng.random()
    if roll < 0.4:
        wanted = [0 if g.rng.random() < 0.7 else 1 for _ in range(g.rng.randrange(x.rank + 1))] + [
            -1
        ]
    else:
        rest = max(size, 1)
        for _ in range(g.rng.randrange(1, 4)):
            factor = g.rng.choice([n for n in range(1, rest + 1) if rest % n == 0][:8])
            wanted.append(factor)
            rest //= factor
        wanted.insert(g.rng.randrange(len(wanted) + 1), -1 if roll < 0.8 else rest)
    return g.node("Reshape", x, g.constant(wanted, "int64"), exact=True)


def dynamic_reshape(g: Graph) -> bool:
    """A shape that the graph computes from another tensor's shape."""
    x, other = g.pick(), g.pick()
    if x is None or other is None or not other.rank or not g.node("Shape", other, exact=True):
        return False
    shape = g.values[-1]
    op = g.rng.choice(("Reshape", "Expand", "ConstantOfShape"))
    if op == "ConstantOfShape":
        return g.node(op, shape, exact=True)
    if op == "Expand":
        return g.node(op, x, shape, exact=True)
    axis = g.rng.randrange(other.rank)
    if any(a.shape[axis] == 0 for a in other.arrays):
        return False  # ONNX reads a 0 as the old dimension, relaxc as the size that it is
    start = g.constant([axis], "int64")
    if not g.node("Gather", shape, start, axis=0, exact=True):
        return False
    rest = g.constant([-1], "int64")
    pair = [g.values[-1], rest] if g.rng.random() < 0.7 else [rest, g.values[-1]]
    return g.node("Concat", *pair, axis=0, exact=True) and g.node(op, x, g.values[-1], exact=True)


def rank_change(g: Graph) -> bool:
    x = g.pick()
    if x is None:
        return False
    op = g.rng.choice(("Flatten", "Squeeze", "Unsqueeze", "Transpose", "Transpose"))
    if op == "Flatten":
        return g.node(op, x, axis=g.rng.randrange(-x.rank, x.rank + 1), exact=True)
    if op == "Transpose":
        order = g.rng.sample(range(x.rank), x.rank)
        return g.node(op, x, perm=order if g.rng.random() < 0.9 else None, exact=True)
    if op == "Squeeze":
        ones = [a for a in range(x.rank) if all(v.shape[a] == 1 for v in x.arrays)]
        axes = g.rng.sample(ones, g.rng.randrange(len(ones) + 1))
        return bool(axes) and g.node(op, x, g.constant(axes, "int64"), exact=True)
    if x.rank > 4:
        return False
    axes = [g.rng.randrange(-x.rank - 1, x.rank + 1)]
    return g.node(op, x, g.constant(axes, "int64"), exact=True)


def concat(g: Graph) -> bool:
    x = g.pick()
    if x is None or not x.rank:
        return False
    axis = g.rng.randrange(x.rank)
    same = [v for v in g.values if v.dtype == x.dtype and v.rank == x.rank]
    others = [g.rng.choice(same) for _ in range(g.rng.randrange(1, 3))]
    if g.rng.random() < 0.4:
        others = [x] * len(others)
    sign = -x.rank if g.rng.random() < 0.3 else 0
    return g.node("Concat", x, *others, axis=axis + sign, exact=True)


def split(g: Graph) -> bool:
    x = g.pick()
    if x is None or not x.rank:
        return False
    axis, parts = g.rng.randrange(x.rank), g.rng.randrange(1, 4)
    if g.rng.random() < 0.5:
        return g.node("Split", x, outputs=parts, axis=axis, num_outputs=parts, exact=True)
    if not x.is_static(axis):
        return False
    cuts = sorted(g.rng.randrange(x.shape[axis] + 1) for _ in range(parts - 1))
    sizes = np.diff([0, *cuts, x.shape[axis]])
    return g.node(
        "Split", x, g.constant(sizes, "int64"), outputs=parts, axis=axis - x.rank, exact=True
    )


def slice_(g: Graph) -> bool:
    x = g.pick()
    if x is None or not x.rank:
        return False
    axes = g.rng.sample(range(x.rank), g.rng.randrange(1, x.rank + 1))
    starts, ends, steps = [], [], []
    for axis in axes:
        step = g.rng.choice((1, 1, 1, 2, 3, -1, -2))
        start, end = g.rng.randrange(-4, 5), g.rng.choice((1, 2, 3, -1, -2, 1 << 31, -(1 << 31)))
        if step < 0 and g.rng.random() < 0.7:
            start, end = g.rng.choice((-1, 1 << 31, 3)), -(1 << 31)
        starts.append(start)
        ends.append(end)
        steps.append(step)
        if g.rng.random() < 0.3:
            axes[len(starts) - 1] = axis - x.rank
    parts = [g.constant(v, "int64") for v in (starts, ends, axes, steps)]
    return g.node("Slice", x, *parts, exact=True)


def _indices(g: Graph, x: Value, axis: int, shape: list[int]) -> Value:
    size = min(a.shape[axis] for a in x.arrays)
    rng = np.random.default_rng(g.rng.randrange(1 << 32))
    return g.constant(rng.integers(-size, max(size, 1), shape), "int64")


def gather(g: Graph) -> bool:
    x = g.pick()
    if x is None or not x.rank:
        return False
    axis = g.rng.randrange(x.rank)
    op = g.rng.choice(("Gather", "Gather", "GatherElements", "ScatterElements", "GatherND"))
    if op in ("Gather", "GatherND") and any(not a.size for a in x.arrays):
        return False  # ONNX Runtime checks no index where nothing is there to be copied
    if op == "Gather":
        shape = [g.rng.choice((1, 2, 3)) for _ in range(g.rng.randrange(3))]
        return g.node(op, x, _indices(g, x, axis, shape), axis=axis, exact=True)
    if op == "GatherND":
        size = min(a.shape[0] for a in x.arrays)
        listed = [[g.rng.randrange(-size, max(size, 1))] for _ in range(g.rng.randrange(1, 4))]
        return g.node(op, x, g.constant(listed, "int64"), exact=True)
    shape = [min(a.shape[i] for a in x.arrays) for i in range(x.rank)]
    if op == "GatherElements":
        shape[axis] = g.rng.choice((1, 2, 3))
        return g.node(op, x, _indices(g, x, axis, shape), axis=axis, exact=True)
    shape[axis] = min(1, shape[axis])
    updates = g.constant(g.random_array(str(x.dtype), shape))
    return g.node(op, x, _indices(g, x, axis, shape), updates, axis=axis, exact=True)


def pad(g: Graph) -> bool:
    x = g.pick("f", "i")
    if x is None or not x.rank:
        return False
    mode = g.rng.choice(("constant", "constant", "reflect", "edge", "wrap"))
    low = -1 if mode == "constant" and g.rng.random() < 0.2 else 0
    pads = [g.rng.randrange(low, 3) for _ in range(2 * x.rank)]
    value = g.constant(1.5, str(x.dtype)) if mode == "constant" and g.rng.random() < 0.5 else None
    return g.node("Pad", x, g.constant(pads, "int64"), value, mode=mode, exact=True)


def repeat(g: Graph) -> bool:
    x = g.pick()
    if x is None or not x.rank:
        return False
    if g.rng.random() < 0.5:
        counts = [g.rng.choice((1, 1, 2, 3)) for _ in range(x.rank)]
        return g.node("Tile", x, g.constant(counts, "int64"), exact=True)
    shape = [g.rng.choice((1, n)) if x.is_static(a) else 1 for a, n in enumerate(x.shape)]
    shape = [g.rng.choice((2, 3)) if n == 1 and g.rng.random() < 0.4 else n for n in shape]
    if g.rng.random() < 0.3:
        shape = [2, *shape]
    return g.node("Expand", x, g.constant(shape, "int64"), exact=True)


def images(g: Graph) -> bool:
    x = g.pick("f", rank=4)
    if x is None:
        return False
    op = g.rng.choice(("DepthToSpace", "SpaceToDepth", "Resize", "Resize"))
    if op == "DepthToSpace":
        mode = g.rng.choice(("DCR", "CRD"))
        return g.node(op, x, blocksize=2, mode=mode, exact=True)
    if op == "SpaceToDepth":
        return g.node(op, x, blocksize=2, exact=True)
    mode = g.rng.choice(("nearest", "linear", "cubic"))
    how = g.rng.choice(("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"))
    factors = [g.rng.choice((1, 2, 0.5, 3)) for _ in range(2)]
    if how == "align_corners" and any(
        f * n % 1 for a in x.arrays for f, n in zip(factors, a.shape[2:])
    ):
        return False  # ONNX Runtime takes the rounded size for the ends, ONNX the exact one
    scales = g.constant([1, 1, *factors], "float32")
    nearest = g.rng.choice(("floor", "round_prefer_floor")) if mode == "nearest" else None
    attrs: dict[str, Any] = {"coordinate_transformation_mode": how, "nearest_mode": nearest}
    return g.node(op, x, None, scales, mode=mode, **attrs)


def quantized(g: Graph) -> bool:
    x = g.pick("f", exact=True)
    if x is None or str(x.dtype) != "float32":
        return False
    scale = g.constant(g.rng.choice((0.25, 0.5, 1.0)), "float32")
    kind = g.rng.choice(("uint8", "int8"))
    zero = g.constant(g.rng.choice((0, 3)), kind)
    if not g.node("QuantizeLinear", x, scale, zero, exact=True):
        return False
    return g.node("DequantizeLinear", g.values[-1], scale, zero, exact=True)


def triangle(g: Graph) -> bool:
    x = g.pick()
    if x is None or x.rank < 2:
        return False
    k = g.constant(g.rng.randrange(-2, 3), "int64") if g.rng.random() < 0.6 else None
    return g.node("Trilu", x, k, upper=g.rng.randrange(2), exact=True)


def one_hot(g: Graph) -> bool:
    x = g.pick("i")
    if x is None or x.rank > 3:
        return False
    depth, values = g.constant(g.rng.choice((1, 3, 5)), "int64"), g.constant([-1.0, 2.0], "float32")
    return g.node(
        "OneHot", x, depth, values, axis=g.rng.randrange(-x.rank - 1, x.rank + 1), exact=True
    )


CANDIDATES: tuple[Candidate, ...] = (
    *(reshape, reshape, dynamic_reshape, rank_change, rank_change, concat, split, slice_, slice_),
    *(gather, gather, pad, repeat, images, quantized, triangle, one_hot),
)
