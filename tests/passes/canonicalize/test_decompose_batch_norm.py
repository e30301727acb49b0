"""Batch norm without a convolution in front becomes a multiply and an add."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax

from relaxc.passes.canonicalize.decompose_batch_norm import DecomposeBatchNorm

_RNG = np.random.default_rng(0)
_GAMMA, _BETA, _MEAN = (_RNG.standard_normal(3).astype(np.float32) for _ in range(3))
_VARIANCE = np.abs(_RNG.standard_normal(3).astype(np.float32)) + 0.5


def _module(constant_scale: bool = True) -> tvm.IRModule:
    x = relax.Var("x", relax.TensorType([2, 3, 4, 4], "float32"))
    g = relax.Var("g", relax.TensorType([3], "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, g]):
        with builder.dataflow():
            gamma = relax.const(_GAMMA) if constant_scale else g
            others = [relax.const(a) for a in (_BETA, _MEAN, _VARIANCE)]
            norm = builder.emit(relax.op.nn.batch_norm(x, gamma, *others, axis=1))
            result = builder.emit_output(relax.TupleGetItem(norm, 0))
        builder.emit_func_output(result)
    return builder.get()


def test_rewrites() -> None:
    after = DecomposeBatchNorm().apply(_module())
    text = after.script()
    assert "batch_norm" not in relax.transform.DeadCodeElimination()(after).script()
    assert "R.multiply" in text and "R.add" in text
    relax.analysis.well_formed(after)


def test_leaves_unknown_statistics_alone(golden: Callable[..., None]) -> None:
    golden(DecomposeBatchNorm(), _module(False), _module(False))


def test_same_numbers(execute: Callable[..., np.ndarray]) -> None:
    x = _RNG.standard_normal((2, 3, 4, 4)).astype(np.float32)
    before = relax.transform.DecomposeOpsForInference()(_module())
    after = DecomposeBatchNorm().apply(_module())
    np.testing.assert_allclose(
        execute(after, x, _GAMMA), execute(before, x, _GAMMA), rtol=1e-5, atol=1e-6
    )
