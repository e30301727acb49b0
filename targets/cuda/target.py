"""Read a GPU target as users write it, and refuse architectures that there is no code for."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import tvm

from relaxc.errors import OptionError, near_matches
from relaxc.targets.cuda.machine import GPUS, Gpu
from relaxc.targets.llvm.target import parse_target as parse_cpu
from relaxc.targets.spelling import read_target, require_keys

_KEYS = ("arch", "mcpu", "mtriple")
# Where the machine with the GPU is not this one, assume no more than most servers have.
_HOST_CPU = "x86-64-v3"
_MAJOR, _MINOR = 75, 76


@dataclass(frozen=True)
class CudaTarget:
    """A GPU and the CPU beside it.

    Attributes:
        arch: as nvcc names it: `sm_90`.
        host: the LLVM target of the code that launches kernels.
    """

    arch: str
    host: tvm.target.Target

    @property
    def gpu(self) -> Gpu:
        """What kernels need to know."""
        return GPUS[self.arch]

    @property
    def tvm(self) -> tvm.target.Target:
        """As TVM has it; the limits are those that its default schedules count on."""
        config = {
            "kind": "cuda",
            "arch": self.arch,
            "max_threads_per_block": 1024,
            "max_shared_memory_per_block": 48 << 10,
            "thread_warp_size": 32,
        }
        return tvm.target.Target(config, host=self.host)


def parse_target(text: str) -> CudaTarget:
    """Parse `cuda`, `cuda -arch=sm_90 -mcpu=x86-64-v4` or a JSON object.

    Plain `cuda` is the GPU of this machine. `-mcpu` and `-mtriple` describe the CPU beside it.

    Raises:
        OptionError: unknown key or architecture (near matches are named), or no GPU here to ask.
    """
    config = read_target(text)
    require_keys(config, _KEYS, text)
    arch = str(config["arch"]) if "arch" in config else _arch_here()
    if arch not in GPUS:
        bare = f"sm_{arch.removeprefix('sm_').removeprefix('compute_').rstrip('af')}"
        # An `a` or `f` allows instructions that TVM's schedules never use, and ties the code to
        # one family of cards.
        hint = f" (did you mean `{bare}`?)" if bare in GPUS else near_matches(arch, GPUS)
        raise OptionError(
            f"unknown GPU architecture `{arch}` in target `{text}`{hint}; "
            f"known are {', '.join(f'`{a}`' for a in GPUS)}"
        )
    host = {"kind": "llvm", "mcpu": config.get("mcpu", _HOST_CPU)}
    if "mtriple" in config:
        host["mtriple"] = config["mtriple"]
        if "mcpu" not in config and not str(config["mtriple"]).startswith("x86_64"):
            host["mcpu"] = "generic"
    spelled = f"llvm -mcpu={host['mcpu']}"
    if "mtriple" in host:
        spelled += f" -mtriple={host['mtriple']}"
    return CudaTarget(arch, parse_cpu(spelled + " -num-cores=1"))


def _arch_here() -> str:
    """The architecture of this machine's first GPU.

    Raises:
        OptionError: it has none.
    """
    capability = _capability_here()
    if capability is None:
        raise OptionError(
            "there is no GPU on this machine to compile for; name the architecture of the one "
            "that will run the model, as in `cuda -arch=sm_90`"
        )
    # Code for an older minor version of the same generation runs as well.
    major = capability // 10
    fitting = [a for a, g in GPUS.items() if g.capability // 10 == major]
    fitting = [a for a in fitting if GPUS[a].capability <= capability]
    return fitting[-1] if fitting else f"sm_{capability}"


def _capability_here() -> int | None:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        device, value = ctypes.c_int(), ctypes.c_int()
        if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
            return None
        numbers = []
        for attribute in (_MAJOR, _MINOR):
            if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device):
                return None
            numbers.append(value.value)
    except (OSError, AttributeError):
        return None
    return numbers[0] * 10 + numbers[1]
