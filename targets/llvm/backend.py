"""CPUs through LLVM: from fused loop nests to one shared library."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tvm
from tvm import IRModule, relax, tirx

from relaxc.errors import OptionError, PassError
from relaxc.layout import Precision
from relaxc.targets.base import Backend, CompiledModule
from relaxc.targets.llvm.alignment import mark_inputs, unaligned_inputs
from relaxc.targets.llvm.library import LlvmKernels
from relaxc.targets.llvm.link import compiler_command, link_shared
from relaxc.targets.llvm.machine import machine_of
from relaxc.targets.llvm.nests import NestSite, mark_nests, nest_sites, replay_nests
from relaxc.targets.llvm.schedule.schedule import schedule_nests
from relaxc.targets.llvm.target import enabled_features
from relaxc.targets.llvm.tuning import Tuning
from relaxc.targets.llvm.tvm_runtime import require_runtime
from relaxc.targets.llvm.unrolling import unroll_config
from relaxc.targets.llvm.vectorizer import careful_target
from relaxc.targets.shape_functions import sort_shape_functions
from relaxc.targets.tuning.history import Decider
from relaxc.targets.workspace import persist_workspace, workspace_of

# What every artifact brings along beside TVM's runtime, each a library of its own.
_SOURCES = [Path(__file__).with_name(name) for name in ("threadpool.c", "profiler.c")]
# Our kernels allocate what they use; looking for smaller buffers takes half of a compilation where
# dimensions are symbolic.
_DISABLED = ["s_tir.CompactBufferAllocation"]
# Operators that TVM implements in its runtime's second library (sorting, random numbers).
_EXTRA_PREFIXES = (b"tvm.contrib.sort", b"tvm.contrib.random")
# Functions of TVM's Python package, which artifacts must do without.
_PYTHON_PREFIX = b"relax.run."


@dataclass(frozen=True)
class LlvmBackend(Backend):
    """Compiles for one CPU.

    Attributes:
        target: an LLVM target with `mcpu`, `mtriple` and `num-cores`.
        tuning: chooses parameters of kernels; None leaves them to the kernels.
    """

    target: tvm.target.Target
    tuning: Tuning | None = None

    @property
    def channel_multiple(self) -> int:
        """A vector of channels."""
        return self.kernels.lanes

    @property
    def block_outputs(self) -> int:
        """A vector of outputs."""
        return self.kernels.lanes

    @property
    def kernels(self) -> LlvmKernels:
        """The kernels for this CPU."""
        return LlvmKernels(machine_of(self.target), self.tuning)

    def with_records(self, decider: Decider, threads: int | None = None) -> LlvmBackend:
        """This backend, with kernels as what was measured says they are fastest.

        Args:
            decider: says what, task by task.
            threads: that the measurements were made with; as many as the target has cores.
        """
        return replace(self, tuning=Tuning(decider, self.target, threads))

    def with_cores(self, cores: int) -> LlvmBackend:
        """This backend, for so many cores; without records."""
        config = dict(self.target.export())
        return LlvmBackend(tvm.target.Target({**config, "num-cores": cores}))

    def marked(self, mod: IRModule) -> IRModule:
        """The module, with the tuning tasks that its loop nests are."""
        return mod if self.tuning is None else mark_nests(mod, self.tuning)

    def nest_sites(self, mod: IRModule) -> list[NestSite]:
        """The places of loop nests that tuning has a say in."""
        return [] if self.tuning is None else nest_sites(mod, self.tuning, self.target)

    @property
    def refused_records(self) -> list[str]:
        """Records of choices that their kernels do not offer."""
        return [] if self.tuning is None else sorted(self.tuning.refused.values())

    def with_precision(self, precision: Precision) -> LlvmBackend:
        """This backend; kernels read off a tensor's storage how to multiply it.

        Raises:
            OptionError: bfloat16 on a CPU that has no dot products of it; a precision of GPUs.
        """
        if precision not in ("float32", "bfloat16"):
            raise OptionError(
                f"precision `{precision}` is for GPUs; use `float32` or `bfloat16` on CPUs"
            )
        if precision == "bfloat16" and not machine_of(self.target).has_bfloat16:
            raise OptionError(
                f"precision `bfloat16` needs the CPU feature `avx512bf16`, which target "
                f"`{self.target.attrs['mcpu']}` does not have; use precision `float32`"
            )
        return self

    @property
    def triple(self) -> str:
        """The LLVM target triple."""
        return str(self.target.attrs["mtriple"])

    def require_tools(self) -> None:
        """Fail, before any work, unless this machine can link for the target.

        Raises:
            TargetError: a compiler or TVM's runtime for that machine is missing.
        """
        compiler_command(self.triple)
        require_runtime(self._architecture)

    @property
    def _architecture(self) -> str:
        return self.triple.partition("-")[0]

    def describe(self) -> dict[str, object]:
        """The target as the manifest shows it."""
        return {
            "kind": "llvm",
            "mcpu": str(self.target.attrs["mcpu"]),
            "mtriple": self.triple,
            "num_cores": int(self.target.attrs["num-cores"]),
        }

    def lowering_passes(self) -> Sequence[tuple[str, tvm.transform.Pass]]:
        """From fused PrimFuncs to VM code."""
        transform = relax.transform
        return [
            ("replay-nests", replay_nests(self.tuning, self.target)),
            ("schedule", schedule_nests(machine_of(self.target))),
            ("mark-inputs", mark_inputs),
            ("dispatch-sort-scan", relax.backend.DispatchSortScan()),
            ("to-non-dataflow", transform.ToNonDataflow()),
            ("remove-purity-checking", transform.RemovePurityChecking()),
            ("call-tir-rewrite", transform.CallTIRRewrite()),
            ("plan-memory", transform.StaticPlanBlockMemory()),
            ("persist-workspace", persist_workspace),
            ("lower-alloc-tensor", transform.LowerAllocTensor()),
            ("kill-after-last-use", transform.KillAfterLastUse()),
            ("lower-runtime-builtin", transform.LowerRuntimeBuiltin()),
            ("compute-prim-value", transform.ComputePrimValue()),
            ("lower-shapes", transform.VMShapeLower()),
            ("sort-shape-functions", sort_shape_functions),
            ("attach-global-symbol", transform.AttachGlobalSymbol()),
        ]

    def build(self, mod: IRModule, listing: bool = False) -> CompiledModule:
        """Generate machine code, link it, and add the runtime libraries it needs."""
        target = careful_target(mod, self.target)
        config = unroll_config(mod)
        with target, tvm.transform.PassContext(disabled_pass=_DISABLED, config=config):
            executable = relax.build(mod, target, relax_pipeline=None)
        compiled = replace(
            self.link(executable),
            workspace=workspace_of(mod),
            unaligned_inputs=unaligned_inputs(mod),
        )
        return replace(compiled, listing=_assembly(executable)) if listing else compiled

    def build_kernel(self, func: tirx.PrimFunc, output: Path) -> None:
        """Generate machine code for a finished kernel alone, as the function `kernel`.

        Args:
            func: the kernel.
            output: the shared library to write.
        """
        mod = IRModule({"kernel": func.with_attr("global_symbol", "kernel")})
        with self.target, tvm.transform.PassContext(disabled_pass=_DISABLED):
            executable = tvm.tirx.build(mod, self.target)
        with tempfile.TemporaryDirectory(prefix="relaxc-") as folder:
            linked = Path(folder, "kernel.so")
            executable.export_library(
                str(linked), fcompile=_Linker(self.triple), workspace_dir=folder
            )
            shutil.move(linked, output)

    def pool_library(self) -> bytes:
        """The thread pool that parallel loops of kernels use."""
        return _compiled(_SOURCES[0], self.triple)

    def compiled(self, code: Path) -> bytes:
        """A library of C that artifacts carry, the same for every model."""
        return _compiled(code, self.triple)

    def link(self, executable: relax.VMExecutable, more: Sequence[str] = ()) -> CompiledModule:
        """Link a built module for this CPU.

        Args:
            executable: the module; it may hold code for other devices as well.
            more: parts of TVM's runtime to carry for these devices.
        """
        with tempfile.TemporaryDirectory(prefix="relaxc-") as folder:
            output = Path(folder, "model.so")
            linker = _Linker(self.triple)
            executable.export_library(str(output), fcompile=linker, workspace_dir=folder)
            libraries = {"model.so": output.read_bytes()}
        libraries |= {f"{code.stem}.so": _compiled(code, self.triple) for code in _SOURCES}
        # The VM's code and the kernels' both name the functions that they call.
        code = libraries["model.so"]
        if _PYTHON_PREFIX in code:
            start = code.index(_PYTHON_PREFIX)
            name = code[start : code.index(b"\0", start)].decode(errors="replace")
            raise PassError(f"the code calls `{name}`, which needs TVM to run: a bug of relaxc")
        names = runtime_libraries(needs_extra=any(prefix in code for prefix in _EXTRA_PREFIXES))
        names += more
        runtime = require_runtime(self._architecture)
        libraries |= {name: (runtime / name).read_bytes() for name in names}
        requirements: dict[str, object] = {
            "architecture": self._architecture,
            "runtime": names,
            "cpu_features": sorted(enabled_features(self.target)),
        }
        return CompiledModule(libraries, requirements)


@functools.cache
def _compiled(code: Path, triple: str) -> bytes:
    """A library that is the same for every model, so built once per process."""
    with tempfile.TemporaryDirectory(prefix="relaxc-") as folder:
        source, output = Path(folder, code.name), Path(folder, f"{code.stem}.so")
        source.write_bytes(code.read_bytes())
        flags = ("-x", "c", "-O2", "-std=gnu11", "-fvisibility=hidden", "-pthread")
        link_shared(output, [source], triple, flags)
        return output.read_bytes()


class _Linker:
    """The callback that TVM's `export_library` wants."""

    object_format = "o"

    def __init__(self, triple: str) -> None:
        self.triple = triple

    def get_target_triple(self) -> str:
        """What TVM compares the module's triple with."""
        return self.triple

    def __call__(self, output: str, objects: Sequence[str], **_options: object) -> None:
        link_shared(Path(output), [Path(o) for o in objects], self.triple)


def runtime_libraries(needs_extra: bool) -> list[str]:
    """The parts of TVM's runtime that a model needs."""
    return ["libtvm_runtime.so"] + ["libtvm_runtime_extra.so"] * needs_extra


def _assembly(executable: relax.VMExecutable) -> str:
    texts = []
    pending = [executable.mod]
    while pending:
        module = pending.pop()
        pending.extend(module.imports)
        if module.kind == "llvm":
            texts.append(module.inspect_source("asm"))
    return "\n".join(texts)
