"""Run an ONNX model through the compiler in this process, and beside ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
import tvm
from tvm import relax

from relaxc.frontend.importer import from_onnx
from relaxc.layout import Precision
from relaxc.passes.canonicalize.lift_constants import WEIGHTS
from relaxc.passes.pipeline import default_passes
from relaxc.targets.registry import backend_for
from relaxc.targets.workspace import workspace_of

# The vector widths that run on any test machine of today: AVX2, and this CPU's own.
TARGETS = ("llvm", "llvm -mcpu=x86-64-v3")


def workspace_tensors(mod: tvm.IRModule) -> list[tvm.runtime.Tensor]:
    """What lowered code takes after the weights, each tensor in memory of its own."""
    entries = workspace_of(mod)["tensors"]
    return [tvm.runtime.empty(entry["shape"], entry["dtype"]) for entry in entries]


class BuiltModel:
    """A model compiled in this process, to be run with several inputs.

    Attributes:
        kernels: names of the kernels, without numbers.
        schedules: what was recorded for each PrimFunc that is no kernel.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        target: str = "llvm",
        precision: Precision = "float32",
        rounds_rows: bool = False,
    ) -> None:
        backend = backend_for(target)
        imported = from_onnx(model)
        mod = imported.mod
        for item in default_passes(backend.kernels, precision=precision, rounds_rows=rounds_rows):
            mod = item.apply(mod)
            relax.analysis.well_formed(mod)
        self.kernels = {
            gvar.name_hint.rstrip("0123456789")
            for gvar, func in mod.functions_items()
            if isinstance(func, tvm.tirx.PrimFunc)
        }
        self.schedules: set[str] = set()
        self._inputs = imported.inputs
        self._weights: list[tvm.runtime.Tensor] = list(mod["main"].attrs[WEIGHTS])
        with backend.target:
            for _, transform in backend.lowering_passes():
                mod = transform(mod)
                self.schedules |= {
                    str(func.attrs["schedule"])
                    for _, func in mod.functions_items()
                    if isinstance(func, tvm.tirx.PrimFunc) and "schedule" in func.attrs
                }
            executable = relax.build(mod, backend.target, relax_pipeline=None)
        self._weights += workspace_tensors(mod)
        self._vm = relax.VirtualMachine(executable, tvm.cpu())

    def run(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """All outputs."""
        inputs = [tvm.runtime.tensor(feed[name]) for name in self._inputs]
        result = self._vm["main"](*inputs, *self._weights)
        results = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
        return [np.asarray(r.numpy()) for r in results]


def run_model(
    model: onnx.ModelProto,
    feed: Mapping[str, np.ndarray],
    target: str = "llvm",
    precision: Precision = "float32",
) -> tuple[list[np.ndarray], set[str]]:
    """Compile and run; returns the outputs and the names of the kernels, without numbers."""
    built = BuiltModel(model, target, precision)
    return built.run(feed), built.kernels


def check_model(
    model: onnx.ModelProto,
    feed: Mapping[str, np.ndarray],
    target: str = "llvm",
    *,
    kernels: set[str] | None = None,
    rtol: float = 2e-5,
) -> None:
    """Compare with ONNX Runtime, relative to the largest element; and which kernels did it."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    expected = session.run(None, dict(feed))
    actual, used = run_model(model, feed, target)
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape and a.dtype == e.dtype
        np.testing.assert_allclose(a, e, rtol=0, atol=rtol * max(float(np.abs(e).max()), 1e-6))
    if kernels is not None:
        assert kernels <= used, f"expected {kernels}, got {used}"
