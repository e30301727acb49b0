"""Times of kernels on this machine, for pruning by latency."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

from tvm import IRModule

from relaxc.errors import OptionError
from relaxc.gate.stopwatch import Build, Stopwatch
from relaxc.gate.variant import Feed, Variant
from relaxc.measure.kernel_times import KernelTimes
from relaxc.options import Diagnostics
from relaxc.pass_runner import PassRunner
from relaxc.passes.pipeline import default_passes
from relaxc.passes.prune.latency import KernelSeconds
from relaxc.runtime.threads import resolve_threads
from relaxc.targets.base import Backend
from relaxc.targets.registry import backend_for


def require_here(backend: Backend) -> None:
    """Refuse to time code for another machine.

    Raises:
        OptionError: the target is not this CPU.
    """
    here, there = backend_for("llvm").describe(), backend.describe()
    # What a target lacks, as a GPU has no `mcpu`, is another's, too.
    if any(there.get(name) != here[name] for name in ("kind", "mcpu", "mtriple")):
        raise OptionError(
            f"`latency` is measured on this CPU, `{here['mcpu']}`, and the target is "
            f"`{there.get('mcpu', there['kind'])}`; compile there, or save `macs`"
        )


def kernel_clock(
    backend: Backend, build: Build, feed: Callable[[], Feed]
) -> Callable[[Sequence[IRModule]], Iterator[KernelSeconds]]:
    """What times all kernels of modules whose operators are still what they compute.

    Times are kept in the user's cache folder, by the kernels' code: those that were ever taken are
    not taken again, so that equal models give equal results.

    Args:
        backend: of this machine.
        build: makes a module runnable.
        feed: an input, asked for once.
    """

    def clock(mods: Sequence[IRModule]) -> Iterator[KernelSeconds]:
        require_here(backend)
        arrays, times = feed(), KernelTimes(resolve_threads(None))
        for mod in mods:
            finished = PassRunner(Diagnostics()).run(default_passes(backend.kernels), mod)
            variant = Variant.of(mod, finished, arrays)
            with ExitStack() as stack:
                Stopwatch(build, arrays, times, stack).time([variant])
            yield [(call.nodes, times.get(call.key) or 0.0) for call in variant.calls]

    return clock
