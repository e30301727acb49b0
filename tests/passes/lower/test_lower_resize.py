"""Loop nests that resize give way to one kernel, with ONNX Runtime's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from builders import onnx_model
from kernels import TARGETS, BuiltModel, check_model

from relaxc.frontend.importer import from_onnx
from relaxc.layout import RESIZED_AXIS
from relaxc.passes.canonicalize.fold_constant import FoldConstant
from relaxc.passes.canonicalize.fold_kernels import FoldKernels
from relaxc.passes.lower.lower_resize import Axis, LowerResize
from relaxc.targets.llvm.kernels import streaming
from relaxc.targets.registry import backend_for


def resized(
    *cases: tuple[Sequence[int | str], Sequence[float], str, str],
) -> onnx.ModelProto:
    """(shape, scales, mode, attributes) each, as one model."""
    inputs, outputs, nodes = [], [], []
    weights: dict[str, np.ndarray] = {}
    for i, (shape, scales, mode, more) in enumerate(cases):
        inputs.append(f"float[{','.join(map(str, shape))}] x{i}")
        outputs.append(f"float[{','.join(f'd{i}{a}' for a in range(len(shape)))}] y{i}")
        nodes.append(f'y{i} = Resize <mode="{mode}"{more}> (x{i}, , s{i})')
        weights[f"s{i}"] = np.array(scales, np.float32)
    graph = f"g ({', '.join(inputs)}) => ({', '.join(outputs)}) {{ {' '.join(nodes)} }}"
    return onnx_model(graph, 18, **weights)


class Recorded:
    """A target that has no kernels, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def lower_resize(self, _shape: Sequence[Any], axes: Sequence[Axis]) -> None:
        self.asked.append([axis for axis, _, _ in axes])


def imported(model: onnx.ModelProto) -> Any:
    return FoldKernels().apply(FoldConstant().apply(from_onnx(model).mod))


def test_asks_for_both_axes_then_for_each() -> None:
    library = Recorded()
    before = imported(resized(((1, 2, 5, 6), (1, 1, 2, 2), "linear", "")))
    after = LowerResize(library).apply(before)
    assert library.asked == [[3], [3, 2], [2]]
    assert [RESIZED_AXIS in f.attrs for _, f in after.functions_items() if f.attrs].count(True) == 2


def test_merges_two_axes_and_is_idempotent() -> None:
    if backend_for("llvm").kernels.lanes != 16:
        pytest.skip("columns are picked out of vectors of sixteen")
    rewrite = LowerResize(backend_for("llvm").kernels)
    once = rewrite.apply(imported(resized(((1, 2, 5, 6), (1, 1, 2, 2), "linear", ""))))
    calls = [b.value for block in once["main"].body.blocks for b in block.bindings]
    names = [c.args[0].name_hint for c in calls if getattr(c.op, "name", "") == "relax.call_tir"]
    assert names == ["resize"] or len(names) == 1
    assert rewrite.apply(once).script() == once.script()


def test_scales_of_the_run_stay_loops() -> None:
    model = onnx_model(
        """g (float[1,2,5,6] x, float[4] s) => (float[a,b,c,d] y) {
            y = Resize <mode="linear"> (x, , s) }"""
    )
    library = Recorded()
    LowerResize(library).apply(imported(model))
    assert library.asked == []


FLOOR = ', coordinate_transformation_mode="asymmetric", nearest_mode="floor"'
CASES = [
    # One vector of the data, two, more than two (loops), rows shorter than a vector, tails.
    ((1, 3, 9, 40), (1, 1, 2, 2), "linear", ""),
    ((2, 3, 20, 37), (1, 1, 1.5, 1.3), "linear", ""),
    ((2, 3, 20, 64), (1, 1, 0.5, 0.5), "linear", ""),
    ((2, 3, 20, 64), (1, 1, 0.3, 0.2), "linear", ""),
    ((2, 3, 7, 5), (1, 1, 3, 4), "linear", ""),
    ((1, 2, 9, 18), (1, 1, 2.5, 2), "cubic", ""),
    ((1, 2, 9, 31), (1, 1, 0.7, 0.8), "cubic", ""),
    ((1, 5, 8, 24), (1, 1, 2, 2), "nearest", FLOOR),
    # One axis; three; channels last; many rows for few maps.
    ((2, 4, 9, 17), (1, 1, 1, 2), "linear", ""),
    ((2, 4, 9, 17), (1, 1, 2, 1), "linear", ""),
    ((1, 70, 90), (1, 2, 2), "linear", ""),
    ((1, 2, 4, 6, 20), (1, 1, 2, 2, 2), "nearest", FLOOR),
    ((1, 6, 7, 19), (1, 2, 2, 1), "nearest", FLOOR),
]


def feed_of(model: onnx.ModelProto, batch: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        v.name: [d.dim_value or batch for d in v.type.tensor_type.shape.dim]
        for v in model.graph.input
    }
    return {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}


@pytest.mark.parametrize("target", TARGETS)
def test_same_numbers(target: str) -> None:
    model = resized(*CASES)
    check_model(model, feed_of(model), target, rtol=1e-5)


def test_same_numbers_around_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_LARGE", 0)
    model = resized(CASES[0], ((3, 5, 8, 16), (1, 1, 2, 2), "cubic", ""))
    check_model(model, feed_of(model), rtol=1e-5)


def test_open_batch() -> None:
    model = resized((("n", 3, 9, 21), (1, 1, 2, 2), "linear", ""))
    built = BuiltModel(model)
    assert "resize_positions" not in built.kernels
    large = feed_of(model, 3)
    (many,) = built.run(large)
    single = BuiltModel(resized(((1, 3, 9, 21), (1, 1, 2, 2), "linear", "")))
    for i in range(3):
        (expected,) = single.run({"x0": large["x0"][i : i + 1]})
        np.testing.assert_array_equal(many[i : i + 1], expected)
