"""The images of a batch are computed part by part where that keeps their maps in the cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import tvm
import tvm_ffi
from builders import onnx_model
from kernels import TARGETS, check_model, run_model
from tvm import IRModule, relax

from relaxc import cpu
from relaxc.frontend.importer import from_onnx
from relaxc.layout import FIRST_IMAGE, KERNEL, LAYOUTS
from relaxc.passes.analysis.kernels import kernel_costs
from relaxc.passes.fuse.group_ops import GroupOps
from relaxc.passes.layout import batch_plan
from relaxc.passes.layout.choose_layout import ChooseLayout
from relaxc.passes.layout.split_batch import SplitBatch
from relaxc.passes.pipeline import default_passes
from relaxc.targets.llvm.library import LlvmKernels
from relaxc.targets.llvm.machine import Machine

CACHE = 20 << 10
LIBRARY = LlvmKernels(Machine(16, 32, 48 << 10, 1 << 20, 2, l3_bytes=4 * CACHE))
TWO_CONVS = """g (float[4,16,8,8] x) => (float[n,c,h,w] y) {
    a = Conv <kernel_shape=[1,1]> (x, w)
    b = Relu (a)
    c = Conv <kernel_shape=[3,3], pads=[1,1,1,1], group=16> (b, v)
    m = ReduceMean <keepdims=1> (c, axes)
    y = Conv <kernel_shape=[1,1]> (m, w)
}"""


@pytest.fixture(autouse=True)
def _calls_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small maps show what large ones do."""
    monkeypatch.setattr(batch_plan, "_CALL", 0)


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def _two_convs(batch: int | str = 4) -> onnx.ModelProto:
    return onnx_model(
        TWO_CONVS.replace("float[4", f"float[{batch}"),
        w=_random(16, 16, 1, 1),
        v=_random(16, 1, 3, 3),
        axes=np.array([2, 3]),
    )


def _before(model: onnx.ModelProto) -> IRModule:
    return ChooseLayout(LIBRARY).apply(GroupOps(LIBRARY).apply(from_onnx(model).mod))


def _described(mod: IRModule) -> list[str]:
    """The calls of `main`: result, kernel, first image, arguments and layouts."""
    lines = []
    for binding in (b for block in mod["main"].body.blocks for b in block.bindings):
        call = binding.value
        if not isinstance(call, relax.Call):
            continue
        attrs = mod[call.op].attrs
        kernel = str(attrs[KERNEL]) + (f"@{attrs[FIRST_IMAGE]}" if FIRST_IMAGE in attrs else "")
        args = ", ".join(arg.name for arg in call.args)
        dims = "x".join(str(int(d)) for d in call.ty.shape.values)
        layouts = " ".join(str(text) for text in attrs[LAYOUTS])
        lines.append(f"{binding.var.name} = {kernel}({args}) {dims}: {layouts}")
    return lines


def test_pairs_of_images_one_after_another() -> None:
    after = SplitBatch(LIBRARY).apply(_before(_two_convs()))
    relax.analysis.well_formed(after)
    pitch = 16 * 10 * 10  # the largest map, borders included
    part = [
        f"blocked16%{pitch}",
        f"blocked16+1,1,1,1%{pitch}",
    ]
    found = _described(after)
    assert found[:2] == [
        f"x.blocked16.image0 = take_images@0(x) 2x16x8x8: plain {part[0]}",
        f"b.image0 = conv2d(x.blocked16.image0) 2x16x8x8: {part[0]} {part[1]}",
    ]
    assert found[4:6] == [
        f"x.blocked16.image1 = take_images@2(x) 2x16x8x8: plain {part[0]}",
        f"b.image1 = conv2d(x.blocked16.image1) 2x16x8x8: {part[0]} {part[1]}",
    ]
    # The means are small: what follows sees the whole batch.
    assert found[8] == (
        f"m = join_images(m.image0, m.image1) 4x16x1x1: {part[0]} {part[0]} blocked16"
    )
    assert found[9].startswith("y") and "conv2d(m) 4x16x1x1" in found[9]


def test_parts_share_their_groups() -> None:
    after = SplitBatch(LIBRARY).apply(_before(_two_convs()))
    calls = [b.value for block in after["main"].body.blocks for b in block.bindings]
    ops = [c.op for c in calls if isinstance(c, relax.Call)]
    assert ops[1] == ops[5] and ops[2] == ops[6]
    called = {op.name_hint for op in ops}
    groups = [g for g, f in after.functions_items() if isinstance(f, relax.Function)]
    assert {g.name_hint for g in groups} == called | {"main"}, "no group is left behind"


@pytest.mark.parametrize("batch", [1, 2, 3, "n"])
def test_left_alone(batch: int | str) -> None:
    """One image, one part, three images that fit, and a batch that nobody knows."""
    library = LlvmKernels(Machine(16, 32, 48 << 10, 1 << 20, 2)) if batch == 3 else LIBRARY
    before = _before(_two_convs(batch))
    assert SplitBatch(library).apply(before) is before or tvm_ffi.structural_equal(
        SplitBatch(library).apply(before), before
    )


def test_a_second_time_changes_nothing() -> None:
    once = SplitBatch(LIBRARY).apply(_before(_two_convs()))
    tvm.ir.assert_structural_equal(SplitBatch(LIBRARY).apply(once), once)


def test_arithmetic_is_shared_out() -> None:
    imported = from_onnx(_two_convs()).mod

    def kernels(library: Any) -> list[dict[str, Any]]:
        mod = imported
        for item in default_passes(library):
            mod = item.apply(mod)
        return kernel_costs(imported, mod)

    whole = kernels(LlvmKernels(Machine(16, 32, 48 << 10, 1 << 20, 2)))
    parts = kernels(LIBRARY)
    assert len(parts) > len(whole)
    assert sum(k["flops"] for k in parts) == sum(k["flops"] for k in whole)
    assert {tuple(k["nodes"]) for k in parts} == {tuple(k["nodes"]) for k in whole}
    # Tensors lie farther apart than they are large.
    first = next(k for k in parts if k["flops"])
    assert first["bytes"] == 4 * (2 * 16 * 64 + 16 * 16 + 2 * 16 * 64) + first["bytes"] % 128


NETWORK = """g (float[BATCH,3,20,20] x) => (float[n,c] y, float[n,32,10,10] p) {
    a = Conv <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]> (x, w0)
    b = Relu (a)
    d = Conv <kernel_shape=[3,3], pads=[1,1,1,1], group=32> (b, w1)
    s = GlobalAveragePool (d)
    f = Conv <kernel_shape=[1,1]> (s, w2)
    g1 = Sigmoid (f)
    h = Mul (d, g1)
    i = Conv <kernel_shape=[1,1]> (h, w2)
    p = Add (i, b)
    q = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (p, w3)
    r = MaxPool <kernel_shape=[3,3], strides=[1,1], pads=[1,1,1,1]> (p)
    t = Concat <axis=1> (q, r)
    u = Conv <kernel_shape=[1,1]> (t, w4)
    v = GlobalAveragePool (u)
    z = Flatten (v)
    y = Gemm <transB=1> (z, w5)
}"""


def _network(batch: int) -> onnx.ModelProto:
    return onnx_model(
        NETWORK.replace("BATCH", str(batch)),
        w0=_random(32, 3, 3, 3),
        w1=_random(32, 1, 3, 3),
        w2=_random(32, 32, 1, 1) / 8,
        w3=_random(16, 32, 3, 3),
        w4=_random(20, 48, 1, 1),
        w5=_random(7, 20),
    )


@pytest.mark.parametrize(("target", "batch"), list(zip(TARGETS, (8, 3))))
def test_same_numbers(target: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """First layer, depthwise, squeeze-excite, residual, Winograd's method, pool, concatenation."""
    monkeypatch.setattr(LlvmKernels, "cached_bytes", property(lambda _library: 40 << 10))
    feed = {"x": _random(batch, 3, 20, 20)}
    check_model(_network(batch), feed, target, kernels={"take_images", "join_images"})


@pytest.mark.skipif("avx512bf16" not in cpu.features(), reason="needs dot products of bfloat16")
def test_same_numbers_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels compute a part of a batch as they compute the whole."""
    feed = {"x": _random(8, 3, 20, 20)}
    whole, _ = run_model(_network(8), feed, precision="bfloat16")
    monkeypatch.setattr(LlvmKernels, "cached_bytes", property(lambda _library: 30 << 10))
    parts, kernels = run_model(_network(8), feed, precision="bfloat16")
    assert {"take_images", "join_images"} <= kernels
    for expected, actual in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_a_map_that_is_broadcast_to_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one image, it would have the shape of a part."""
    monkeypatch.setattr(batch_plan.Step, "gain", lambda *_: 1e12)
    model = onnx_model(
        """g (float[3,16,8,8] x, float[1,16,8,8] e) => (float[n,c,h,w] y) {
            a = Conv <kernel_shape=[1,1]> (x, w)
            b = Conv <kernel_shape=[1,1]> (a, w)
            s = MaxPool <kernel_shape=[3,3], strides=[1,1], pads=[1,1,1,1]> (b)
            y = Mul (e, s)
        }""",
        w=_random(16, 16, 1, 1),
    )
    feed = {"x": _random(3, 16, 8, 8), "e": _random(1, 16, 8, 8)}
    check_model(model, feed, kernels={"take_images", "join_images"})


def test_a_map_that_enters_may_be_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its images lie as far apart as all others, and must not overlap."""
    monkeypatch.setattr(batch_plan.Step, "gain", lambda *_: 1e12)
    model = onnx_model(
        """g (float[4,16,9,9] x) => (float[n,c,h,w] y) {
            s = Softmax <axis=3> (x)
            a = Conv <kernel_shape=[1,1], strides=[4,4]> (s, w)
            y = Add (a, a)
        }""",
        w=_random(16, 16, 1, 1),
    )
    feed = {"x": _random(4, 16, 9, 9)}
    check_model(model, feed, kernels={"take_images", "join_images"})
