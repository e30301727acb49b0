"""Zeros where they matter least, and what makes up for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import tvm
from builders import onnx_model
from tvm import IRModule, relax
from virtual_machine import virtual_machine

from relaxc.errors import OptionError
from relaxc.frontend.importer import from_onnx
from relaxc.passes.prune.prune_weights import (
    CRITERIA,
    Blocks,
    Criterion,
    NOfM,
    Pattern,
    PruneWeights,
    Unstructured,
    compensated,
    refitted,
)
from relaxc.passes.prune.segments import Arrays

RNG = np.random.default_rng(0)
W = RNG.standard_normal((6, 4, 3, 3)).astype(np.float32)
V = RNG.standard_normal((6, 5)).astype(np.float32)
GRAPH = """g (float[1,4,8,8] x) => (float[1,5] y) {
    a = Conv(x, w)  m = GlobalMaxPool(a)  f = Flatten(m)  y = MatMul(f, v)
}"""


def network() -> IRModule:
    return from_onnx(onnx_model(GRAPH, 18, w=W, v=V)).mod


def run(mod: IRModule, arguments: Iterable[Arrays]) -> Iterator[list[np.ndarray]]:
    vm = virtual_machine(mod)
    for arrays in arguments:
        found = vm["main"](*map(tvm.runtime.tensor, arrays))
        yield [r.numpy() for r in ([found] if isinstance(found, tvm.runtime.Tensor) else found)]


def samples() -> list[Arrays]:
    rng = np.random.default_rng(1)
    mix = rng.standard_normal((4, 4)).astype(np.float32)
    values = rng.standard_normal((20, 1, 4, 8, 8)).astype(np.float32)
    return [[np.einsum("ij,njhw->nihw", mix, v)] for v in values]


def weights(mod: IRModule) -> list[np.ndarray]:
    calls = [b.value for b in mod["main"].body.blocks[0].bindings]
    return [
        c.args[1].value.numpy() for c in calls if c.op.name in ("relax.nn.conv2d", "relax.matmul")
    ]


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("pattern", [Unstructured(0.5), NOfM(2, 4)])
def test_half_of_the_weights_become_zero(criterion: Criterion, pattern: Pattern) -> None:
    mod = network()
    text = mod.script()
    pruned = PruneWeights(pattern, criterion, run=run, samples=samples).apply(mod)
    relax.analysis.well_formed(pruned)
    assert mod.script() == text
    conv, product = weights(pruned)
    assert (conv == 0).mean() == pytest.approx(0.5, abs=0.02)
    if isinstance(pattern, NOfM):
        # Four neighbours of a row: taps and channels of one output.
        assert ((conv.reshape(-1, 4) != 0).sum(1) == 2).all()
        np.testing.assert_array_equal(product, V)  # six rows are no groups of four
    else:
        assert (product == 0).sum() == 15


@pytest.mark.parametrize("criterion", CRITERIA)
def test_blocks_become_zero_as_a_whole(criterion: Criterion) -> None:
    options: dict[str, Any] = {"run": run, "samples": samples}
    pruned = PruneWeights(Blocks(0.5, 4), criterion, **options).apply(network())
    conv, product = weights(pruned)
    for matrix in (conv.reshape(6, -1).T, product):
        left = matrix != 0
        blocks = [left[:, :4], left[:, 4:]]
        assert all((b.all(axis=1) | ~b.any(axis=1)).all() for b in blocks)
        assert sum(int((~b.any(axis=1)).sum()) for b in blocks) == len(matrix)


def test_only_what_pays_is_pruned() -> None:
    def pays(call: relax.Call) -> bool:
        return str(call.op.name) == "relax.matmul"

    conv, product = weights(PruneWeights(Blocks(0.5, 4), pays=pays).apply(network()))
    np.testing.assert_array_equal(conv, W)
    assert (product == 0).any()
    with pytest.raises(OptionError, match="that the pattern fits and whose kernel gains by it"):
        PruneWeights(Blocks(0.5, 4), pays=lambda _call: False).apply(network())


def test_the_smallest_go() -> None:
    conv, _ = weights(PruneWeights(Unstructured(0.5)).apply(network()))
    assert np.abs(W[conv == 0]).max() <= np.abs(W[conv != 0]).min()
    np.testing.assert_array_equal(conv[conv != 0], W[conv != 0])


def test_compensation_beats_magnitude_on_correlated_inputs() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((400, 6)) @ rng.standard_normal((6, 32))
    rows += 0.1 * rng.standard_normal(rows.shape)
    gram, weight = rows.T @ rows / len(rows), rng.standard_normal((32, 8))
    for pattern in (Unstructured(0.5), NOfM(2, 4)):
        smallest = weight * pattern.mask(np.abs(weight))
        swept = compensated(weight, gram, pattern)
        best = refitted(weight, swept, gram)
        assert ((best == 0).sum()) == weight.size // 2

        def error(other: np.ndarray) -> float:
            return float(((rows @ (weight - other)) ** 2).sum())

        assert error(swept) < 0.5 * error(smallest)
        assert error(best) < 0.1 * error(swept)


def test_recovery_corrects_what_drifted_and_keeps_the_zeros() -> None:
    graph = """g (float[1,4,8,8] x) => (float[1,6,8,8] y) {
        a = Conv<pads=[1,1,1,1]>(x, w)  b = Relu(a)  c = Conv(b, u, s)  d = Relu(c)  y = Conv(d, t)
    }"""
    rng = np.random.default_rng(3)
    shapes = {"w": (6, 4, 3, 3), "u": (8, 6, 1, 1), "s": (8,), "t": (6, 8, 1, 1)}
    values = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    mod = from_onnx(onnx_model(graph, 18, **values)).mod

    def pruned(criterion: Criterion, recover: bool) -> IRModule:
        result = PruneWeights(
            Unstructured(0.5), criterion, recover=recover, run=run, samples=samples
        ).apply(mod)
        relax.analysis.well_formed(result)
        return result

    bare, recovered = pruned("wanda", False), pruned("wanda", True)
    for before, after in zip(weights(bare), weights(recovered), strict=True):
        np.testing.assert_array_equal(before == 0, after == 0)
    lost = [distance(mod, m) for m in (bare, recovered, pruned("obs", False))]
    assert lost[1] < 0.8 * lost[0]
    assert lost[2] < 0.8 * lost[0]


def distance(dense: IRModule, other: IRModule, given: list[Arrays] | None = None) -> float:
    """The mean square of what differs."""
    pairs = zip(*(run(m, given or samples()) for m in (dense, other)), strict=True)
    return float(np.mean([((a[0] - b[0]) ** 2).mean() for a, b in pairs]))


def test_shapes_may_be_symbols_that_are_added() -> None:
    graph = """g (float[b,s,8] x, float[b,p,8] past) => (float[b,t,5] y) {
        a = MatMul(x, w)  c = Concat<axis=1>(past, a)  d = Relu(c)
        e = MatMul(d, u)  f = Add(e, k)  h = Relu(f)  y = MatMul(h, v)
    }"""
    rng = np.random.default_rng(5)
    shapes = {"w": (8, 8), "u": (8, 12), "k": (12,), "v": (12, 5)}
    values = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    mod = from_onnx(onnx_model(graph, 18, **values)).mod
    mix = rng.standard_normal((8, 8)).astype(np.float32)

    def given() -> list[Arrays]:
        made = np.random.default_rng(6)
        sizes = [*[(1, 9, 8)] * 12, (1, 2, 8)]
        return [[made.standard_normal(s).astype(np.float32) @ mix for _ in "xp"] for s in sizes]

    for criterion in ("magnitude", "obs"):
        options: dict[str, Any] = {"criterion": criterion, "run": run, "samples": given}
        bare = PruneWeights(Unstructured(0.5)).apply(mod)
        best = PruneWeights(Unstructured(0.5), recover=True, **options).apply(mod)
        relax.analysis.well_formed(best)
        assert "b" in str(best["main"].params[0].ty)
        assert all((w == 0).mean() == 0.5 for w in weights(best))
        assert distance(mod, best, given()) < 0.5 * distance(mod, bare, given())


def test_excluded_nodes_stay_dense() -> None:
    conv, product = weights(PruneWeights(Unstructured(0.5), exclude=("a",)).apply(network()))
    np.testing.assert_array_equal(conv, W)
    assert (product == 0).sum() == 15


def test_what_is_excluded_must_exist() -> None:
    with pytest.raises(OptionError, match="`b` is to be excluded from pruning, but no convolution"):
        PruneWeights(Unstructured(0.5), exclude=("b",)).apply(network())


def test_a_model_without_weights_is_refused() -> None:
    mod = from_onnx(onnx_model("g (float[2] x) => (float[2] y) { y = Relu(x) }")).mod
    with pytest.raises(OptionError, match="no weight can be pruned"):
        PruneWeights(Unstructured(0.5)).apply(mod)


def test_obs_refuses_branches() -> None:
    graph = """g (bool c, float[1,6] x) => (float[1,5] y) {
        a = If (c) <
            then_branch = t () => (float[1,6] p) { p = Relu(x) },
            else_branch = e () => (float[1,6] q) { q = Neg(x) }
        >
        y = MatMul(a, v)
    }"""
    mod = from_onnx(onnx_model(graph, 18, v=V)).mod
    pass_ = PruneWeights(Unstructured(0.5), "obs", run=run, samples=samples)
    with pytest.raises(OptionError, match="recovery and `obs` are for models without branches"):
        pass_.apply(mod)
