"""Show on a terminal which phase is running."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress(first: str, is_shown: bool) -> Iterator[Callable[[str], None]]:
    """Show a spinner with the name of the phase; nothing where stderr is no terminal.

    Args:
        first: the name of the phase that begins now.
        is_shown: whether to show anything at all.

    Yields:
        A function to call with the name of each further phase.
    """
    if not (is_shown and sys.stderr.isatty()):
        yield lambda _phase: None
        return
    from rich.console import Console

    # A descriptor of its own: stderr itself is captured while the compiler runs.
    with os.fdopen(os.dup(2), "w") as terminal:
        console = Console(file=terminal, force_terminal=True)
        with console.status(first) as status:
            yield lambda phase: status.update(phase.capitalize())
