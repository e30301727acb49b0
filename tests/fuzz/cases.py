"""One random graph per seed."""

from __future__ import annotations

import random

import numpy as np
import onnx
from fuzz import candidates, moves
from fuzz.graphs import Graph

_MOST_NODES = 9
_TYPES = ("float32",) * 8 + (
    "float16",
    "float64",
    "int64",
    "int64",
    "int32",
    "bool",
    "uint8",
    "int8",
)


def random_case(seed: int) -> tuple[onnx.ModelProto, list[dict[str, np.ndarray]]]:
    """A model, and what to feed it in each trial."""
    g = Graph(random.Random(seed))
    g.add_input("float32", _shape(g))
    for _ in range(g.rng.randrange(3)):
        shape = _shape(g) if g.rng.random() < 0.6 else _like(g)
        g.add_input(g.rng.choice(_TYPES), shape)
    families = (*candidates.CANDIDATES, *moves.CANDIDATES)
    wanted = g.rng.randrange(1, _MOST_NODES + 1)
    for _ in range(60):
        if len(g.nodes) >= wanted:
            break
        g.rng.choice(families)(g)
    if not g.nodes:
        g.node("Relu", g.add_input("float32", [2]), exact=True)
    return g.model(), g.feeds


def _shape(g: Graph) -> list[int | str]:
    rank = g.rng.choice((0, 1, 2, 2, 3, 3, 4, 4, 4, 5))
    return [g.dimension() for _ in range(rank)]


def _like(g: Graph) -> list[int | str]:
    """A shape that broadcasts with the first input's."""
    dims = g.inputs[0].type.tensor_type.shape.dim
    shape: list[int | str] = [d.dim_param or d.dim_value for d in dims]
    shape = [1 if g.rng.random() < 0.2 else d for d in shape]
    return shape[g.rng.randrange(len(shape) + 1) if g.rng.random() < 0.2 else 0 :]
