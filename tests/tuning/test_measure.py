"""Candidates are judged beside the untuned kernel, and cannot take the tuner down."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from builders import onnx_model
from tvm import IRModule

from relaxc.errors import TargetError
from relaxc.frontend.importer import from_onnx
from relaxc.passes.pipeline import default_passes
from relaxc.targets.llvm.backend import LlvmBackend
from relaxc.targets.llvm.kernels.builder import KernelBuilder
from relaxc.targets.llvm.machine import machine_of
from relaxc.targets.llvm.tuning import Site
from relaxc.targets.registry import backend_for
from relaxc.targets.tuning.history import History
from relaxc.tuning.job import Job
from relaxc.tuning.measure import MeasureOptions, Measurer


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def sites_of(model: onnx.ModelProto) -> tuple[LlvmBackend, list[Site]]:
    backend = backend_for("llvm")
    assert isinstance(backend, LlvmBackend)
    backend = backend.with_records(History([]))
    mod: IRModule = from_onnx(model).mod
    kernels: Any = backend.kernels
    for item in default_passes(kernels):
        mod = item.apply(mod)
        if item.name == "choose-layout":
            break
    return backend, kernels.sites(mod)


@pytest.fixture(scope="module")
def sites() -> tuple[LlvmBackend, list[Site]]:
    """One of each: direct, with a small map, by Winograd's method, depthwise, a product."""
    model = onnx_model(
        """g (float[1,16,12,12] x) => (float[1,m,n] y) {
            a = Conv <kernel_shape=[1,1]> (x, v)
            b = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (a, w)
            c = Conv <kernel_shape=[3,3], pads=[1,1,1,1], group=32> (b, u)
            r = Relu (c)
            s = Constant <value_ints=[1,32,144]> ()
            f = Reshape (r, s)
            y = MatMul (f, k) }""",
        v=random(32, 16, 1, 1),
        w=random(32, 32, 3, 3),
        u=random(32, 1, 3, 3),
        k=random(144, 40),
    )
    return sites_of(model)


@pytest.fixture(scope="module")
def measurer(sites: tuple[LlvmBackend, list[Site]]) -> Iterator[Measurer]:
    backend, _ = sites
    options = MeasureOptions(threads=1, timeout_s=60, sweep_bytes=1 << 16, pairs=1, least_s=0)
    with Measurer(str(backend.target), options) as child:
        yield child


def test_every_choice_computes_the_same(
    sites: tuple[LlvmBackend, list[Site]], measurer: Measurer
) -> None:
    backend, found = sites
    machine = machine_of(backend.target)
    assert [site.task.kernel for site in found] == ["conv2d", "conv2d", "conv2d", "matmul"]
    algorithms = set()
    for site in found:
        space = site.space(machine)
        first, *rest = space
        assert measurer.begin(Job.of(site, first, machine))["outcome"] == "ok"
        for choice in [*rest[:: len(rest) // 3], rest[-1]]:
            algorithms.add(choice.get("algorithm"))
            answer = measurer.trial(Job.of(site, choice, machine))
            assert answer["outcome"] == "ok", (str(site.task), choice, answer)
            assert answer["ratio"] > 0 and answer["seconds"] > 0
    assert algorithms == {"direct", "winograd", "depthwise", None}


def test_what_goes_wrong_is_told_and_survived(
    sites: tuple[LlvmBackend, list[Site]], measurer: Measurer, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, found = sites
    machine = machine_of(backend.target)
    site = found[-1]
    untuned = Job.of(site, site.space(machine)[0], machine)
    assert measurer.begin(untuned)["outcome"] == "ok"
    constants = [2 * untuned.constants[0], *untuned.constants[1:]]
    answer = measurer.trial(replace(untuned, constants=constants))
    assert answer["outcome"] == "wrong" and "differ by" in answer["detail"]
    assert measurer.trial(replace(untuned, constants=[]))["outcome"] in ("failed", "crashed")
    assert measurer.trial(replace(untuned, func=_astray(untuned)))["outcome"] == "crashed"
    assert measurer.trial(untuned)["outcome"] == "ok"
    monkeypatch.setattr(measurer, "_options", replace(measurer._options, timeout_s=0.001))
    assert measurer.trial(untuned)["outcome"] == "timeout"
    monkeypatch.undo()
    assert measurer.trial(untuned)["outcome"] == "ok"


def _astray(job: Job) -> Any:
    """Reads far outside of its data."""
    b = KernelBuilder("kernel", 16)
    for i, (shape, _) in enumerate(job.tensors[:-1]):
        b.param(f"x{i}", shape)
    for i, array in enumerate(job.constants):
        b.param(f"w{i}", array.shape)
    y = b.param("y", tuple(job.tensors[-1][0]))
    with b.loop(1 << 40) as i:
        b.store(y, i * (1 << 20), b.splat(1.0))
    return b.finish(public=True)


def test_a_child_that_does_not_start_is_an_error(
    sites: tuple[LlvmBackend, list[Site]], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, found = sites
    machine = machine_of(backend.target)
    untuned = Job.of(found[-1], found[-1].space(machine)[0], machine)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    child = Measurer("no target", MeasureOptions(threads=1))
    with child, pytest.raises(TargetError, match="does not start"):
        child.begin(untuned)
