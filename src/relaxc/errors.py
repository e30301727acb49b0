"""What can go wrong, and whose fault it is.

RelaxcError
├── ModelError              the input model is unreadable, invalid or unsupported (exit 2)
│   └── UnsupportedOpError  it holds operators that relaxc cannot import
├── OptionError             a flag or an option makes no sense (exit 2)
├── InputError              the arrays given to a compiled model do not fit it (exit 2)
├── ArtifactError           a compiled artifact is damaged or too new (exit 65)
├── RecordsError            tuning records cannot be read (exit 65)
├── TargetError             this machine lacks a compiler, a CPU feature or a device (exit 69)
├── PassError               a pass broke its contract: a bug of relaxc (exit 70)
└── OutputError             a result could not be written (exit 73)

Exit codes follow sysexits.h; 1 means that a check ran and failed, 130 that the user interrupted.
Messages say what, where and what to do: lower case, names in backticks, no trailing full stop.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar


class RelaxcError(Exception):
    """Base of every error that relaxc raises on purpose."""

    exit_code: ClassVar[int] = 70


class ModelError(RelaxcError):
    """The input model is unreadable, invalid or unsupported."""

    exit_code = 2


class UnsupportedOpError(ModelError):
    """The model holds operators that relaxc cannot import."""


class OptionError(RelaxcError):
    """A flag or an option makes no sense."""

    exit_code = 2


class InputError(RelaxcError):
    """The arrays given to a compiled model do not fit it."""

    exit_code = 2


class ArtifactError(RelaxcError):
    """A compiled artifact is damaged or of a newer schema."""

    exit_code = 65


class RecordsError(RelaxcError):
    """Tuning records cannot be read."""

    exit_code = 65


class TargetError(RelaxcError):
    """This machine lacks what is needed: a compiler, a CPU feature, a device."""

    exit_code = 69


class PassError(RelaxcError):
    """A pass broke its contract; this is a bug of relaxc."""

    exit_code = 70


class OutputError(RelaxcError):
    """A result could not be written."""

    exit_code = 73


def near_matches(name: str, candidates: Iterable[str]) -> str:
    """Return ` (did you mean `a` or `b`?)` for candidates close to `name`, else nothing."""
    import difflib  # only when there is something to complain about

    close = difflib.get_close_matches(name, list(candidates), n=3, cutoff=0.5)
    if not close:
        return ""
    return " (did you mean " + " or ".join(f"`{c}`" for c in close) + "?)"


def register_with_tvm() -> None:
    """Let these errors cross TVM's C++ frames as themselves, not as bare `RuntimeError`."""
    import tvm_ffi

    pending = [RelaxcError]
    while pending:
        cls = pending.pop()
        pending.extend(cls.__subclasses__())
        tvm_ffi.register_error(cls.__name__, cls)
