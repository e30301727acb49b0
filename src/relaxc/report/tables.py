"""Tables for the terminal."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterable, Sequence

# Wide enough for every table here, where there is no terminal to ask.
_PLAIN_WIDTH = 140


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Draw a table.

    Args:
        columns: headings.
        rows: cells, as many as there are columns.
        left: how many leading columns hold words, and are aligned to the left.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        is_words = index < left
        drawn.add_column(column, justify="left" if is_words else "right", no_wrap=not is_words)
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    is_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if is_terminal else _PLAIN_WIDTH
    text = io.StringIO()
    Console(file=text, width=width, force_terminal=is_terminal, highlight=False).print(drawn)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).strip("\n")


def facts(entries: Iterable[tuple[str, str]]) -> str:
    """Lines of `Name:   value`, aligned."""
    listed = list(entries)
    width = max((len(name) for name, _ in listed), default=0) + 1
    return "\n".join(f"{name + ':':<{width}} {value}" for name, value in listed)
