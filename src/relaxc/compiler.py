"""compile(): frontend -> passes -> target -> artifact. The only file that knows all of them."""

from __future__ import annotations

import importlib.metadata
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import tvm
from tvm import IRModule, relax

import relaxc
from relaxc import tvm_patches
from relaxc.artifact import WEIGHTS as WEIGHTS_MEMBER
from relaxc.artifact import Buffer, Manifest, pack_weights, write_artifact
from relaxc.errors import OptionError, OutputError, PassError, RelaxcError, near_matches
from relaxc.frontend.importer import ImportedModel, from_onnx
from relaxc.options import CompileOptions, Diagnostics
from relaxc.passes.analysis.cost import layer_costs
from relaxc.passes.analysis.memory import peak_activation_bytes
from relaxc.passes.base import Pass
from relaxc.passes.canonicalize.lift_constants import WEIGHTS
from relaxc.passes.pipeline import default_passes
from relaxc.targets.base import Backend, CompiledModule
from relaxc.targets.registry import backend_for

tvm_patches.apply()

_LICENSES = Path(__file__).parent / "licenses"


@dataclass(frozen=True)
class PassRecord:
    """One pass that ran.

    Attributes:
        name: its name; repeated passes are numbered, as in `fold-constant-2`.
        seconds: wall time.
        changed: whether the module differs afterwards.
    """

    name: str
    seconds: float
    changed: bool


@dataclass(frozen=True)
class CompileResult:
    """What a compilation produced.

    Attributes:
        path: the artifact.
        manifest: its manifest.
        passes: what ran, in order.
        seconds: phase -> wall time.
        warnings: oddities of the model.
    """

    path: Path
    manifest: Manifest
    passes: tuple[PassRecord, ...]
    seconds: dict[str, float]
    warnings: tuple[str, ...]


def compile(
    model: str | os.PathLike[str] | onnx.ModelProto,
    output: str | os.PathLike[str],
    options: CompileOptions | None = None,
    diagnostics: Diagnostics | None = None,
) -> CompileResult:
    """Compile an ONNX model into an artifact.

    Args:
        model: path of the ONNX file, or a model in memory.
        output: the artifact to write; an existing file is replaced.
        options: what shapes the artifact.
        diagnostics: what to show on the way.

    Raises:
        ModelError: the model is unreadable, invalid or unsupported.
        OptionError: an option does not fit.
        TargetError: no C++ compiler to link with.
        OutputError: the artifact cannot be written.
    """
    options, diagnostics = options or CompileOptions(), diagnostics or Diagnostics()
    output = Path(output)
    require_writable(output)
    backend = backend_for(options.target)
    passes = select_passes(default_passes(backend.kernels), options, diagnostics)
    clock = _Clock(diagnostics.on_phase)
    clock.start("import")
    imported = from_onnx(model, options.input_shapes)
    clock.start("passes")
    runner = _PassRunner(diagnostics)
    mod = imported.mod
    runner.dump("imported", mod)
    outputs = describe_outputs(imported)
    layers, activation_bytes = layer_costs(mod), peak_activation_bytes(mod)
    mod = runner.run(passes, mod)
    weights = [w.numpy() for w in mod["main"].attrs[WEIGHTS]]
    mod = runner.lower(backend, mod)
    clock.start("codegen")
    compiled = _build(backend, mod, listing=diagnostics.dump_dir is not None)
    clock.start("write")
    entries, chunks = pack_weights(weights)
    members: dict[str, Iterable[Buffer]] = {
        f"lib/{name}": [data] for name, data in compiled.libraries.items()
    }
    members |= {f"licenses/{p.name}": [p.read_bytes()] for p in sorted(_LICENSES.iterdir())}
    if chunks:
        members[WEIGHTS_MEMBER] = chunks
    manifest = write_artifact(
        output,
        {
            "model": {"name": imported.name, "sha256": imported.sha256, "opset": imported.opset},
            "inputs": describe_inputs(imported),
            "outputs": outputs,
            "target": backend.describe(),
            "requirements": compiled.requirements,
            "versions": versions(),
            "options": _describe_options(options),
            "passes": [record.name for record in runner.records],
            "layers": layers,
            "weights": entries,
            "memory": {
                "weight_bytes": sum(entry["size_bytes"] for entry in entries),
                "activation_bytes": activation_bytes,
            },
            "measured": {"latency_ms": None, "accuracy": None},
        },
        members,
    )
    clock.stop()
    runner.dump_text("assembly.s", compiled.listing)
    runner.dump_text("manifest.json", json.dumps(manifest, indent=1, sort_keys=True))
    return CompileResult(output, manifest, tuple(runner.records), clock.laps, imported.warnings)


def _build(backend: Backend, mod: IRModule, listing: bool) -> CompiledModule:
    try:
        return backend.build(mod, listing)
    except RelaxcError:
        raise
    except Exception as err:
        raise _bug("code generation failed", err) from err


def _bug(what: str, err: Exception) -> PassError:
    first = (str(err).strip().splitlines() or [type(err).__name__])[0]
    return PassError(f"{what}: {first}; this is a bug of relaxc, please report it with the model")


def require_writable(path: Path) -> None:
    """Fail before the work, not after it, when the result has nowhere to go.

    Raises:
        OutputError: `path` is a folder, or its folder is missing or read-only.
    """
    if path.is_dir():
        raise OutputError(f"cannot write `{path}`: it is a folder; give a file name")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write `{path}`: folder `{path.parent}` does not exist")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"cannot write `{path}`: folder `{path.parent}` is not writable")


def versions() -> dict[str, str]:
    """Versions of what made the artifact."""
    return {
        "relaxc": relaxc.__version__,
        "tvm": importlib.metadata.version("apache-tvm"),
        "tvm_ffi": importlib.metadata.version("apache-tvm-ffi"),
    }


def select_passes(
    passes: Sequence[Pass], options: CompileOptions, diagnostics: Diagnostics
) -> list[Pass]:
    """Leave out the passes that the options disable.

    Raises:
        OptionError: a name matches no pass, or a pass that cannot be left out.
    """
    known = {p.name: p for p in passes}
    for name in (
        *options.disabled_passes,
        *diagnostics.print_ir_before,
        *diagnostics.print_ir_after,
    ):
        if name not in known:
            raise OptionError(
                f"unknown pass `{name}`{near_matches(name, known)}; passes are "
                + ", ".join(f"`{n}`" for n in known)
            )
    for name in options.disabled_passes:
        if known[name].required:
            raise OptionError(f"pass `{name}` cannot be disabled: nothing can be built without it")
    return [
        p
        for p in passes
        if p.required
        or (p.opt_level <= options.opt_level and p.name not in options.disabled_passes)
    ]


class _Clock:
    """Wall time per phase."""

    def __init__(self, on_phase: Callable[[str], None]) -> None:
        self.laps: dict[str, float] = {}
        self._on_phase = on_phase
        self._phase = ""
        self._since = 0.0

    def start(self, phase: str) -> None:
        """End the phase before, if any, and begin the next."""
        self.stop()
        self._on_phase(phase)
        self._phase, self._since = phase, time.perf_counter()

    def stop(self) -> None:
        if self._phase:
            self.laps[self._phase] = time.perf_counter() - self._since


class _PassRunner:
    """Runs passes one by one: times, checks and dumps each."""

    def __init__(self, diagnostics: Diagnostics) -> None:
        self.diagnostics = diagnostics
        self.records: list[PassRecord] = []
        self._dumped = 0

    def run(self, passes: Sequence[Pass], mod: IRModule) -> IRModule:
        seen: dict[str, int] = {}
        for item in passes:
            seen[item.name] = seen.get(item.name, 0) + 1
            label = item.name if seen[item.name] == 1 else f"{item.name}-{seen[item.name]}"
            if item.name in self.diagnostics.print_ir_before:
                self.diagnostics.echo(f"# IR before {label}\n{mod.script()}")
            mod = self._step(label, item.as_tvm(), mod)
            if item.name in self.diagnostics.print_ir_after:
                self.diagnostics.echo(f"# IR after {label}\n{mod.script()}")
            if self.diagnostics.verify:
                _verify(label, mod)
        return mod

    def lower(self, backend: Backend, mod: IRModule) -> IRModule:
        with backend.target:
            for name, transform in backend.lowering_passes():
                mod = self._step(name, transform, mod)
        return mod

    def _step(self, label: str, transform: tvm.transform.Pass, mod: IRModule) -> IRModule:
        start = time.perf_counter()
        try:
            after = transform(mod)
        except RelaxcError:
            raise
        except Exception as err:
            raise _bug(f"pass `{label}` failed", err) from err
        seconds = time.perf_counter() - start
        self.records.append(PassRecord(label, seconds, not after.same_as(mod)))
        self.dump(label, after)
        return after

    def dump(self, label: str, mod: IRModule) -> None:
        if self.diagnostics.dump_dir is not None:
            self.dump_text(f"{self._dumped:02}-{label}.py", mod.script())
            self._dumped += 1

    def dump_text(self, name: str, text: str) -> None:
        folder = self.diagnostics.dump_dir
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        except OSError as err:
            raise OutputError(f"cannot write to dump folder `{folder}`: {err.strerror}") from err


def _verify(label: str, mod: IRModule) -> None:
    try:
        relax.analysis.well_formed(mod)
    except ValueError as err:
        first = str(err).strip().splitlines()[0]
        raise PassError(f"pass `{label}` left an ill-formed module: {first}") from err


def describe_inputs(imported: ImportedModel) -> list[dict[str, Any]]:
    """Name, dtype and shape of every input, as the manifest has them."""
    return [_tensor(n, var.ty) for n, var in zip(imported.inputs, imported.mod["main"].params)]


def describe_outputs(imported: ImportedModel) -> list[dict[str, Any]]:
    """Name, dtype and shape of every output, as the manifest has them."""
    ty = imported.mod["main"].ret_ty
    fields = list(ty.fields) if isinstance(ty, relax.TupleType) else [ty]
    return [_tensor(name, field) for name, field in zip(imported.outputs, fields)]


def _tensor(name: str, ty: relax.TensorType) -> dict[str, Any]:
    known = isinstance(ty.shape, relax.ShapeExpr)
    dims = list(ty.shape.values) if known else ["?"] * ty.ndim
    shape = [int(d) if isinstance(d, tvm.tirx.IntImm) else str(d) for d in dims]
    return {"name": name, "dtype": str(ty.dtype.dtype), "shape": shape}


def _describe_options(options: CompileOptions) -> dict[str, Any]:
    return {
        "target": options.target,
        "input_shapes": {name: list(shape) for name, shape in options.input_shapes.items()},
        "opt_level": options.opt_level,
        "disabled_passes": list(options.disabled_passes),
    }
