"""Products with constant weights: any number of rows and columns, symbolic rows, epilogues."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import onnx_model
from kernels import TARGETS, check_model


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "rows, depth, columns",
    [(1, 5, 7), (2, 33, 40), (3, 17, 300), (49, 96, 31), (130, 10, 16), (300, 20, 50)],
)
def test_static_rows(rows: int, depth: int, columns: int, target: str) -> None:
    model, feed = _model(rows, depth, columns)
    check_model(model, feed, target, kernels={"matmul"})


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("rows, columns", [(9, 530), (128, 40), (256, 20), (200, 20)])
def test_deep_products_add_up_in_parts(rows: int, columns: int, target: str) -> None:
    model, feed = _model(rows, 1056, columns)
    check_model(model, feed, target, kernels={"matmul"})


@pytest.mark.parametrize("rows", [1, 3, 7, 8, 9, 33, 200])
def test_symbolic_rows(rows: int) -> None:
    model, feed = _model(rows, 24, 70, symbolic=True)
    check_model(model, feed, kernels={"matmul"})


def _model(
    rows: int, depth: int, columns: int, symbolic: bool = False
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)

    def random(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    size = "n" if symbolic else str(rows)
    model = onnx_model(
        f"""g (float[{size},{depth}] x, float[{size},{columns}] r, float[{size},1] s)
              => (float[m,{columns}] y) {{
            a = MatMul (x, w)
            b = Add (a, bias)
            c = Tanh (b)
            d = Add (c, r)
            y = Mul (d, s)
        }}""",
        w=random(depth, columns),
        bias=random(columns),
    )
    return model, {"x": random(rows, depth), "r": random(rows, columns), "s": random(rows, 1)}
