"""Budgets in time: kernels move in steps, and what is saved is read off a table of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from builders import onnx_model
from tvm import IRModule

import relaxc
from relaxc.errors import OptionError
from relaxc.frontend.importer import from_onnx
from relaxc.gate import stopwatch
from relaxc.gate.variant import Seconds, Variant
from relaxc.options import CompileOptions, PruneOptions
from relaxc.passes.prune.budget import Budget
from relaxc.passes.prune.latency import KernelSeconds
from relaxc.passes.prune.products import products_of
from relaxc.passes.prune.prune_channels import PruneChannels, PruneReport

RNG = np.random.default_rng(0)
MODEL = onnx_model(
    """g (float[1,8,6,6] x) => (float[1,8,6,6] y) {
        a = Conv(x, w)  b = Relu(a)  c = Conv(b, v, t)  d = Relu(c)  y = Conv(d, u) }""",
    18,
    **{
        name: RNG.standard_normal(shape).astype(np.float32)
        for name, shape in {
            "w": (64, 8, 1, 1),
            "v": (64, 64, 1, 1),
            "u": (8, 64, 1, 1),
            "t": (64,),
        }.items()
    },
)


def steps(mods: Sequence[IRModule]) -> Iterator[KernelSeconds]:
    """A machine that computes sixteen outputs at a time; `c` is ten times slower than others."""
    for mod in mods:
        kernels = []
        for product in products_of(mod):
            rows, columns = product.matrix().shape
            node = str(product.var.name).partition(".")[0]
            cost = rows * math.ceil(columns / 16) * (10 if node == "c" else 1)
            kernels.append(((node,), cost * 1e-6))
        yield [*kernels, ((), 1e-6)]


def pruned(share: float, scope: str = "global") -> PruneReport:
    reports: list[PruneReport] = []
    budget = Budget("latency", share, scope, 16)  # type: ignore[arg-type]
    PruneChannels(budget, report=reports.append, clock=steps).apply(from_onnx(MODEL).mod)
    return reports[0]


@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_the_budget_is_met_by_the_table_and_in_truth(scope: str) -> None:
    report = pruned(0.5, scope)
    assert report.latency is not None
    before, after = report.latency
    assert after <= 0.5 * before
    (kernels,) = steps([report.mod])
    assert sum(seconds for _, seconds in kernels) == pytest.approx(after, rel=0.1)
    # Of the convolution with a bias, that is the convolution's.
    layers = {x.name.partition(".")[0]: x.latency_s for x in report.layers if x.latency_s}
    assert [x.op for x in report.layers if x.latency_s is None] == ["reshape"]
    assert set(layers) == {"a", "c", "y"}
    for name, (_, left) in layers.items():  # type: ignore[misc]
        (found,) = (seconds for nodes, seconds in kernels if nodes == (name,))
        assert left == pytest.approx(found, rel=0.15)
    # One kernel belongs to no layer.
    assert before == pytest.approx(sum(was for was, _ in layers.values()) + 1e-6)  # type: ignore[misc]


def test_a_budget_out_of_reach() -> None:
    with pytest.raises(OptionError, match=r"cannot save 99% of the latency: .* it is 9[\d.]+%"):
        pruned(0.99)


def test_from_the_model_to_the_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def measure(_self: object, variants: Sequence[Variant]) -> tuple[Seconds, bool]:
        measured.append(len(variants))
        seconds = {
            call.key: float(kernel["flops"] or kernel["bytes"])
            for variant in variants
            for call, kernel in zip(variant.calls, variant.kernels)
        }
        return seconds, True

    monkeypatch.setattr(stopwatch.Stopwatch, "_measure", measure)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    prune = PruneOptions(saving="latency", share=0.5, scope="global", round_to=16)
    done = relaxc.compile(MODEL, tmp_path / "a.rxc", CompileOptions(prune=prune))
    assert done.pruned is not None
    assert done.pruned.macs[1] < 0.6 * done.pruned.macs[0]
    assert measured
    count = len(measured)
    again = relaxc.compile(MODEL, tmp_path / "b.rxc", CompileOptions(prune=prune))
    assert len(measured) == count  # all kernels are known
    assert again.pruned is not None
    assert again.pruned.groups == done.pruned.groups
