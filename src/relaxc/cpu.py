"""What this machine's CPU can do, in LLVM's words. Imports nothing of ours, nor TVM.

Read from /proc/cpuinfo, on ARM from the auxiliary vector, so that a deployment box needs no
compiler to know whether an artifact would die of an illegal instruction, and so that features
masked by a hypervisor are seen as absent.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from pathlib import Path

# LLVM feature -> flag in /proc/cpuinfo. Only features that generated compute code may use.
_X86_FLAGS = {
    "sse3": "pni",
    "ssse3": "ssse3",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "popcnt": "popcnt",
    "lzcnt": "abm",
    "movbe": "movbe",
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "bmi": "bmi1",
    "bmi2": "bmi2",
    "adx": "adx",
    "aes": "aes",
    "pclmul": "pclmulqdq",
    "sha": "sha_ni",
    "gfni": "gfni",
    "vaes": "vaes",
    "vpclmulqdq": "vpclmulqdq",
    "avxvnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512cd": "avx512cd",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512ifma": "avx512ifma",
    "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
    "avx512vp2intersect": "avx512_vp2intersect",
    "amx-tile": "amx_tile",
    "amx-int8": "amx_int8",
    "amx-bf16": "amx_bf16",
    "amx-fp16": "amx_fp16",
    "rdpid": "rdpid",
    "sse4a": "sse4a",
    "movdiri": "movdiri",
    "movdir64b": "movdir64b",
    "prefetchi": "prefetchi",
}
# LLVM feature -> bit of the kernel's hardware capabilities: AT_HWCAP, and AT_HWCAP2 from bit 64 on.
# Reference: asm/hwcap.h of Linux for arm64.
_ARM_BITS = {
    "neon": 1,
    "aes": 3,
    "sha2": 6,
    "crc": 7,
    "lse": 8,
    "fullfp16": 10,
    "rdm": 12,
    "rcpc": 15,
    "dotprod": 20,
    "sve": 22,
    "sve2": 64 + 1,
    "i8mm": 64 + 13,
    "bf16": 64 + 14,
}
_AT_HWCAP, _AT_HWCAP2 = 16, 26
ARCHITECTURES = {"x86_64": frozenset(_X86_FLAGS), "aarch64": frozenset(_ARM_BITS)}


def architecture() -> str:
    """This machine's architecture, as in a target triple: `x86_64`, `aarch64`."""
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine()
    )


def checkable_features(arch: str) -> frozenset[str]:
    """The LLVM features of an architecture whose presence this module can tell."""
    return ARCHITECTURES.get(arch, frozenset())


@functools.cache
def features() -> frozenset[str]:
    """The checkable LLVM features that this CPU has; empty where it cannot be told."""
    if architecture() == "aarch64":
        bits = _hardware_capabilities()
        return frozenset(name for name, bit in _ARM_BITS.items() if bits >> bit & 1)
    flags = set(_cpuinfo_field("flags").split())
    return frozenset(name for name, flag in _X86_FLAGS.items() if flag in flags)


def _hardware_capabilities() -> int:
    """What the kernel tells every process of an ARM CPU."""
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.argtypes, getauxval.restype = [ctypes.c_ulong], ctypes.c_ulong
    return int(getauxval(_AT_HWCAP)) | int(getauxval(_AT_HWCAP2)) << 64


def model_name() -> str:
    """What the CPU calls itself."""
    return _cpuinfo_field("model name", "CPU part") or platform.processor() or "unknown CPU"


def available_cores() -> int:
    """Physical cores that this process may run on: hyper-threads of one core count once."""
    allowed = (
        os.sched_getaffinity(0)
        if hasattr(os, "sched_getaffinity")
        else set(range(os.cpu_count() or 1))
    )
    siblings = {_siblings(cpu) for cpu in allowed}
    return max(1, len(siblings))


@functools.cache
def _siblings(cpu: int) -> str:
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return path.read_text().strip()
    except OSError:
        return str(cpu)


@functools.cache
def _cpuinfo_field(*names: str) -> str:
    try:
        # Line by line: the whole file takes the kernel long on machines with many cores.
        with Path("/proc/cpuinfo").open() as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() in names:
                    return value.strip()
    except OSError:
        pass
    return ""
