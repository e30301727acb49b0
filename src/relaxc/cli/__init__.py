"""The command line: one file per command, each of them parse, one call, exit code."""

from relaxc.cli.entry import main

__all__ = ["main"]
