"""Which backend serves a target string."""

from __future__ import annotations

from relaxc.targets.base import Backend
from relaxc.targets.llvm.backend import LlvmBackend
from relaxc.targets.llvm.target import parse_target


def backend_for(text: str) -> Backend:
    """Return the backend for a target as users write it.

    Raises:
        OptionError: the target is unknown or malformed.
    """
    return LlvmBackend(parse_target(text))
