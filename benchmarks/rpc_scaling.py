"""How much faster several devices tune than one: TVM's RPC servers on loopback.

    pip install -e .[rpc]
    python benchmarks/rpc_scaling.py [--devices 1 2] [--candidates 16] [--seconds 1.0]

Each device measures serial kernels (one thread), one candidate for so many seconds; candidates are
built here, one at a time. Needs a core for each device: with more of them than cores they share.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tvm.rpc.server import Server
from tvm.rpc.tracker import Tracker

from relaxc.options import CompileOptions
from relaxc.targets.llvm.backend import LlvmBackend
from relaxc.targets.llvm.machine import machine_of
from relaxc.targets.registry import backend_for
from relaxc.targets.tuning.history import History
from relaxc.tuning.job import Job
from relaxc.tuning.measure import MeasureOptions
from relaxc.tuning.remote import RemoteRunner
from relaxc.tuning.subject import Subject

_HOST, _KEY = "127.0.0.1", "board"


@dataclass(frozen=True)
class Rate:
    """What so many devices did."""

    devices: int
    valid: int
    seconds: float


def _model() -> onnx.ModelProto:
    weight = np.random.default_rng(0).standard_normal((128, 128, 1, 1)).astype(np.float32)
    shape = [1, 128, 28, 28]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[1, 1])],
        "pointwise",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def measure(devices: int, candidates: int, seconds: float) -> Rate:
    """Tune with so many servers."""
    backend = backend_for("llvm -num-cores=1")
    assert isinstance(backend, LlvmBackend)
    backend = backend.with_records(History([]))
    machine = machine_of(backend.target)
    (site,) = Subject.of(backend, _model(), CompileOptions()).sites(backend)
    space = site.space(machine)
    options = MeasureOptions(threads=1, least_s=seconds)
    with contextlib.ExitStack() as stack:
        tracker = Tracker(host=_HOST, port=9190, port_end=9290, silent=True)
        stack.callback(tracker.terminate)
        address = (_HOST, tracker.port)
        for _ in range(devices):
            server = Server(
                _HOST, port=9300, port_end=9400, tracker_addr=address, key=_KEY, silent=True
            )
            stack.callback(server.terminate)
        runner = RemoteRunner(backend, f"{_HOST}:{tracker.port}", _KEY, options)
        stack.enter_context(runner)
        assert runner.devices == devices
        runner.begin(Job.of(site, space[0], machine))
        jobs = [Job.of(site, choice, machine) for choice in space[1 : candidates + 1]]
        begin = time.monotonic()
        answers = [answer["outcome"] for _, answer in runner.trials(jobs)]
        return Rate(devices, answers.count("ok"), time.monotonic() - begin)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=1.0)
    args = parser.parse_args()
    first: Rate | None = None
    for devices in args.devices:
        rate = measure(devices, args.candidates, args.seconds)
        first = first or rate
        speedup = first.seconds / rate.seconds
        print(
            f"{devices} devices: {rate.valid} valid of {args.candidates} in {rate.seconds:.1f} s, "
            f"{rate.valid / rate.seconds:.2f} per second, {speedup:.2f}x"
        )


if __name__ == "__main__":
    main()
