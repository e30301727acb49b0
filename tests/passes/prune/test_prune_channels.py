"""Removing what matters least, within a budget, and correcting what is left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import tvm
from builders import onnx_model
from tvm import IRModule, relax
from virtual_machine import virtual_machine

from relaxc.errors import OptionError
from relaxc.frontend.importer import from_onnx
from relaxc.passes.analysis.cost import layer_costs
from relaxc.passes.prune.budget import Budget, Saving, Scope
from relaxc.passes.prune.importance import IMPORTANCES, Importance
from relaxc.passes.prune.prune_channels import PruneChannels, PruneReport
from relaxc.passes.prune.segments import Arrays

# Three convolutions, a skip, and a classifier.
NETWORK = """g (float[1,3,8,8] x) => (float[1,5] y) {
    a = Conv<pads=[1,1,1,1]>(x, w)  b = Relu(a)
    c = Conv<pads=[1,1,1,1]>(b, u, cb)  d = Relu(c)
    e = Conv(d, t, eb)  s = Add(e, b)  r = Relu(s)
    m = GlobalAveragePool(r)  f = Flatten(m)  y = MatMul(f, v)
}"""


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def network() -> IRModule:
    # Sixteen channels that are mixtures of six: the others make up for what goes.
    mixed = np.einsum("om,mikl->oikl", weight(16, 6), weight(6, 8, 3, 3)) / 8
    weights = {
        "w": weight(8, 3, 3, 3),
        "u": mixed.astype(np.float32),
        "cb": np.full(16, 9, np.float32),  # ReLU lets everything through
        "t": weight(8, 16, 1, 1) / 4,
        "eb": weight(8),
        "v": weight(8, 5),
    }
    return from_onnx(onnx_model(NETWORK, 18, **weights)).mod


def run(mod: IRModule, arguments: Iterable[Arrays]) -> Iterator[list[np.ndarray]]:
    vm = virtual_machine(mod)
    for arrays in arguments:
        yield [np.asarray(r.numpy()) for r in vm["main"](*map(tvm.runtime.tensor, arrays))]


def samples(count: int = 40, seed: int = 1) -> list[Arrays]:
    rng = np.random.default_rng(seed)
    return [[rng.standard_normal((1, 3, 8, 8)).astype(np.float32)] for _ in range(count)]


def outputs(mod: IRModule) -> np.ndarray:
    vm = virtual_machine(mod)
    return np.array([vm["main"](tvm.runtime.tensor(x)).numpy() for (x,) in samples(seed=2)])


def pruned(
    share: float = 0.5,
    saving: Saving = "channels",
    scope: Scope = "uniform",
    importance: Importance = "l2",
    exclude: tuple[str, ...] = (),
    recover: bool = False,
    multiple: int = 1,
) -> tuple[IRModule, PruneReport]:
    reports: list[PruneReport] = []
    budget = Budget(saving, share, scope, multiple)
    pass_ = PruneChannels(budget, importance, exclude, recover, run, samples, reports.append)
    mod = network()
    text = mod.script()
    small = pass_.apply(mod)
    relax.analysis.well_formed(small)
    assert mod.script() == text
    return small, reports[0]


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_every_importance_removes_half(importance: Importance) -> None:
    _, report = pruned(importance=importance)
    assert [(g.before, g.after) for g in report.groups] == [(8, 4), (16, 8)]


@pytest.mark.parametrize("scope", ["uniform", "local", "global"])
@pytest.mark.parametrize("saving", ["macs", "params"])
def test_budgets_are_met_and_counted_right(saving: Saving, scope: Scope) -> None:
    small, report = pruned(0.4, saving, scope)
    before, after = report.macs if saving == "macs" else report.params
    assert 0.35 * before < after <= 0.6 * before
    layers = layer_costs(small)
    assert report.macs[1] == sum(layer["macs"] for layer in layers)
    assert report.params[1] == sum(layer["params"] for layer in layers)
    for when in (0, 1):
        assert report.macs[when] == sum(layer.macs[when] for layer in report.layers)
        assert report.params[when] == sum(layer.params[when] for layer in report.layers)
    assert all(
        layer.bytes[1] < layer.bytes[0] for layer in report.layers if layer.op == "nn.conv2d"
    )


def test_the_channels_of_smallest_norm_go() -> None:
    graph = """g (float[1,3] x) => (float[1,2] y) {
        a = MatMul(x, w)  y = MatMul(a, v)
    }"""
    w, v = np.ones((3, 4), np.float32), np.ones((4, 2), np.float32)
    w[:, [0, 2]] = 0.1
    v[1], v[3] = 5, 7
    mod = from_onnx(onnx_model(graph, 18, w=w, v=v)).mod
    small = PruneChannels(Budget("channels", 0.5, "uniform", 1)).apply(mod)
    second = small["main"].body.blocks[0].bindings[-1].value.args[1].value.numpy()
    np.testing.assert_array_equal(second, v[[1, 3]])


def test_counts_are_rounded_in_wide_groups() -> None:
    _, report = pruned(0.4, multiple=4)
    assert [g.after % 4 for g in report.groups if g.before == 16] == [0]


def test_recovery_gives_back_what_the_other_channels_can_say() -> None:
    dense = outputs(network())
    error = np.abs(outputs(pruned(exclude=("a",), importance="obs")[0]) - dense).mean()
    recovered = outputs(pruned(exclude=("a",), importance="obs", recover=True)[0])
    assert np.abs(recovered - dense).mean() < 0.1 * error


def test_what_is_excluded_stays() -> None:
    _, report = pruned(exclude=("y",))
    assert [g.nodes for g in report.groups] == [("c", "e")]


def test_what_is_excluded_must_exist() -> None:
    with pytest.raises(
        OptionError, match=r"`cc` is to be excluded from pruning, but no node with channels"
    ):
        pruned(exclude=("cc",))


def test_a_budget_beyond_what_can_go_is_refused() -> None:
    with pytest.raises(OptionError, match="pruning cannot save 99% of the params"):
        pruned(0.99, "params", exclude=("a",))


def test_a_model_without_free_channels_is_refused() -> None:
    mod = from_onnx(onnx_model("g (float[2] x) => (float[2] y) { y = Relu(x) }")).mod
    with pytest.raises(OptionError, match="no channels can be removed"):
        PruneChannels(Budget("channels", 0.5, "uniform", 1)).apply(mod)


def test_recovery_refuses_branches() -> None:
    graph = """g (bool c, float[1,4] x) => (float[1,2] y) {
        a = MatMul(x, w)
        b = If (c) <
            then_branch = t () => (float[1,4] p) { p = Relu(x) },
            else_branch = e () => (float[1,4] q) { q = Neg(x) }
        >
        s = MatMul(b, w)  k = MatMul(a, v)  l = MatMul(s, v)  y = Add(k, l)
    }"""
    weights = {"w": weight(4, 6), "v": weight(6, 2)}
    mod = from_onnx(onnx_model(graph, 18, **weights)).mod
    pass_ = PruneChannels(Budget("channels", 0.5, "uniform", 1), recover=True, run=run)
    with pytest.raises(OptionError, match="recovery and `obs` are for models without branches"):
        pass_.apply(mod)
