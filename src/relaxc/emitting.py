"""From a module that all passes have run on to an artifact: the model's, or one to try out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import IRModule

from relaxc import manifest
from relaxc.artifact import Manifest, write_artifact
from relaxc.calibrate import Feed, observe
from relaxc.errors import RelaxcError
from relaxc.frontend.importer import ImportedModel
from relaxc.options import CompileOptions, Diagnostics
from relaxc.pass_runner import PassRunner, pass_error
from relaxc.passes.canonicalize.lift_constants import WEIGHTS
from relaxc.passes.pipeline import default_passes
from relaxc.passes.prune.segments import Arrays
from relaxc.runtime.model import Model
from relaxc.runtime.session import load
from relaxc.statistics import Histograms
from relaxc.targets.base import Backend, CompiledModule


def write(
    output: Path,
    imported: ImportedModel,
    backend: Backend,
    compiled: CompiledModule,
    weights: Iterable[tvm.runtime.Tensor],
    options: CompileOptions,
    passes: list[str],
    kernels: list[dict[str, Any]],
) -> Manifest:
    """Write the artifact of a compiled module, and return its manifest."""
    described, members = manifest.body(imported, compiled, weights, kernels)
    top = manifest.header(imported, backend, options, passes)
    return write_artifact(output, top | described, members | manifest.licenses())


def run_piece(
    imported: ImportedModel, mod: IRModule, backend: Backend, arguments: Iterable[Arrays]
) -> Iterator[list[np.ndarray]]:
    """Build a part of a model, and run it on each set of arguments."""
    inputs = tuple(f"relaxc.argument{i}" for i in range(len(mod["main"].params)))
    outputs = tuple(f"relaxc.result{i}" for i in range(len(mod["main"].ret_ty.fields)))
    part = replace(imported, mod=mod, inputs=inputs, outputs=outputs, narrow={})
    with tempfile.TemporaryDirectory(prefix="relaxc-") as folder:
        path = Path(folder) / "piece.rxc"
        write_probe(path, part, backend)
        session = load(path)
        for arrays in arguments:
            results = session.run(dict(zip(inputs, arrays, strict=True)))
            yield [results[name] for name in outputs]


def write_probe(path: Path, part: ImportedModel, backend: Backend) -> None:
    """Build a module that is only run here, without a report of its costs."""
    mod = PassRunner(Diagnostics()).run(default_passes(backend.kernels), part.mod)
    write_finished(path, part, mod, backend, [])


def write_finished(
    path: Path, part: ImportedModel, mod: IRModule, backend: Backend, kernels: list[dict[str, Any]]
) -> None:
    """Build a module that all passes have run on, which is only run here."""
    weights = mod["main"].attrs[WEIGHTS]
    compiled = build(backend, PassRunner(Diagnostics()).lower(backend, mod), listing=False)
    write(path, part, backend, compiled, weights, CompileOptions(), [], kernels)


def load_probe(
    stack: ExitStack,
    imported: ImportedModel,
    mod: IRModule,
    backend: Backend,
    kernels: list[dict[str, Any]],
) -> Model:
    """Build a module that all passes have run on, and load it until the stack is left."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="relaxc-"))
    path = Path(folder) / "timed.rxc"
    write_finished(path, imported, mod, backend, kernels)
    return load(path)


def observe_ranges(
    imported: ImportedModel, instrumented: IRModule, backend: Backend, data: Iterable[Feed]
) -> Histograms:
    """Build an instrumented module and run it on the calibration data."""
    results = len(instrumented["main"].ret_ty.fields)
    outputs = tuple(f"relaxc.result{i}" for i in range(results))
    observed = replace(imported, mod=instrumented, outputs=outputs)
    with tempfile.TemporaryDirectory(prefix="relaxc-") as folder:
        path = Path(folder) / "instrumented.rxc"
        write_probe(path, observed, backend)
        return observe(path, data)


def build(backend: Backend, mod: IRModule, listing: bool) -> CompiledModule:
    """Generate code; what goes wrong is a bug of ours."""
    try:
        return backend.build(mod, listing)
    except RelaxcError:
        raise
    except Exception as err:
        raise pass_error("code generation failed", err) from err
