"""Plots as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from relaxc.errors import OutputError
from relaxc.replacing import replacing


def write_figure(figure: Any, path: Path) -> None:
    """Write a figure of Matplotlib, in the format that the file's name asks for; else SVG.

    Raises:
        OutputError: the file cannot be written, or there is no such format.
    """
    try:
        with replacing(path) as file:
            figure.savefig(file, format=path.suffix.lstrip(".") or "svg")
    except (OSError, ValueError) as err:
        reason = getattr(err, "strerror", None) or err
        raise OutputError(f"cannot write `{path}`: {reason}") from err
