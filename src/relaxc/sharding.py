"""One artifact for several GPUs that compute a model together: what each of them runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx
import tvm_ffi
from tvm import IRModule

from relaxc import manifest
from relaxc.artifact import WEIGHTS as WEIGHTS_MEMBER
from relaxc.artifact import Manifest, pack_weights
from relaxc.emitting import build
from relaxc.errors import OptionError
from relaxc.frontend.importer import ImportedModel, ImportedProgram
from relaxc.manifest import Members
from relaxc.options import CompileOptions
from relaxc.pass_runner import PassRunner
from relaxc.passes.analysis.kernels import kernel_costs
from relaxc.passes.canonicalize.lift_constants import WEIGHTS
from relaxc.passes.shard.shard_layers import ShardLayers
from relaxc.passes.shard.split_products import SplitProducts
from relaxc.preparing import prepare
from relaxc.program import require_plain
from relaxc.targets.base import Backend, CompiledModule

_CODE = "lib/model.so"


@dataclass(frozen=True)
class Divided:
    """What an artifact holds, but for the header of its manifest.

    Attributes:
        imported: the whole model.
        manifest, members: of the artifact.
        warnings: about the data.
    """

    imported: ImportedModel
    manifest: Manifest
    members: Members
    warnings: tuple[str, ...]


def require_divisible(options: CompileOptions, backend: Backend) -> None:
    """Refuse what is not done to models that are divided.

    Raises:
        OptionError: the options ask for it.
    """
    if not backend.needs_device:
        raise OptionError(
            f"`--tensor-parallel {options.tensor_parallel}` divides a model among GPUs, but the "
            f"target is `{options.target}`; use `--target cuda`"
        )
    asked = {
        "quantization": options.quantize is not None,
        "pruning": options.prune is not None or options.sparsify is not None,
        "precision `float8`": options.precision == "float8",
    }
    for what, is_asked in asked.items():
        if is_asked:
            raise OptionError(
                f"{what} is not supported for models that are divided among GPUs; leave out "
                "`--tensor-parallel`"
            )


def compile_divided(
    backend: Backend,
    model: str | os.PathLike[str] | onnx.ModelProto,
    options: CompileOptions,
    runner: PassRunner,
    begin: Callable[[str], None],
) -> Divided:
    """Compile each GPU's part of a model.

    Code is generated once where the parts differ in their weights only, as they do unless two
    weights are equal by chance.

    Raises:
        ModelError, OptionError, TargetError: as `compile` does.
    """
    require_divisible(options, backend)
    ranks = options.tensor_parallel
    lowered: list[IRModule] = []
    built: list[CompiledModule] = []
    pieces: list[Manifest] = []
    members: Members = {}
    whole: ImportedModel | None = None
    for rank in range(ranks):
        if rank > 0:
            folder = runner.diagnostics.dump_dir
            own = replace(runner.diagnostics, dump_dir=folder and folder / f"rank{rank}")
            runner = PassRunner(own)
        prepared = prepare(
            backend,
            model,
            options,
            runner,
            begin=begin,
            sharding=[SplitProducts(), ShardLayers(ranks, rank)],
        )
        if isinstance(prepared, ImportedProgram):
            require_plain(prepared, options)
            raise OptionError(f"`{prepared.name}` runs in steps, which cannot be divided")
        mod = prepared.finished(backend, runner)
        entries, chunks = pack_weights([w.numpy() for w in mod["main"].attrs[WEIGHTS]])
        if whole is None:
            whole, warnings = prepared.imported, prepared.warnings
            kernels = kernel_costs(prepared.imported.mod, mod)
        mod = _without_weights(runner.lower(backend, mod))
        same = next((i for i, other in enumerate(lowered) if _is_same(mod, other)), None)
        if same is None:
            begin("codegen")
            compiled = build(backend, mod, listing=runner.diagnostics.dump_dir is not None)
            runner.dump_text("assembly.s", compiled.listing)
        else:
            compiled = built[same]
        lowered.append(mod)
        built.append(compiled)
        members |= {f"lib/{n}": [d] for n, d in compiled.libraries.items() if n != "model.so"}
        members[f"pieces/{rank}/{WEIGHTS_MEMBER}"] = chunks
        if same != 0:  # else that of the first is used
            code = _CODE if rank == 0 else f"pieces/{rank}/{_CODE}"
            members[code] = [compiled.libraries["model.so"]]
        part = replace(prepared.imported, mod=prepared.mod)
        pieces.append(
            {
                "inputs": manifest.describe_inputs(part),
                "outputs": manifest.describe_outputs(part),
                "requirements": compiled.requirements,
                "weights": entries,
                "workspace": compiled.workspace,
            }
        )
    assert whole is not None, "there are at least two parts"
    _require_replay(built)
    described, _ = manifest.body(whole, built[0], [], kernels)
    described["memory"]["weight_bytes"] = sum(
        entry["size_bytes"] for piece in pieces for entry in piece["weights"]
    )
    described["tensor_parallel"] = {
        "inputs": _axes(described["inputs"], pieces[0]["inputs"]),
        "outputs": _axes(described["outputs"], pieces[0]["outputs"]),
        "pieces": pieces,
    }
    return Divided(whole, described, members, warnings)


def _without_weights(mod: IRModule) -> IRModule:
    """The module without the arrays, of which the code knows nothing."""
    out = mod.clone()
    out["main"] = mod["main"].without_attr(WEIGHTS)
    return out


def _is_same(a: IRModule, b: IRModule) -> bool:
    return bool(tvm_ffi.structural_equal(a, b, map_free_vars=True))


def _require_replay(built: Sequence[CompiledModule]) -> None:
    """Refuse code whose launches cannot be recorded: GPUs that wait for each other need that.

    Raises:
        OptionError: there is such.
    """
    for compiled in built:
        needs: Any = compiled.requirements["cuda"]
        if not needs["replayable"]:
            raise OptionError(
                "the model has operators that run on the CPU or allocate memory as they go, which "
                "models that are divided among GPUs cannot have; compile it for one GPU"
            )


def _axes(whole: list[dict[str, Any]], part: list[dict[str, Any]]) -> dict[str, int]:
    """Names of what is divided, and along which axis."""
    found = {}
    for entry, other in zip(whole, part, strict=True):
        pairs = list(zip(entry["shape"], other["shape"], strict=True))
        axis = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        if axis is not None:
            found[str(entry["name"])] = axis
    return found
