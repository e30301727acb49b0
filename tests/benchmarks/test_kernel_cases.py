"""The models of the kernel benchmark."""

from __future__ import annotations

import onnx
import pytest
from kernel_cases import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_is_a_valid_model(case: Case) -> None:
    inferred = onnx.shape_inference.infer_shapes(case.model(), strict_mode=True)
    onnx.checker.check_model(inferred)
    dims = inferred.graph.output[0].type.tensor_type.shape.dim
    assert dims and all(dim.dim_value > 0 for dim in dims)


def test_names_are_unique() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
