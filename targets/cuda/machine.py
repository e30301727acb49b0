"""The GPU architectures that code can be made for, and what kernels need to know of each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """An architecture as the kernels see it.

    Attributes:
        capability: compute capability times ten: 90 for sm_90.
        shared_bytes: shared memory that one block may ask for.
        registers: 32-bit registers of a multiprocessor.
        multiprocessors: of a typical card, for choosing how finely to split work.
    """

    capability: int
    shared_bytes: int
    registers: int = 65536
    multiprocessors: int = 132

    @property
    def has_async_copy(self) -> bool:
        """Whether global memory can be copied to shared memory behind the registers' back."""
        return self.capability >= 80

    @property
    def has_bulk_copies(self) -> bool:
        """Whether a copy engine fetches whole stretches of memory."""
        return self.capability >= 90

    @property
    def has_clusters(self) -> bool:
        """Whether blocks can read each other's shared memory."""
        return self.capability in (90, 100, 103)

    @property
    def has_joint_products(self) -> bool:
        """Whether four warps can multiply together, by instructions of this architecture alone."""
        return self.capability == 90

    @property
    def has_bfloat16(self) -> bool:
        """Whether the tensor cores multiply bfloat16 and TF32."""
        return self.capability >= 80

    @property
    def has_float8(self) -> bool:
        """Whether tensor cores multiply floats of eight bits by instructions that kernels have.

        On sm_100 and sm_103, `mma` turns them into halves first, which gains nothing.
        """
        return self.capability in (89, 90, 120)


# CUDA C++ Programming Guide 13.0, tables of features by compute capability.
GPUS = {
    "sm_75": Gpu(75, 64 << 10, multiprocessors=40),
    "sm_80": Gpu(80, 163 << 10, multiprocessors=108),
    "sm_86": Gpu(86, 99 << 10, multiprocessors=84),
    "sm_87": Gpu(87, 163 << 10, multiprocessors=16),
    "sm_89": Gpu(89, 99 << 10, multiprocessors=128),
    "sm_90": Gpu(90, 227 << 10, multiprocessors=132),
    "sm_100": Gpu(100, 227 << 10, multiprocessors=148),
    "sm_103": Gpu(103, 227 << 10, multiprocessors=148),
    "sm_120": Gpu(120, 99 << 10, multiprocessors=170),
}
