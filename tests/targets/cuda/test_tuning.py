"""Kernels for GPUs are divided as records say, if they offer that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from builders import onnx_model

from relaxc.frontend.importer import from_onnx
from relaxc.passes.layout.lower_groups import LowerGroups
from relaxc.passes.pipeline import default_passes
from relaxc.passes.precision.convert_io import ConvertIo
from relaxc.targets.cuda.backend import CudaBackend
from relaxc.targets.cuda.kernels.launch import launch_of, source_of, take_sources
from relaxc.targets.cuda.library import CudaSite
from relaxc.targets.registry import backend_for
from relaxc.targets.tuning.history import VERDICT, History
from relaxc.targets.tuning.task import Task


def model(rows: str = "256") -> Any:
    ones = np.ones((64, 64, 3, 3), np.float32)
    return onnx_model(
        f"""g (float[{rows},64,8,8] x, float[{rows},2,96,64] q)
            => (float[{rows},64,8,8] y, float[{rows},2,96,64] z) {{
            c = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w)
            y = Relu (c)
            t = Transpose <perm=[0,1,3,2]> (q)
            s = MatMul (q, t)
            p = Softmax <axis=-1> (s)
            z = MatMul (p, q) }}""",
        w=ones,
    )


def grouped(graph: Any, backend: CudaBackend) -> Any:
    mod = ConvertIo("float16").apply(from_onnx(graph).mod)
    kernels: Any = backend.kernels
    for item in default_passes(kernels, precision=backend.precision):
        if isinstance(item, LowerGroups):
            return mod
        mod = item.apply(mod)
    raise AssertionError


def backend(records: Sequence[Mapping[str, Any]] = ()) -> CudaBackend:
    found = backend_for("cuda -arch=sm_90").with_precision("float16")
    tuned = found.with_records(History(records))
    assert isinstance(tuned, CudaBackend)
    return tuned


@pytest.fixture(scope="module")
def sites() -> dict[str, CudaSite]:
    tuned = backend()
    found = tuned.kernels.sites(grouped(model(), tuned))
    return {site.task.kernel: site for site in found}


def verdict(task: Task, choice: Mapping[str, Any]) -> dict[str, Any]:
    fields = {"workload": task.workload, "context": task.context, "choice": dict(choice)}
    return {"kind": VERDICT, **fields, "ratio": 0.5, "at": 1}


def sources(tuned: CudaBackend) -> list[str]:
    kernels: Any = tuned.kernels
    mod = LowerGroups(kernels).apply(grouped(model(), tuned))
    return [source.source for source in take_sources(mod)[1]]


def test_kernels_say_what_they_compute_and_offer(sites: dict[str, CudaSite]) -> None:
    assert set(sites) == {"cuda.conv2d", "cuda.attention"}
    conv, attention = sites["cuda.conv2d"], sites["cuda.attention"]
    text = "cuda.conv2d 3x3 64x8x8 to 64x8x8 batch=256 element=float16 +relu"
    assert str(conv.task) == text
    assert conv.task.context["arch"] == "sm_90"
    assert len({str(choice) for choice in conv.choices}) == len(conv.choices) > 50
    # Blocks share so few keys in no more than two parts.
    assert {choice["split"] for choice in attention.choices} == {1}
    assert {choice["warps"] for choice in attention.choices} == {0, 1, 2, 4, 8}
    assert {choice["teams"] for choice in attention.choices} == {0, 1, 2}


def test_a_choice_writes_the_kernel_and_its_launch(sites: dict[str, CudaSite]) -> None:
    site = sites["cuda.conv2d"]
    choice = next(c for c in site.choices if c["share_rows"] == 2 and c["rows"] == 128)
    kernel = site.written(choice)
    assert "constexpr int SHARE_M = 2;" in source_of(kernel.func).source
    launch = launch_of(kernel.func)
    assert launch is not None and [dtype for _, dtype in launch["buffers"]] == ["float16"] * 3
    assert launch["maps"][0]["pixels"] * choice["share_columns"] == 128
    (packed,) = kernel.packed.values()
    assert (packed.depth, packed.columns) == (576, 64)


def test_records_decide(sites: dict[str, CudaSite]) -> None:
    conv, attention = sites["cuda.conv2d"], sites["cuda.attention"]
    chosen = conv.choices[7]
    (wide,) = (choice for choice in attention.choices if choice["warps"] == 8)
    records = [verdict(conv.task, chosen), verdict(attention.task, wide)]
    texts = sources(backend(records))
    assert any(f"constexpr int BM = {chosen['rows']};" in text for text in texts)
    assert any("constexpr int WARPS = 8;" in text for text in texts)
    expected = source_of(conv.written(chosen).func).source
    assert expected in texts and expected not in sources(backend())


@pytest.mark.parametrize("teams", [0, 1, 2])
def test_attention_is_written_as_chosen(sites: dict[str, CudaSite], teams: int) -> None:
    attention = sites["cuda.attention"]
    for choice in (c for c in attention.choices if c["teams"] == teams):
        kernel = attention.written(choice)
        launch, text = launch_of(kernel.func), source_of(kernel.func).source
        assert launch is not None
        assert launch["threads"] == (128 * (teams + 1) if teams else 32 * int(choice["warps"]))
        assert (f"constexpr int TEAMS = {teams};" in text) == (teams > 0)


def test_choices_that_are_not_offered_are_refused(sites: dict[str, CudaSite]) -> None:
    task = sites["cuda.attention"].task
    tuned = backend([verdict(task, {"warps": 3, "split": 1})])
    assert sources(tuned) == sources(backend())
    assert len(tuned.refused_records) == 1 and "no longer offered" in tuned.refused_records[0]


def test_kernels_of_open_sizes_are_no_sites() -> None:
    tuned = backend()
    found = tuned.kernels.sites(grouped(model("n"), tuned))
    assert [site.task.kernel for site in found] == []


@pytest.mark.parametrize("is_paired", [False, True])
def test_products_of_a_row_are_divided_as_chosen(is_paired: bool) -> None:
    random = np.random.default_rng(0).standard_normal
    weights: dict[str, Any] = {name: random((96, 40), np.float32) for name in "wv"}
    graph = "a = MatMul (x, w)\n b = MatMul (x, v)\n c = Sigmoid (a)\n y = Mul (c, b)"
    if not is_paired:
        graph = "a = MatMul (x, w)\n y = Add (a, v0)"
        weights = {"w": weights["w"], "v0": weights["v"][0]}
    text = f"g (float[1,96] x) => (float[1,40] y) {{ {graph} }}"
    tuned = backend()
    (site,) = tuned.kernels.sites(grouped(onnx_model(text, **weights), tuned))
    assert site.task.kernel == "cuda.matvec" and len(site.choices) > 4
    for choice in site.choices:
        kernel = site.written(choice)
        source = source_of(kernel.func).source
        assert f"constexpr int DEPTH_WARPS = {choice['depth_warps']};" in source
        assert f"constexpr int COLUMNS = {choice['columns']};" in source
        # What is measured elsewhere is packed as the kernel's own weights are.
        ((place, packed),) = kernel.packed.items()
        matrix = weights["w"].astype(np.float16)
        if is_paired:
            pairs = np.stack([weights["w"], weights["v"]], axis=-1).reshape(96, -1)
            matrix = pairs.astype(packed.dtype)
        again = packed.packing.apply(matrix).view(np.int8)
        np.testing.assert_array_equal(kernel.constants[place], again)
