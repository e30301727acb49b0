"""What schedules need to know of a CPU: vectors, registers, caches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tvm

from relaxc.targets.llvm.target import enabled_features

ByteProducts = Literal["vpdpbusd", "vpmaddwd"]


@dataclass(frozen=True)
class Machine:
    """A CPU as the kernels see it.

    Attributes:
        lanes: float32 elements per vector register.
        registers: vector registers.
        l1_bytes, l2_bytes: data caches of one core.
        cores: cores that the code is tuned for.
        has_bfloat16: whether dot products of bfloat16 are one instruction (avx512bf16).
        byte_products: the instruction that dot products of bytes are made of; None without one.
        l3_bytes: of the last-level cache, which the cores share.
        has_byte_tables: whether vectors of bytes are looked up in tables of 128 (avx512vbmi).
    """

    lanes: int
    registers: int
    l1_bytes: int
    l2_bytes: int
    cores: int
    has_bfloat16: bool = False
    byte_products: ByteProducts | None = None
    l3_bytes: int = 32 << 20
    has_byte_tables: bool = False


def machine_of(target: tvm.target.Target) -> Machine:
    """Read the machine model off a target."""
    features = enabled_features(target)
    cores = int(target.attrs["num-cores"])
    if "avx512f" in features:
        products: ByteProducts = "vpdpbusd" if "avx512vnni" in features else "vpmaddwd"
        return Machine(
            *(16, 32, 48 << 10, 1 << 20, cores),
            has_bfloat16="avx512bf16" in features,
            byte_products=products,
            has_byte_tables="avx512vbmi" in features,
        )
    if "avx2" in features and "fma" in features:
        return Machine(8, 16, 32 << 10, 512 << 10, cores, byte_products="vpmaddwd")
    if str(target.attrs["mtriple"]).startswith("aarch64"):
        return Machine(4, 32, 64 << 10, 512 << 10, cores)
    return Machine(4, 16, 32 << 10, 256 << 10, cores)
