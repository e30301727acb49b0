"""Histograms of activations, errors of layers and fitted weights, kept between compilations.

How a range is read off a histogram, and what becomes of it, changes nothing about the histogram:
four methods of calibration need one run. An entry is known by all that shapes it: the module that
runs, constants included; the samples; the target; the versions of what computes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import IRModule, relax
from tvm.ir import GenericConst

import relaxc
from relaxc.cache import default_cache_dir
from relaxc.calibrate import Feed
from relaxc.passes.prune.segments import Arrays, Run
from relaxc.passes.quantize.histogram import Histogram
from relaxc.replacing import replacing

Histograms = Mapping[int, Histogram]

_CHECKSUM = 32  # bytes of a file, before the archive
# Of files; the one that was not used for longest goes first.
_MOST_ENTRIES = 64
# Samples that are not in memory anyway are read ahead as far as this, to know whether they are new.
_READ_AHEAD = 64 << 20
# Of results that are kept: sums and ranges, and weights.
_MOST_BYTES, _MOST_WEIGHTS = 16 << 20, 256 << 20
# Of all entries.
_MOST_IN_ALL = 1 << 30


def measured_once(
    instrumented: IRModule,
    target: Mapping[str, object],
    feeds: Iterable[Feed],
    is_held: bool,
    measure: Callable[[Iterable[Feed]], Histograms],
    warnings: list[str],
) -> Histograms:
    """The histograms of an instrumented module, from the cache where it has them.

    Args:
        instrumented: whose observers are meant.
        target: what it is compiled for.
        feeds: the samples; they are read once.
        is_held: whether they are in memory anyway; else many of them are measured unseen.
        measure: runs the module.
        warnings: gets a line where an entry is damaged.
    """
    unread = iter(feeds)
    digest = _digest(instrumented, target)
    read: list[Feed] = []
    left = _READ_AHEAD
    for feed in unread:
        read.append(feed)
        left -= _add(digest, feed)
        if left < 0 and not is_held:
            return measure(itertools.chain(read, unread))
    path = default_cache_dir() / "statistics" / f"{digest.hexdigest()}.stats"
    try:
        known = _read(path)
    except (OSError, ValueError) as err:
        warnings.append(f"statistics in `{path}` are damaged ({err}): they are measured again")
        known = None
    if known is None:
        known = measure(read)
        _write(path, known)
    return known


def results_once(run: Run, target: Mapping[str, object], warnings: list[str]) -> Run:
    """A runner that remembers what modules gave, for those that give little: sums and ranges.

    Args:
        run: compiles a module and runs it.
        target: what it is compiled for.
        warnings: gets a line where an entry is damaged.
    """

    def once(mod: IRModule, arguments: Iterable[Arrays]) -> Iterator[list[np.ndarray]]:
        held = list(arguments)
        path = _entry(_digest(mod, target), held)
        known = _known(path, warnings)
        if known is not None:
            width = len(known) // max(1, len(held))
            for row in range(len(held)):
                yield [known[str(row * width + i)] for i in range(width)]
            return
        rows = list(run(mod, held))
        flat = [array for row in rows for array in row]
        if sum(array.nbytes for array in flat) < _MOST_BYTES:
            _save(path, **{str(i): array for i, array in enumerate(flat)})
        yield from rows

    return once


def arrays_once(
    mods: Sequence[IRModule],
    samples: Sequence[Arrays],
    words: str,
    target: Mapping[str, object],
    find: Callable[[], dict[str, np.ndarray]],
    warnings: list[str],
) -> dict[str, np.ndarray]:
    """Arrays that take long to find, from the cache where it has them.

    Args:
        mods: that they depend on.
        samples: likewise.
        words: whatever else they depend on.
        target: what modules are compiled for.
        find: finds them.
        warnings: gets a line where an entry is damaged.
    """
    digest = hashlib.sha256(words.encode())
    for mod in mods:
        digest.update(_digest(mod, target).digest())
    path = _entry(digest, samples)
    known = _known(path, warnings)
    if known is None:
        known = find()
        if sum(array.nbytes for array in known.values()) < _MOST_WEIGHTS:
            _save(path, **known)
    return known


def _entry(digest: Any, samples: Iterable[Arrays]) -> Path:
    """The file of what depends on samples, too."""
    for arrays in samples:
        _add(digest, {str(i): array for i, array in enumerate(arrays)})
    return default_cache_dir() / "statistics" / f"{digest.hexdigest()}.stats"


def _known(path: Path, warnings: list[str]) -> dict[str, np.ndarray] | None:
    """The arrays of an entry, or None where there is none that is whole."""
    try:
        return _load(path)
    except (OSError, ValueError) as err:
        warnings.append(f"statistics in `{path}` are damaged ({err}): they are measured again")
        return None


def _digest(mod: IRModule, target: Mapping[str, object]) -> Any:
    facts = (relaxc.__version__, tvm.__version__, np.__version__, sorted(target.items()))
    digest = hashlib.sha256(repr(facts).encode())
    digest.update(mod.script(show_meta=False).encode())

    def add(expr: relax.Expr) -> None:
        if isinstance(expr, GenericConst):
            _add_array(digest, expr.value.numpy())

    for _name, function in sorted((var.name_hint, f) for var, f in mod.functions.items()):
        if isinstance(function, relax.Function):
            relax.analysis.post_order_visit(function, add)
    return digest


def _add(digest: Any, feed: Feed) -> int:
    """Add a sample to a digest, and give its size."""
    size = 0
    digest.update(f"sample of {len(feed)};".encode())
    for name, value in sorted(feed.items()):
        array = np.asarray(value)
        digest.update(f"{name!r};".encode())
        _add_array(digest, array)
        size += array.nbytes
    return size


def _add_array(digest: Any, array: np.ndarray) -> None:
    digest.update(f"{array.dtype};{array.shape};".encode())
    if array.dtype.hasobject:  # strings
        digest.update(repr(array.tolist()).encode())
    else:
        digest.update(np.ascontiguousarray(array).tobytes())


def _read(path: Path) -> Histograms | None:
    """Histograms, or None where there are none.

    Raises:
        OSError, ValueError: they are damaged.
    """
    arrays = _load(path)
    if arrays is None:
        return None
    found: dict[int, Histogram] = {}
    for number, edges, row in zip(arrays["numbers"], arrays["ranges"], arrays["counts"]):
        seen = found[int(number)] = Histogram()
        seen.low, seen.high, seen.minimum, seen.maximum = map(float, edges)
        seen.counts = row
    return found


def _write(path: Path, histograms: Histograms) -> None:
    if any(seen.is_empty for seen in histograms.values()):
        return
    kept = list(histograms.values())
    ranges = [(h.low, h.high, h.minimum, h.maximum) for h in kept]
    bins = Histogram().counts.size
    _save(
        path,
        numbers=np.array(list(histograms), np.int64),
        ranges=np.array(ranges, np.float64).reshape(-1, 4),
        counts=np.array([h.counts for h in kept], np.int64).reshape(-1, bins),
    )


def _load(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of an entry, or None where there is none."""
    if not path.exists():
        return None
    content = path.read_bytes()
    checksum, archive = content[:_CHECKSUM], content[_CHECKSUM:]
    # Parsers of archives and arrays raise many things; what passes here was written here.
    if hashlib.sha256(archive).digest() != checksum:
        raise ValueError("the checksum differs")
    with np.load(io.BytesIO(archive), allow_pickle=False) as file:
        arrays = dict(file)
    with contextlib.suppress(OSError):
        path.touch()
    return arrays


def _save(path: Path, **arrays: np.ndarray) -> None:
    archive = io.BytesIO()
    np.savez_compressed(archive, **arrays)  # type: ignore[arg-type]
    content = archive.getvalue()
    with contextlib.suppress(OSError):  # else they are measured again
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (path.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with replacing(path) as file:
                file.write(hashlib.sha256(content).digest() + content)
            _drop_oldest(path.parent)


def _drop_oldest(folder: Path) -> None:
    """Remove what was not used for longest, where entries are too many or too large."""
    entries = [(entry.stat(), entry) for entry in folder.glob("*.stats")]
    left = _MOST_IN_ALL
    newest = sorted(entries, key=lambda pair: pair[0].st_mtime, reverse=True)
    for number, (facts, entry) in enumerate(newest):
        left -= facts.st_size
        if number and (number >= _MOST_ENTRIES or left < 0):
            entry.unlink()
