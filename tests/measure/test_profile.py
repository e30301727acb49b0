"""Kernels' times."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from builders import dense_model, onnx_model

import relaxc
from relaxc.artifact import read_artifact, write_artifact
from relaxc.errors import ArtifactError, InputError
from relaxc.measure.profile import KernelTime, Profile, profile
from relaxc.measure.roofline import Roofline
from relaxc.report.profiling import as_json, as_text, of_peak
from relaxc.runtime.profiler import NAME_LENGTH

LINE = Roofline(1, {"float32": 1e9, "int8": 4e9}, ((1 << 20, 1e9), (1 << 30, 1e8)))


def kernel(name: str, seconds: float, flops: int = 0, size: int = 1000) -> KernelTime:
    return KernelTime(name, ("a", "b"), 1, seconds, seconds, flops, size, "float32")


def test_every_kernel_of_a_model_is_timed(conv_artifact: Path) -> None:
    model = relaxc.load(conv_artifact, threads=1)
    x = np.zeros((1, 3, 8, 8), np.float32)
    found = profile(model, {"x": x}, runs=3)
    assert [k.name for k in found.kernels] == [k["name"] for k in model.manifest["kernels"]]
    assert all(k.calls == 1 and 0 < k.min_s <= k.median_s for k in found.kernels)
    assert found.runtime.calls > 0
    assert found.sum_s <= found.median_s * 2
    assert {"a", "d", "y"} <= {node for k in found.kernels for node in k.nodes}


def test_symbols_take_the_sizes_of_the_inputs(tmp_path: Path) -> None:
    relaxc.compile(dense_model(4, 300), tmp_path / "a.rxc")
    model = relaxc.load(tmp_path / "a.rxc", threads=1)
    found = profile(model, {"x": np.zeros((7, 4), np.float32)}, runs=2)
    assert sum(k.flops or 0 for k in found.kernels) == 2 * 7 * 4 * 300


def test_a_branch_that_is_not_taken_leaves_a_gap(tmp_path: Path) -> None:
    model = onnx_model(
        "g (bool c, float[64,64] x) => (float[64,64] z) {"
        " y = If (c) <then_branch = t () => (float[64,64] a) { a = MatMul(x, w) },"
        " else_branch = e () => (float[64,64] b) { b = Exp(x) }> z = Relu(y) }",
        w=np.eye(64, dtype=np.float32),
    )
    relaxc.compile(model, tmp_path / "a.rxc")
    loaded = relaxc.load(tmp_path / "a.rxc", threads=1)
    x = np.ones((64, 64), np.float32)
    for taken, has_product in ((True, True), (False, False)):
        found = profile(loaded, {"c": np.array(taken), "x": x}, runs=1)
        assert any(k.flops for k in found.kernels) is has_product


def test_long_names_are_found(tmp_path: Path) -> None:
    """Fused loop nests are named after all that they do."""
    starts = {f"s{i}": np.array([i], np.int64) for i in range(9)}
    slices = " ".join(f"p{i} = Slice(x, s{i}, end, axis, step)" for i in range(9))
    parts = ", ".join(f"p{i}" for i in range(9))
    model = onnx_model(
        f"g (float[4,9] x) => (float[4,9] y) {{ {slices} y = Concat<axis=1>({parts}) }}",
        17,
        end=np.array([9], np.int64),
        axis=np.array([1], np.int64),
        step=np.array([9], np.int64),
        **starts,
    )
    relaxc.compile(model, tmp_path / "a.rxc")
    loaded = relaxc.load(tmp_path / "a.rxc", threads=1)
    names = [entry["name"] for entry in loaded.manifest["kernels"]]
    assert max(map(len, names)) > NAME_LENGTH
    found = profile(loaded, {"x": np.ones((4, 9), np.float32)}, runs=1)
    assert [kernel.name for kernel in found.kernels] == names


def test_normal_runs_go_on(conv_artifact: Path) -> None:
    model = relaxc.load(conv_artifact, threads=1)
    feed = {"x": np.ones((1, 3, 8, 8), np.float32)}
    before = model.run(feed)
    profile(model, feed, runs=1)
    for name, value in model.run(feed).items():
        np.testing.assert_array_equal(value, before[name])


def test_long_models_get_a_longer_log(conv_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relaxc.runtime.profiler._CAPACITY", 4)
    model = relaxc.load(conv_artifact, threads=1)
    found = profile(model, {"x": np.zeros((1, 3, 8, 8), np.float32)}, runs=2)
    assert len(found.kernels) == len(model.manifest["kernels"])


def test_wrong_inputs_are_refused(conv_artifact: Path) -> None:
    with pytest.raises(InputError, match="missing"):
        relaxc.load(conv_artifact).profile({}, 1)


def test_an_artifact_without_a_profiler(conv_artifact: Path, tmp_path: Path) -> None:
    old = read_artifact(conv_artifact)
    with zipfile.ZipFile(conv_artifact) as archive:
        names = set(archive.namelist()) - {"manifest.json", "lib/profiler.so"}
    members = {name: [bytes(old.member(name))] for name in names}
    write_artifact(tmp_path / "a.rxc", old.manifest, members)
    model = relaxc.load(tmp_path / "a.rxc", threads=1)
    with pytest.raises(ArtifactError, match=r"lacks its library `profiler.so`; compile it again"):
        model.profile({"x": np.zeros((1, 3, 8, 8), np.float32)}, 1)


def test_kinds_come_together() -> None:
    whole = Profile(
        1,
        (kernel("conv1", 1.0), kernel("pool", 5.0), kernel("conv12", 3.0, 10)),
        kernel("(TVM's runtime)", 0.5),
        9.5,
        9.5,
    )
    kinds = whole.by_algorithm()
    assert [(k.name, k.calls, k.min_s) for k in kinds] == [("pool", 1, 5.0), ("conv", 2, 4.0)]
    assert whole.sum_s == 9.5


def test_parts_of_a_batch_come_together(conv_artifact: Path, tmp_path: Path) -> None:
    """Kernels that compute the same nodes are counted as one; copies without nodes are not."""
    old = read_artifact(conv_artifact)
    entries = [{**entry, "nodes": []} for entry in old.manifest["kernels"]]
    conv = next(i for i, entry in enumerate(entries) if entry["flops"])
    with zipfile.ZipFile(conv_artifact) as archive:
        names = set(archive.namelist()) - {"manifest.json"}
    members = {name: [bytes(old.member(name))] for name in names}
    same = [{**entry, "name": entries[conv]["name"], "nodes": ["a"]} for entry in entries]
    for changed, count in ((entries, len(entries)), (same, 1)):
        write_artifact(tmp_path / "a.rxc", {**old.manifest, "kernels": changed}, members)
        model = relaxc.load(tmp_path / "a.rxc", threads=1)
        found = profile(model, {"x": np.zeros((1, 3, 8, 8), np.float32)}, 2)
        assert len(found.kernels) == count


def test_the_peak_is_that_of_compute_or_memory() -> None:
    assert of_peak(kernel("a", 1e-6, flops=500), LINE) == pytest.approx(1.0)  # 1000 bytes at 1 GB/s
    assert of_peak(kernel("a", 8e-6, flops=4000), LINE) == pytest.approx(0.5)
    assert of_peak(kernel("a", 1e-6, size=0), LINE) is None


def test_reports() -> None:
    whole = Profile(4, (kernel("conv1", 1e-3, 10**5),), kernel("(TVM's runtime)", 0), 1e-3, 2e-3)
    text = as_text(whole, LINE)
    assert "a + b" in text
    assert "Of peak" in text
    assert "4 inferences" in text
    assert "Of peak" not in as_text(whole, None)
    document = as_json(whole, LINE)
    assert document["kernels"][0]["nodes"] == ["a", "b"]
    assert document["kernels"][0]["of_peak"] == pytest.approx(0.1)
    assert as_json(whole, None)["kernels"][0]["of_peak"] is None
