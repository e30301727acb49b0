"""Symbolic shape arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper
from tvm import tirx
from tvm.sym import Analyzer

from relaxc.frontend.shape_values import MAX_ELEMENTS, ShapeValue, evaluate, shape_of

N, M = tirx.Var("n", "int64"), tirx.Var("m", "int64")


def value(*items: object) -> ShapeValue:
    return shape_of([i if isinstance(i, tirx.Expr) else tirx.IntImm("int64", i) for i in items])  # type: ignore[misc]


def const(array: Any) -> ShapeValue:
    made = ShapeValue.of(np.asarray(array))
    assert made is not None
    return made


def run(op: str, *inputs: ShapeValue, **attrs: Any) -> ShapeValue | None:
    names = [f"i{k}" for k in range(len(inputs))]
    return evaluate(helper.make_node(op, names, ["o"], **attrs), list(inputs))


def texts(result: ShapeValue | None) -> list[str]:
    assert result is not None
    return [str(int(e)) if isinstance(e, tirx.IntImm) else str(e) for e in result.elements.flat]


@pytest.mark.parametrize(
    ("op", "a", "b", "expected"),
    [
        ("Add", 5, 3, 8),
        ("Sub", 5, 3, 2),
        ("Mul", 5, 3, 15),
        ("Div", 7, 2, 3),
        ("Div", -7, 2, -3),
        ("Mod", 7, 4, 3),
        ("Min", 5, 3, 3),
        ("Max", 5, 3, 5),
    ],
)
def test_numbers(op: str, a: int, b: int, expected: int) -> None:
    result = run(op, const([a]), const([b]))
    assert result is not None
    np.testing.assert_array_equal(result.numpy(), [expected])


@pytest.mark.parametrize(
    ("op", "reference"),
    [
        ("Add", lambda n: n + 6),
        ("Sub", lambda n: n - 6),
        ("Mul", lambda n: n * 6),
        ("Div", lambda n: n // 6),
        ("Mod", lambda n: n % 6),
        ("Min", lambda n: min(n, 6)),
        ("Max", lambda n: max(n, 6)),
    ],
)
@pytest.mark.parametrize("size", [1, 6, 20])
def test_symbols(op: str, reference: Any, size: int) -> None:
    result = run(op, value(N), const([6]))
    assert result is not None
    analyzer = Analyzer()
    analyzer.bind(N, tirx.IntImm("int64", size))
    assert int(analyzer.simplify(result.elements[0])) == reference(size)


def test_what_exporters_write_before_a_reshape() -> None:
    shape = value(N, 12, M)
    picked = run("Gather", shape, const(0))
    assert picked is not None
    row = run("Unsqueeze", picked, const([0]))
    assert row is not None
    assert texts(run("Concat", row, const([-1]), axis=0)) == ["n", "-1"]


def test_slices_with_steps() -> None:
    shape = value(N, 2, M, 4)
    args = [const([3]), const([-(1 << 62)]), const([0]), const([-1])]
    assert texts(run("Slice", shape, *args)) == ["4", "m", "2", "n"]


def test_a_dimension_is_never_negative() -> None:
    result = run("Equal", value(N), const([-1]))
    assert result is not None
    assert result.numpy().tolist() == [False]


def test_a_comparison_of_symbols_is_not_decided() -> None:
    assert run("Equal", value(N), const([3])) is None


def test_where_chooses_by_known_conditions() -> None:
    assert texts(run("Where", const([True, False]), value(N, N), value(M, M))) == ["n", "m"]


def test_division_by_a_symbol_is_not_expressible() -> None:
    assert run("Div", const([6]), value(N)) is None


def test_casts_to_floating_point_leave_shape_arithmetic() -> None:
    assert run("Cast", value(N), to=1) is None
    assert run("Cast", value(N), to=6) is not None


def test_unknown_operators_and_inputs_are_not_shapes() -> None:
    assert run("Relu", value(N)) is None
    assert evaluate(helper.make_node("Add", ["a", "b"], ["c"]), [value(N), None]) is None


@pytest.mark.parametrize(
    "array",
    [np.ones(3, np.float32), np.zeros(MAX_ELEMENTS + 1, np.int64), np.zeros((1, 1, 1), np.int64)],
    ids=["floating", "large", "rank 3"],
)
def test_data_is_not_a_shape(array: np.ndarray) -> None:
    assert ShapeValue.of(array) is None


def test_reduce_prod_counts_elements() -> None:
    result = run("ReduceProd", value(2, 3, N))
    assert result is not None
    assert Analyzer().can_prove_equal(result.elements[0], N * 6)


def test_an_index_out_of_range_is_left_to_the_checker() -> None:
    assert run("Gather", value(N), const([7])) is None
