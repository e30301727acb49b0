"""How long kernels take on this machine, kept between compilations.

A kernel is known by a hash of its code and by the machine, so that layers of equal shape are one
entry, in whatever model they occur. Times are those inside of an inference.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import relaxc
from relaxc import cpu
from relaxc.cache import default_cache_dir
from relaxc.replacing import replacing

# Times of earlier formats are taken again: they were kept on busy machines as well.
_FORMAT = 2


class KernelTimes:
    """Seconds by kernel, in a file of the user's cache folder.

    Args:
        threads: that share a kernel.
        cache_dir: where the file is; the user's cache folder by default.
    """

    def __init__(self, threads: int, cache_dir: Path | None = None) -> None:
        facts = (_FORMAT, cpu.model_name(), sorted(cpu.features()), threads, relaxc.__version__)
        key = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
        self.path = (cache_dir or default_cache_dir()) / f"kernel-times-{key}.json"
        self._known = self._read()

    def get(self, key: str) -> float | None:
        """The time of a kernel, if it was ever taken."""
        return self._known.get(key)

    def add(self, seconds: Mapping[str, float], keep: bool = True) -> None:
        """Add times; those that are known stay, so that what follows from them stays as well.

        Args:
            seconds: by kernel.
            keep: whether later compilations may rely on them.
        """
        self._known = {**seconds, **self._known}
        if not keep:
            return
        with contextlib.suppress(OSError), self._locked():  # else they are taken again
            # Others may have written meanwhile.
            kept = self._read()
            self._known |= kept
            kept = {**seconds, **kept}
            with replacing(self.path) as file:
                file.write(json.dumps(kept, indent=0, sort_keys=True).encode())

    def _read(self) -> dict[str, float]:
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            entries = json.loads(self.path.read_text(encoding="utf-8"))
            return {str(key): float(seconds) for key, seconds in entries.items()}
        return {}

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
