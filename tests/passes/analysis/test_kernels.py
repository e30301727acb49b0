"""Which ONNX nodes a kernel computes, and what that costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from builders import conv_model, dense_model, onnx_model

from relaxc.frontend.importer import from_onnx
from relaxc.passes.analysis.cost import layer_costs
from relaxc.passes.analysis.kernels import kernel_costs
from relaxc.passes.pipeline import default_passes
from relaxc.targets.registry import backend_for


def kernels(model: onnx.ModelProto) -> list[dict[str, Any]]:
    imported = from_onnx(model).mod
    mod = imported
    for item in default_passes(backend_for("llvm -mcpu=x86-64-v4").kernels):
        mod = item.apply(mod)
    return kernel_costs(imported, mod)


def test_an_epilogue_belongs_to_its_kernel() -> None:
    (conv,) = [k for k in kernels(conv_model(16)) if k["flops"]]
    assert conv["name"].startswith("conv2d")
    assert len(conv["nodes"]) > 1
    assert conv["flops"] == 2 * 16 * 8 * 8 * 27
    assert conv["dtype"] == "float32"


def test_no_arithmetic_is_lost_nor_counted_twice() -> None:
    model = onnx_model(
        "g (float[1,16,9,9] x) => (float[1,32,9,9] z) {"
        " a = Conv<kernel_shape=[1,1]>(x, w) b = Relu(a) c = Conv<kernel_shape=[1,1]>(x, w)"
        " d = Sigmoid(c) z = Concat<axis=1>(b, d) }",
        w=np.ones((16, 16, 1, 1), np.float32),
    )
    found = kernels(model)
    # Both convolutions are the same computation: it is done, and counted, once.
    once = sum(layer["macs"] for layer in layer_costs(from_onnx(model).mod))
    assert sum(k["flops"] for k in found) == once
    nodes = [node for k in found for node in k["nodes"]]
    assert len(nodes) == len(set(nodes))


def test_symbolic_dimensions_stay_in_the_numbers() -> None:
    (dense,) = [k for k in kernels(dense_model(4, 300)) if k["flops"]]
    assert dense["flops"] == "(n * 2400)"
    assert "n" in dense["bytes"]


def test_a_lookup_reads_what_it_returns() -> None:
    model = onnx_model(
        "g (int64[1,6] ids) => (float[1,6,64] y) { y = Gather<axis=0>(table, ids) }",
        table=np.zeros((1000, 64), np.float32),
    )
    lookup = kernels(model)[-1]
    assert lookup["nodes"] == ["y"]
    assert lookup["bytes"] == 2 * 6 * 64 * 4 + 6 * 8


def test_a_concatenation_in_place_writes_its_part() -> None:
    model = onnx_model(
        "g (float[1,16,8,8] x) => (float[1,32,8,8] z) {"
        " a = Conv<kernel_shape=[1,1]>(x, v) b = Conv<kernel_shape=[1,1]>(x, w)"
        " c = Concat<axis=1>(a, b) z = Relu(c) }",
        v=np.ones((16, 16, 1, 1), np.float32),
        w=np.full((16, 16, 1, 1), 2, np.float32),
    )
    convs = [k for k in kernels(model) if k["flops"]]
    assert len(convs) == 2
    part, weight = 16 * 64 * 4, 16 * 16 * 4
    assert convs[1]["bytes"] in (2 * part + weight, 2 * part + weight + 64)


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3)])
def test_a_recurrent_layer_counts_every_step(op: str, gates: int) -> None:
    hidden, steps = 16, 5
    model = onnx_model(
        f"g (float[{steps},1,8] x) => (float[{steps},1,1,{hidden}] y) "
        f"{{ y = {op}<hidden_size={hidden}>(x, w, r) }}",
        w=np.ones((1, gates * hidden, 8), np.float32),
        r=np.ones((1, gates * hidden, hidden), np.float32),
    )
    assert sum(k["flops"] for k in kernels(model)) == 2 * steps * gates * hidden * (8 + hidden)
