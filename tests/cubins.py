"""What is in a cubin: the instructions of every kernel, by their numbers in SASS (sm_75 to sm_120).

No tool of the CUDA toolkit is needed, which NVRTC's wheels lack; `nvdisasm -hex` shows the numbers.
"""

from __future__ import annotations

import re
import struct
from collections import Counter

# Of machines, in an ELF file's header.
CUDA = 190
_OPCODE = 0xFFF
# Registers that are spilled go to local memory; so do arrays that an index is computed for.
_LOCAL = {0x387: "STL", 0x983: "LDL"}
_PRODUCTS = {
    **{0x23C: "HMMA", 0x237: "IMMA", 0x27A: "QMMA"},
    **{0x9F0: "HGMMA", 0x9F1: "IGMMA", 0x9F3: "QGMMA"},
}
_NAMES = _LOCAL | _PRODUCTS


def cubins_of(library: bytes) -> list[bytes]:
    """The cubins that a shared library carries, each to the library's end."""
    starts = [at.start() for at in re.finditer(b"\x7fELF", library)]
    return [library[at:] for at in starts if struct.unpack_from("<H", library, at + 18)[0] == CUDA]


def instructions(cubin: bytes) -> dict[str, Counter[str]]:
    """Kernel -> how often it has each instruction of tensor cores, and of local memory."""
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", cubin, table + i * size) for i in range(count)]
    found: dict[str, Counter[str]] = {}
    for name, _kind, _flags, _address, offset, length in headers:
        start = headers[names][4] + name
        text = cubin[start : cubin.index(b"\0", start)].decode()
        if text.startswith(".text."):
            words = struct.iter_unpack("<QQ", cubin[offset : offset + length])
            numbers = (low & _OPCODE for low, _high in words)
            found[text.removeprefix(".text.")] = Counter(_NAMES[n] for n in numbers if n in _NAMES)
    return found


def local_accesses(counted: Counter[str]) -> int:
    """How many instructions read or write local memory."""
    return sum(counted[name] for name in _LOCAL.values())


def products(counted: Counter[str]) -> set[str]:
    """Which instructions of tensor cores a kernel has."""
    return {name for name in _PRODUCTS.values() if counted[name]}
