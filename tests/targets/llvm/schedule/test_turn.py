"""Transposes of any type, shape and order move every element to where NumPy does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builders import onnx_model
from kernels import TARGETS, BuiltModel

from relaxc.targets.llvm.kernels import streaming, turn, weave
from relaxc.targets.llvm.machine import machine_of
from relaxc.targets.llvm.schedule import moves
from relaxc.targets.registry import backend_for

TYPES = {
    "float": np.float32,
    "double": np.float64,
    "float16": np.float16,
    "int64": np.int64,
    "int32": np.int32,
    "uint16": np.uint16,
    "int8": np.int8,
    "bool": np.bool_,
}
Case = tuple[str, tuple[int, ...], tuple[int, ...]]


def random_cases(count: int, seed: int) -> list[Case]:
    rng = np.random.default_rng(seed)
    cases: list[Case] = []
    for i in range(count):
        rank = int(rng.integers(2, 5))
        dims = rng.choice([1, 2, 3, 4, 5, 7, 8, 16, 17, 24, 32, 33, 65], size=rank)
        shape = tuple(int(d) for d in dims)
        order = tuple(int(a) for a in rng.permutation(rank))
        cases.append((list(TYPES)[i % len(TYPES)], shape, order))
    return cases


def check(cases: list[Case], target: str) -> None:
    """All in one model, so that it is compiled once."""
    inputs, outputs, nodes = [], [], []
    feed: dict[str, np.ndarray] = {}
    rng = np.random.default_rng(1)
    for i, (kind, shape, order) in enumerate(cases):
        inputs.append(f"{kind}[{','.join(map(str, shape))}] x{i}")
        outputs.append(f"{kind}[{','.join(str(shape[a]) for a in order)}] y{i}")
        nodes.append(f"y{i} = Transpose <perm=[{','.join(map(str, order))}]> (x{i})")
        feed[f"x{i}"] = rng.integers(0, 120, shape).astype(TYPES[kind])
    graph = f"g ({', '.join(inputs)}) => ({', '.join(outputs)}) {{ {' '.join(nodes)} }}"
    results = BuiltModel(onnx_model(graph), target).run(feed)
    for i, ((kind, shape, order), result) in enumerate(zip(cases, results, strict=True)):
        expected = feed[f"x{i}"].transpose(order)
        assert result.dtype == expected.dtype
        np.testing.assert_array_equal(result, expected, err_msg=f"{kind} {shape} {order}")


# Runs of whole tiles, and tiles that overlap, of every size of an element.
SQUARES: list[Case] = [
    (kind, shape, (1, 0))
    for kind in ("float", "double", "float16", "int8")
    for shape in ((64, 256), (300, 70), (70, 300), (16, 19))
]


@pytest.mark.parametrize("target", TARGETS)
def test_any_type_and_order(target: str) -> None:
    check(SQUARES + random_cases(16, 0), target)


def streamed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stream whatever could be; returns a list that grows with every store that is."""
    found: list[int] = []
    write = streaming.stream

    def counted(*args: Any) -> None:
        found.append(1)
        write(*args)

    monkeypatch.setattr(streaming, "_LARGE", 0)
    for user in (turn, weave, moves):
        monkeypatch.setattr(user, "stream", counted)
    return found


# Rows that begin at lines: long and short, of squares, of few channels, and copied as they are.
LINES: list[Case] = [
    ("float", (3, 128, 64), (0, 2, 1)),
    ("float", (16, 6, 5, 80), (3, 2, 1, 0)),
    ("double", (40, 24), (1, 0)),
    ("float16", (64, 96), (1, 0)),
    ("float16", (96, 48), (1, 0)),
    ("int8", (128, 320), (1, 0)),
    ("int8", (64, 30), (1, 0)),
    ("float", (2, 32, 48, 3), (0, 3, 1, 2)),
    ("float", (2, 3, 20, 16), (0, 2, 3, 1)),
    ("float", (2, 5, 16, 48), (0, 2, 1, 3)),
    ("float", (2, 32, 5, 8), (0, 2, 3, 1)),
    ("float", (2, 4, 8, 32), (0, 3, 1, 2)),
]


def test_around_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    if machine_of(backend_for("llvm").target).lanes != 16:  # type: ignore[attr-defined]
        pytest.skip("vectors of this CPU are no whole lines")
    found = streamed(monkeypatch)
    for case in LINES:
        before = len(found)
        check([case], "llvm")
        assert len(found) > before, f"{case} was not streamed"


def test_rows_between_lines_are_not_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = streamed(monkeypatch)
    check([("float", (33, 50), (1, 0)), ("float", (2, 3, 5, 5), (0, 2, 3, 1))], "llvm")
    assert not found


@pytest.mark.long
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("large", [0, 1 << 60])
def test_many(target: str, large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_LARGE", large)
    for seed in range(1, 6):
        check(random_cases(40, seed), target)
