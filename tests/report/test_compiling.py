"""What is said of a compilation."""

from __future__ import annotations

from typing import Any

from relaxc.report.compiling import eight_bits


def kernel(node: str, dtype: str, flops: int = 8) -> dict[str, Any]:
    return {"nodes": [node] if node else [], "dtype": dtype, "flops": flops}


def test_layers_that_are_not_in_eight_bits_are_named() -> None:
    kernels = [kernel("", "float16", 0), kernel("up", "float8"), kernel("down", "float8")]
    manifest: Any = {"options": {"precision": "float8"}, "kernels": kernels}
    assert eight_bits(manifest) == [("Precision", "2 of 2 layers multiply floats of eight bits")]
    manifest["kernels"] += [kernel(f"conv{i}", "float16") for i in range(5)]
    ((_, text),) = eight_bits(manifest)
    assert text.startswith("2 of 7 layers") and text.endswith("conv0, conv1, conv2 and 2 more")
    manifest["options"]["precision"] = "float16"
    assert eight_bits(manifest) == []
