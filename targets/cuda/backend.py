"""NVIDIA GPUs through CUDA: from fused loop nests and CUDA C++ to cubins in one shared library."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import tvm
import tvm_ffi
from tvm import IRModule, relax
from tvm.s_tir import dlight

from relaxc.errors import OptionError
from relaxc.layout import Precision
from relaxc.targets.base import Backend, CompiledModule
from relaxc.targets.cuda.check_indices import check_indices
from relaxc.targets.cuda.driver_stub import load_cuda_support
from relaxc.targets.cuda.kernels.launch import DESCRIBE_PATCHES, take_sources
from relaxc.targets.cuda.library import CudaKernels, CudaSite
from relaxc.targets.cuda.plan_graphs import REPLAYABLE, plan_graphs
from relaxc.targets.cuda.target import CudaTarget
from relaxc.targets.cuda.toolchain import CudaCompiler, find_compiler
from relaxc.targets.cuda.tuning import Tuning
from relaxc.targets.llvm.backend import LlvmBackend
from relaxc.targets.shape_functions import sort_shape_functions
from relaxc.targets.tuning.history import Decider

# The CUDA version of TVM's own library, and so the oldest driver that it runs on.
_DRIVER_VERSION = "13.0"
_RUNTIME = "libtvm_runtime_cuda.so"
_PATCHES = Path(__file__).with_name("patches.c")


@dataclass(frozen=True)
class CudaBackend(Backend):
    """Compiles for one GPU architecture.

    Attributes:
        gpu_target: the GPU and the CPU beside it.
        precision: how products are computed.
        tuning: chooses how kernels are divided; None leaves that to the kernels.
    """

    gpu_target: CudaTarget
    precision: Precision = "float32"
    tuning: Tuning | None = None

    needs_device: ClassVar[bool] = True

    @property
    def missing_schemes(self) -> frozenset[str]:  # type: ignore[override]
        """Rows are not rounded as a model runs, and no kernel reads weights of float8; integers of
        few bits need the copy engine.
        """
        has_engine = self.gpu_target.gpu.has_bulk_copies
        return frozenset(
            {"int8-dynamic", "fp8-weights"}
            | (set() if has_engine else {"int8-weights", "int4-weights"})
        )

    @property
    def target(self) -> tvm.target.Target:  # type: ignore[override]
        """As TVM has it."""
        return self.gpu_target.tvm

    @property
    def channel_multiple(self) -> int:
        """What tensor cores multiply at once."""
        return 16

    @property
    def compilers(self) -> dict[str, str]:
        """The one of CUDA."""
        return {"cuda_compiler": find_compiler().name}

    @property
    def kernels(self) -> CudaKernels:
        """The kernels for this GPU."""
        return CudaKernels(self.gpu_target.gpu, self.precision, self.tuning)

    @property
    def _host(self) -> LlvmBackend:
        return LlvmBackend(self.gpu_target.host)

    def with_precision(self, precision: Precision) -> CudaBackend:
        """This backend, with kernels for a precision.

        Raises:
            OptionError: the GPU's tensor cores lack it.
        """
        if precision != "float32" and not self.gpu_target.gpu.has_async_copy:
            raise OptionError(
                f"precision `{precision}` needs a GPU of sm_80 or newer, "
                f"not `{self.gpu_target.arch}`; use precision `float32`"
            )
        if precision == "float8" and not self.gpu_target.gpu.has_float8:
            raise OptionError(
                "precision `float8` is for GPUs of sm_89, sm_90 and sm_120, not for "
                f"`{self.gpu_target.arch}`; use precision `float16`"
            )
        return replace(self, precision=precision)

    def with_records(self, decider: Decider) -> CudaBackend:
        """This backend, with kernels divided as what was measured says; itself without kernels."""
        if not self.gpu_target.gpu.has_async_copy:
            return self
        return replace(self, tuning=Tuning(decider, self.gpu_target.arch))

    def nest_sites(self, mod: IRModule) -> list[CudaSite]:
        """The places of loop nests that tuning has a say in: none."""
        return []

    @property
    def refused_records(self) -> list[str]:
        """Records of choices that their kernels do not offer."""
        return [] if self.tuning is None else sorted(self.tuning.refused.values())

    def require_tools(self) -> None:
        """Fail, before any work, unless this machine can compile and link for the target.

        Raises:
            TargetError: a compiler or a library is missing.
        """
        find_compiler()
        self._host.require_tools()

    def describe(self) -> dict[str, object]:
        """The target as the manifest shows it."""
        host = {k: v for k, v in self._host.describe().items() if k in ("mcpu", "mtriple")}
        return {"kind": "cuda", "arch": self.gpu_target.arch, "host": host}

    def lowering_passes(self) -> Sequence[tuple[str, tvm.transform.Pass]]:
        """From fused PrimFuncs to VM code."""
        transform = relax.transform
        return [
            ("dispatch-sort-scan", relax.backend.DispatchSortScan()),
            ("check-indices", check_indices),
            ("schedule", schedule),
            ("to-non-dataflow", transform.ToNonDataflow()),
            ("remove-purity-checking", transform.RemovePurityChecking()),
            ("call-tir-rewrite", transform.CallTIRRewrite()),
            ("plan-memory", transform.StaticPlanBlockMemory()),
            ("plan-graphs", plan_graphs),
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
        compiler = find_compiler()
        load_cuda_support()
        is_replayable = REPLAYABLE in mod["main"].attrs
        mod, sources = take_sources(mod)
        arch = self.gpu_target.arch
        with ThreadPoolExecutor() as pool:
            cubins = list(
                pool.map(lambda s: compiler.compile(s.source, s.architecture(arch)), sources)
            )
        modules = [source.as_module(cubin, arch) for source, cubin in zip(sources, cubins)]
        if modules:
            mod = mod.with_attr("external_mods", modules)
        collector = _Collector(compiler, arch)
        tvm_ffi.register_global_func("tvm_callback_cuda_compile", collector, override=True)
        with self.target:
            executable = relax.build(mod, self.target, relax_pipeline=None)
        host = self._host.link(executable, (_RUNTIME,))
        requirements = host.requirements | {
            "cuda": {"arch": arch, "driver": _DRIVER_VERSION, "replayable": is_replayable},
        }
        libraries = dict(host.libraries)
        if DESCRIBE_PATCHES.encode() in libraries["model.so"]:
            libraries[_PATCHES.with_suffix(".so").name] = self._host.compiled(_PATCHES)
        texts = [source.source for source in sources] + collector.sources
        shown = "\n".join(texts) if listing else ""
        return CompiledModule(libraries, requirements, listing=shown)


class _Collector:
    """What TVM calls with the CUDA C++ of its own kernels."""

    def __init__(self, compiler: CudaCompiler, arch: str) -> None:
        self.compiler = compiler
        self.arch = arch
        self.sources: list[str] = []

    def __call__(self, source: str) -> bytes:
        self.sources.append(source)
        return self.compiler.compile(source, self.arch)


@tvm.transform.module_pass(opt_level=0, name="schedule")
def schedule(mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
    """Give every loop nest that is no finished kernel one of TVM's default GPU schedules."""
    rules = dlight.ApplyDefaultSchedule(
        dlight.gpu.Matmul(),
        dlight.gpu.GEMV(),
        dlight.gpu.Reduction(),
        dlight.gpu.GeneralReduction(),
        dlight.gpu.Fallback(),
    )
    # It changes the module that it is given.
    return rules(IRModule(dict(mod.functions_items()), attrs=mod.attrs))
