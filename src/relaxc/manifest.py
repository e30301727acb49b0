"""What the manifest of an artifact says of a compiled model."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

import relaxc
from relaxc.artifact import WEIGHTS, Buffer, Manifest, pack_weights
from relaxc.frontend.importer import ImportedModel, ImportedProgram
from relaxc.options import CompileOptions
from relaxc.passes.analysis.cost import layer_costs
from relaxc.passes.analysis.memory import live_bytes
from relaxc.runtime.model import TensorInfo
from relaxc.targets.base import Backend, CompiledModule

Members = dict[str, Iterable[Buffer]]
_LICENSES = Path(__file__).parent / "licenses"


def header(
    imported: ImportedModel | ImportedProgram,
    backend: Backend,
    options: CompileOptions,
    passes: list[str],
) -> Manifest:
    """What does not depend on the code."""
    return {
        "model": {"name": imported.name, "sha256": imported.sha256, "opset": imported.opset},
        "target": backend.describe(),
        "versions": versions() | backend.compilers,
        "options": _describe_options(options),
        "passes": passes,
        "measured": {"latency_ms": None, "accuracy": None},
    }


def body(
    imported: ImportedModel,
    compiled: CompiledModule,
    weights: Iterable[tvm.runtime.Tensor],
    kernels: list[dict[str, Any]],
) -> tuple[Manifest, Members]:
    """What the manifest says of the code, and the members that hold code and weights."""
    entries, chunks = pack_weights([w.numpy() for w in weights])
    alive = live_bytes(imported.mod)
    members: Members = {f"lib/{name}": [data] for name, data in compiled.libraries.items()}
    if chunks:
        members[WEIGHTS] = chunks
    described = {
        "inputs": [
            entry | ({"any_alignment": True} if position in compiled.unaligned_inputs else {})
            for position, entry in enumerate(describe_inputs(imported))
        ],
        "outputs": describe_outputs(imported),
        "requirements": compiled.requirements,
        "layers": layer_costs(imported.mod),
        "kernels": kernels,
        "weights": entries,
        "workspace": compiled.workspace,
        "memory": {
            "weight_bytes": sum(entry["size_bytes"] for entry in entries),
            "activation_bytes": max((size for _name, size in alive), default=0),
            "live": [list(entry) for entry in alive],
        },
    }
    return described, members


def licenses() -> Members:
    """The notices of what artifacts carry along."""
    return {f"licenses/{p.name}": [p.read_bytes()] for p in sorted(_LICENSES.iterdir())}


def versions() -> dict[str, str]:
    """Versions of what made the artifact."""
    return {
        "relaxc": relaxc.__version__,
        "tvm": importlib.metadata.version("apache-tvm"),
        "tvm_ffi": importlib.metadata.version("apache-tvm-ffi"),
    }


def describe_inputs(imported: ImportedModel) -> list[dict[str, Any]]:
    """Name, dtype and shape of every input, as the manifest has them."""
    params = imported.mod["main"].params
    return [_tensor(n, var.ty, imported.narrow) for n, var in zip(imported.inputs, params)]


def tensor_infos(imported: ImportedModel) -> list[TensorInfo]:
    """Likewise, as a loaded model has them."""
    return [TensorInfo(e["name"], e["dtype"], tuple(e["shape"])) for e in describe_inputs(imported)]


def describe_outputs(imported: ImportedModel) -> list[dict[str, Any]]:
    """Name, dtype and shape of every output, as the manifest has them."""
    ty = imported.mod["main"].ret_ty
    fields = list(ty.fields) if isinstance(ty, relax.TupleType) else [ty]
    return [_tensor(n, field, imported.narrow) for n, field in zip(imported.outputs, fields)]


def _tensor(name: str, ty: relax.TensorType, narrow: Mapping[str, str]) -> dict[str, Any]:
    known = isinstance(ty.shape, relax.ShapeExpr)
    dims = list(ty.shape.values) if known else ["?"] * ty.ndim
    shape = [int(d) if isinstance(d, tvm.tirx.IntImm) else _expression(d) for d in dims]
    return {"name": name, "dtype": narrow.get(name, str(ty.dtype.dtype)), "shape": shape}


def _expression(dim: object) -> str:
    """A symbolic dimension as people write it: `n // 2`, not `n // T.int64(2)`."""
    return re.sub(r"T\.int64\((-?\d+)\)", r"\1", str(dim))


def _describe_options(options: CompileOptions) -> dict[str, Any]:
    return {
        "target": options.target,
        "input_shapes": {name: list(shape) for name, shape in options.input_shapes.items()},
        "opt_level": options.opt_level,
        "disabled_passes": list(options.disabled_passes),
        "prune": None if options.prune is None else asdict(options.prune),
        "sparsify": None if options.sparsify is None else asdict(options.sparsify),
        "quantize": None if options.quantize is None else asdict(options.quantize),
        "precision": options.precision,
        "io": options.io,
        "tensor_parallel": options.tensor_parallel,
        "preprocess": list(options.preprocess),
        "postprocess": list(options.postprocess),
    }
