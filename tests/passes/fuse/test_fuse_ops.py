"""Fused groups keep the names of ONNX nodes."""

from __future__ import annotations

import numpy as np
from builders import conv_model, onnx_model
from tvm import IRModule, relax

from relaxc.frontend.importer import from_onnx
from relaxc.passes.canonicalize.fold_batch_norm import FoldBatchNorm
from relaxc.passes.fuse.annotate_patterns import AnnotatePatterns
from relaxc.passes.fuse.fuse_ops import FuseOps


def prepared() -> IRModule:
    model = conv_model()
    for node, name in zip(model.graph.node, ("conv", "norm", "relu", "pool")):
        node.name = name
    mod = relax.transform.FoldConstant()(FoldBatchNorm().apply(from_onnx(model).mod))
    return AnnotatePatterns().apply(relax.transform.LegalizeOps()(mod))


def results(mod: IRModule) -> list[str]:
    return [b.var.name for block in mod["main"].body.blocks for b in block.bindings]


def test_a_group_is_named_after_its_last_operator() -> None:
    fused = FuseOps().apply(prepared())
    relax.analysis.well_formed(fused)
    assert "relu" in results(fused)
    assert not any(name.startswith("lv") for name in results(fused))


def test_there_are_fewer_calls_than_before() -> None:
    before = prepared()
    assert len(results(FuseOps().apply(before))) < len(results(before))


def test_the_numbers_stay(execute: object) -> None:
    assert callable(execute)
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    before = prepared()
    after = relax.transform.FuseTIR()(FuseOps().apply(before))
    np.testing.assert_allclose(execute(after, x), execute(before, x), rtol=1e-5, atol=1e-5)


def test_the_input_is_not_changed() -> None:
    before = prepared()
    text = before.script()
    FuseOps().apply(before)
    assert before.script() == text


def test_equal_groups_keep_their_own_names() -> None:
    model = onnx_model(
        "g (float[4,9] x, float[4,9] z) => (float[4,9] b, float[4,9] e) {"
        " a = Sin(x) b = Mul(a, x) c = Sin(z) e = Mul(c, z) }"
    )
    mod = relax.transform.LegalizeOps()(from_onnx(model).mod)
    fused = FuseOps().apply(AnnotatePatterns().apply(mod))
    calls = [
        b
        for block in fused["main"].body.blocks
        for b in block.bindings
        if isinstance(b.value, relax.Call) and "fused" in str(b.value.op)
    ]
    assert len({str(b.value.op) for b in calls}) < len(calls), "the groups are shared"
    found = {b.var.name: [str(arg.name) for arg in b.value.args] for b in calls}
    assert found == {"b": ["x"], "e": ["z"]}
