"""NonMaxSuppression against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from one_node import check_node


@pytest.mark.parametrize("is_centered", [0, 1])
@pytest.mark.parametrize("limit", [0, 3, 100])
def test_batches_and_classes(is_centered: int, limit: int) -> None:
    rng = np.random.default_rng(limit)
    boxes = rng.uniform(0, 10, (2, 50, 4)).astype(np.float32)
    scores = rng.uniform(0, 1, (2, 3, 50)).astype(np.float32)
    inputs: dict[str, np.ndarray | None] = {
        "boxes": boxes,
        "scores": scores,
        "limit": np.array([limit], np.int64),
        "overlap": np.array([0.4], np.float32),
        "least": np.array([0.3], np.float32),
    }
    check_node(
        "NonMaxSuppression",
        inputs,
        {"y": np.int64},
        constants=("limit", "overlap", "least"),
        domain="",
        center_point_box=is_centered,
    )
