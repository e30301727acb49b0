"""What is tuned is what will be compiled: quantized, pruned, in bfloat16, or run in steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import onnx_model

import relaxc
from relaxc import cpu
from relaxc.errors import OptionError
from relaxc.measure.feeds import FeedOptions
from relaxc.options import CompileOptions, PruneOptions, QuantizeOptions
from relaxc.targets.llvm.backend import LlvmBackend
from relaxc.targets.llvm.machine import machine_of
from relaxc.targets.registry import backend_for
from relaxc.targets.tuning.history import VERDICT, History
from relaxc.targets.tuning.records import RecordStore
from relaxc.tuning.job import AnySite, Job
from relaxc.tuning.measure import MeasureOptions, Measurer
from relaxc.tuning.subject import Subject

_BFLOAT16 = pytest.mark.skipif(
    "avx512bf16" not in cpu.features(), reason="needs a CPU with avx512bf16"
)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx_model(
        """g (float[1,32,8,8] x) => (float[1,32,24] y) {
            a = Conv <kernel_shape=[1,1]> (x, v)
            r = Relu (a)
            b = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (r, w)
            c = Conv <kernel_shape=[3,3], pads=[1,1,1,1], group=32> (b, u)
            s = Constant <value_ints=[1,32,64]> ()
            f = Reshape (c, s)
            y = MatMul (f, k) }""",
        v=random(32, 32, 1, 1),
        w=random(32, 32, 3, 3),
        u=random(32, 1, 3, 3),
        k=random(64, 24),
    )


@pytest.fixture(scope="module")
def backend() -> LlvmBackend:
    backend = backend_for("llvm")
    assert isinstance(backend, LlvmBackend)
    return backend.with_records(History([]))


@pytest.fixture(scope="module")
def measurer(backend: LlvmBackend) -> Iterator[Measurer]:
    options = MeasureOptions(threads=1, timeout_s=60, sweep_bytes=1 << 16, pairs=1, least_s=0)
    with Measurer(str(backend.target), options) as child:
        yield child


def check(sites: list[AnySite], backend: LlvmBackend, measurer: Measurer) -> set[Any]:
    """Try a few choices of every kernel; returns what their data are stored as."""
    machine = machine_of(backend.target)
    stored = set()
    for site in sites:
        space = site.space(machine)
        if len(space) < 2:
            continue
        first, *rest = space
        assert measurer.begin(Job.of(site, first, machine))["outcome"] == "ok", str(site.task)
        for choice in {len(rest) // 2: 0, len(rest) - 1: 0}:
            answer = measurer.trial(Job.of(site, rest[choice], machine))
            assert answer["outcome"] == "ok", (str(site.task), rest[choice], answer)
        told = site.task.workload
        names = ("kernel", "element", "weights", "rounds_rows")
        stored.add(tuple(told.get(name) for name in names))
    return stored


_SAMPLES = [{"x": random(1, 32, 8, 8)} for _ in range(8)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            CompileOptions(quantize=QuantizeOptions(scheme="int8", speed_gate=False)),
            {("conv2d", "uint8", None, None), ("matmul", "uint8", None, None)},
        ),
        (
            CompileOptions(quantize=QuantizeOptions(scheme="int4-weights")),
            {("matmul", "float32", "int4", False)},
        ),
        (
            CompileOptions(quantize=QuantizeOptions(scheme="int8-dynamic", speed_gate=False)),
            {("matmul", "float32", "int8", True)},
        ),
        pytest.param(
            CompileOptions(precision="bfloat16"),
            {("conv2d", "bfloat16", None, None), ("matmul", "bfloat16", None, None)},
            marks=_BFLOAT16,
        ),
        (
            CompileOptions(prune=PruneOptions(saving="channels", share=0.5, round_to=8)),
            {("conv2d", "float32", None, None), ("matmul", "float32", None, None)},
        ),
    ],
    ids=["int8", "int4-weights", "int8-dynamic", "bfloat16", "pruned"],
)
def test_choices_compute_the_same(
    options: CompileOptions,
    expected: set[Any],
    model: onnx.ModelProto,
    backend: LlvmBackend,
    measurer: Measurer,
) -> None:
    bound = backend.with_precision(options.precision)
    subject = Subject.of(bound, model, options, _SAMPLES)
    assert expected <= check(subject.sites(bound), bound, measurer)


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=_BFLOAT16)])
def test_other_kernels_have_choices_too(
    precision: Any, backend: LlvmBackend, measurer: Measurer
) -> None:
    model = onnx_model(
        """g (float[1,16,9,9] x, float[1,2,40,16] q, float[1,2,50,16] k, float[1,2,50,24] v)
            => (float[1,32,16,16] y, float[1,2,40,24] z) {
            a = MaxPool <kernel_shape=[3,3], strides=[2,2], pads=[1,1,0,0]> (x)
            b = AveragePool <kernel_shape=[2,2], strides=[1,1], pads=[0,0,1,1]> (x)
            p = Pad (a, n)
            c = Concat <axis=1> (p, b)
            d = ConvTranspose <kernel_shape=[2,2], strides=[2,2]> (c, w)
            y = Slice (d, s, e)
            t = Transpose <perm=[0,1,3,2]> (k)
            m = MatMul (q, t)
            o = Softmax <axis=-1> (m)
            z = MatMul (o, v) }""",
        n=np.array([0, 0, 0, 0, 0, 0, 5, 5], np.int64),
        w=random(32, 32, 2, 2),
        s=np.array([0, 0, 0, 0], np.int64),
        e=np.array([1, 32, 16, 16], np.int64),
    )
    bound = backend.with_precision(precision)
    subject = Subject.of(bound, model, CompileOptions(precision=precision))
    kernels = {kernel for kernel, *_ in check(subject.sites(bound), bound, measurer)}
    assert {"pool2d", "conv2d_transpose", "attention"} <= kernels


def test_loop_nests_have_traces_as_choices(
    backend: LlvmBackend, measurer: Measurer, tmp_path: Path
) -> None:
    model = onnx_model(
        """g (float[1,8,12,12] x) => (float[1,8,12] y) {
            s = ReduceL1 <keepdims=0> (x, a)
            y = CumSum (s, i) }""",
        a=np.array([3], np.int64),
        i=np.array(1, np.int64),
    )
    sites = Subject.of(backend, model, CompileOptions()).sites(backend)
    machine, store = machine_of(backend.target), RecordStore(tmp_path / "r.jsonl")
    kernels = [site for site in sites if site.task.kernel == "nest"]
    assert kernels
    for site in kernels:
        space = site.space(machine)
        assert len(space) > 3 and space == site.space(machine)
        assert measurer.begin(Job.of(site, space[0], machine))["outcome"] == "ok"
        answer = measurer.trial(Job.of(site, space[-1], machine))
        assert answer["outcome"] == "ok", (str(site.task), answer)
        about = {"workload": site.task.workload, "context": site.task.context}
        choice = dict(space[-1])
        store.append([{"kind": VERDICT, **about, "choice": choice, "ratio": 0.5, "at": 1}])
    options = CompileOptions(tuning_records=store.path)
    plain = relaxc.compile(model, tmp_path / "p.rxc", CompileOptions(tuning_records=None))
    tuned = relaxc.compile(model, tmp_path / "t.rxc", options)
    assert plain.path.read_bytes() != tuned.path.read_bytes() and not tuned.warnings
    x = random(1, 8, 12, 12)
    expected = np.cumsum(np.abs(x).sum(3), 1)
    np.testing.assert_allclose(relaxc.load(tuned.path)(x), expected, rtol=1e-5)
    store.append(
        [
            {
                "kind": VERDICT,
                **about,
                "choice": {**choice, "trace": "[[], [[0, 1]]]"},
                "ratio": 0.5,
                "at": 2,
            }
        ]
    )
    refused = relaxc.compile(model, tmp_path / "r.rxc", options)
    (warning,) = refused.warnings
    assert "names a choice that is no longer offered" in warning
    np.testing.assert_allclose(relaxc.load(refused.path)(x), expected, rtol=1e-5)


def test_a_quantized_model_is_tuned_and_finds_its_records(
    model: onnx.ModelProto, tmp_path: Path
) -> None:
    records = tmp_path / "r.jsonl"
    quantize = QuantizeOptions(scheme="int8", speed_gate=False)
    options = CompileOptions(quantize=quantize, tuning_records=records)
    tuning = relaxc.TuneOptions(
        trials=4, records=records, compile=options, tasks=("element=uint8",), threads=1
    )
    result = relaxc.tune(model, tuning, calibration_data=_SAMPLES)
    assert result.trials == 4 and result.before_s
    assert all("element=uint8" in kernel.task for kernel in result.kernels)
    built = relaxc.compile(model, tmp_path / "m.rxc", options, calibration_data=_SAMPLES)
    assert not [w for w in built.warnings if "tuning" in w]
    with pytest.raises(OptionError, match="needs calibration data"):
        relaxc.tune(model, tuning)


def test_a_model_that_runs_in_steps(tmp_path: Path) -> None:
    model = onnx_model(
        """g (float[1,64] x, int64 n) => (float[1,32] y) {
            t = Constant <value = bool {1}> ()
            h = Loop (n, t, x) <body = b (int64 i, bool c, float[1,64] s) => (bool d, float[1,64] o)
                { d = Identity (c) p = MatMul (s, w) o = Tanh (p) }>
            y = MatMul (h, k) }""",
        w=random(64, 64),
        k=random(64, 32),
    )
    np.savez(tmp_path / "feed.npz", x=random(1, 64), n=np.array(2, np.int64))
    options = relaxc.TuneOptions(
        trials=3,
        records=tmp_path / "r.jsonl",
        feed=FeedOptions(path=tmp_path / "feed.npz"),
    )
    result = relaxc.tune(model, options)
    assert result.trials == 3 and {k.calls for k in result.kernels} == {1}
