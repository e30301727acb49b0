"""What the summary says of zeros."""

from __future__ import annotations

from typing import Any

from relaxc.report.sparsity import sparse_layers


def layer(name: str, zeros: float, blocks: float, cost: float, method: str) -> dict[str, Any]:
    found = {"zeros": zeros, "zero_blocks": blocks, "cost": cost, "method": method}
    return {"name": "conv2d", "nodes": [name], "sparsity": found}


def test_says_which_and_why() -> None:
    kernels = [
        {"name": "relayout", "nodes": []},
        {"name": "pool2d", "nodes": ["pool"]},
        *(layer(f"conv{i}", 0.8, 0.8, 0.25, "blocks") for i in range(4)),
        layer("single", 0.9, 0.1, 0.3, "scattered"),
        layer("few", 0.9, 0.1, 1.6, "dense"),
        layer("winograd", 0.5, 0.5, 1.7, "dense"),
    ]
    one = "(80% of blocks, 0.25 of the dense time)"
    assert sparse_layers(kernels) == [
        ("Zeros left out", f"conv0 {one}, conv1 {one}, conv2 {one} and 2 more"),
        (
            "Zeros multiplied",
            "few (90%), because they are scattered: hardly a block is all zero",
        ),
        (
            "Zeros multiplied",
            "winograd (50% of blocks), because the dense kernel is estimated to be as fast",
        ),
    ]
    assert sparse_layers(kernels[:2]) == []
