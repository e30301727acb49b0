"""What bounds every computation on this machine: arithmetic and memory, as measured here.

The peaks come from loops in C (peaks.c): multiply-adds in registers per data type, and reading and
copying arrays that fit into the L2 caches, into the last-level cache, or into neither. They are
measured once per machine and thread count, in about two seconds, and kept in the user's cache.

Reference: Williams, Waterman, Patterson, Roofline, CACM 52(4), 2009.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from relaxc import cpu
from relaxc.cache import default_cache_dir
from relaxc.targets.llvm.link import link_shared

_SOURCE = Path(__file__).with_name("peaks.c")
_KINDS = ("float32", "bfloat16", "int8")
_SECONDS = 0.3
# Where the system tells no cache sizes.
_L2_BYTES, _LAST_BYTES = 512 << 10, 8 << 20


@dataclass(frozen=True)
class Roofline:
    """The bounds of this machine at a thread count.

    Attributes:
        threads: that work at a time.
        operations_per_s: data type -> operations per second; a multiply-add is two. Types that the
            CPU has no multiply-add for are missing.
        bandwidths: (bytes, bytes per second) in ascending order: how fast working sets up to that
            size are read and written. The last one is main memory, and holds for larger ones too.
    """

    threads: int
    operations_per_s: Mapping[str, float]
    bandwidths: tuple[tuple[int, float], ...]

    def flops_per_s(self, dtype: str = "float32") -> float:
        """Operations per second on a type; those of float32 where it has no instruction."""
        return self.operations_per_s.get(dtype, self.operations_per_s["float32"])

    def bytes_per_s(self, size_bytes: float) -> float:
        """How fast a working set of this size is read or written."""
        fitting = (rate for limit, rate in self.bandwidths if size_bytes <= limit)
        return next(fitting, self.bandwidths[-1][1])

    @property
    def memory_bytes_per_s(self) -> float:
        """How fast main memory is read or written."""
        return self.bandwidths[-1][1]

    def seconds(self, flops: float, size_bytes: float, dtype: str = "float32") -> float:
        """The least time that so much arithmetic and traffic can take."""
        return max(
            flops / self.flops_per_s(dtype),
            size_bytes / self.bytes_per_s(size_bytes),
        )

    def bound(self, flops: float, size_bytes: float, dtype: str = "float32") -> str:
        """Which of the two it meets: `compute` or `memory`."""
        is_compute = flops / self.flops_per_s(dtype) > size_bytes / self.bytes_per_s(size_bytes)
        return "compute" if is_compute else "memory"


def roofline(threads: int, cache_dir: Path | None = None) -> Roofline:
    """Return the bounds of this machine, measured now unless they have been before.

    Args:
        threads: how many work at a time.
        cache_dir: where to keep the numbers; the user's cache folder by default.

    Raises:
        TargetError: no C++ compiler, so that they cannot be measured.
    """
    # Another CPU, or other loops, are another machine.
    facts = (cpu.model_name(), sorted(cpu.features()), cache_sizes(), _SOURCE.read_text())
    key = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    path = (cache_dir or default_cache_dir()) / f"roofline-{key}-{threads}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(path.read_text())
        levels = tuple((int(limit), float(rate)) for limit, rate in found["bandwidths"])
        return Roofline(threads, found["operations_per_s"], levels)
    measured = measure_roofline(threads)
    with contextlib.suppress(OSError):  # then the next call measures again
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_text(json.dumps(asdict(measured), indent=1))
    return measured


def measure_roofline(threads: int, seconds: float = _SECONDS) -> Roofline:
    """Measure all bounds.

    Args:
        threads: how many work at a time.
        seconds: to spend on each number; the fastest round counts.

    Raises:
        TargetError: no C++ compiler.
    """
    with tempfile.TemporaryDirectory(prefix="relaxc-") as folder:
        source, output = Path(folder, _SOURCE.name), Path(folder, "peaks.so")
        source.write_bytes(_SOURCE.read_bytes())
        flags = ("-x", "c", "-O3", "-march=native", "-ffp-contract=fast", "-pthread")
        link_shared(output, [source], f"{cpu.architecture()}-linux-gnu", flags)
        library = ctypes.CDLL(str(output))
    operations, moved = library.relaxc_peak_operations, library.relaxc_peak_bytes
    operations.restype = moved.restype = ctypes.c_double
    operations.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_double]
    moved.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_double]
    rates = {kind: operations(i, threads, seconds) for i, kind in enumerate(_KINDS)}
    l2, last = cache_sizes()
    levels = []
    for limit in (l2 * threads, last, 16 * last):
        # Two arrays per thread take half of a cache, so that they stay in it.
        size = limit // (4 * threads)
        levels.append((limit, moved(size, threads, seconds)))
    return Roofline(threads, {k: rate for k, rate in rates.items() if rate}, tuple(levels))


def cache_sizes() -> tuple[int, int]:
    """Bytes of one core's L2 cache, and of the last-level cache that the cores share."""
    sizes = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index[0-9]")):
        with contextlib.suppress(OSError, ValueError):
            if (index / "type").read_text().strip() != "Instruction":
                text = (index / "size").read_text().strip()
                sizes[int((index / "level").read_text())] = int(text.rstrip("K")) << 10
    return sizes.get(2, _L2_BYTES), max(sizes.get(3, _LAST_BYTES), sizes.get(2, 0))
