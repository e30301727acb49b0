"""Where every command begins and ends: the one place that turns errors into exit codes.

0 success, 1 a check failed, 2 usage, model or input, 65 artifact, 69 missing on this machine,
70 a bug of relaxc, 73 output, 130 interrupted, 141 the reader of our output went away,
143 terminated.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType

from relaxc.cli.contained import contained
from relaxc.errors import OutputError, RelaxcError, TargetError

_COMPILER_PACKAGES = ("tvm", "tvm_ffi", "onnx", "ml_dtypes", "rich")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_INTERNAL, _INTERRUPTED, _BROKEN_PIPE, _TERMINATED = 70, 130, 141, 143


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Args:
        argv: the arguments; the process's own by default, and in a child process then.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        code = contained(args)
        if code is not None:
            return code
    with _Interruptible() as signals:
        try:
            code = _run(args)
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            _discard_output()
            return _BROKEN_PIPE
        except BaseException as err:
            if isinstance(err, OSError) and err.errno in _FULL and not err.filename:
                # Where we write files, we say which: this was stdout.
                _discard_output()
                err = OutputError(f"cannot write the output: {err.strerror}")
            return signals.code or _report(err, is_debug="--debug" in args)


def _discard_output() -> None:
    """Else Python complains once more when it flushes stdout at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Interruption(BaseException):
    """Not KeyboardInterrupt: `python -m` dies of SIGINT if one ever left an `exec`, caught or not.

    Many imports run one, in `dataclass` and `namedtuple`.
    """


class _Interruptible:
    """Turns signals into an exception, which runs every `finally`, and remembers them.

    TVM makes other exceptions of those that cross it, so the exception alone does not tell.
    """

    def __init__(self) -> None:
        self.code = 0

    def __enter__(self) -> _Interruptible:
        self._before = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.code = _INTERRUPTED if number == signal.SIGINT else _TERMINATED
        raise _Interruption


def _run(args: list[str]) -> int:
    try:
        import click
    except ImportError as err:
        raise TargetError(
            "the command line needs `click` and `rich`; run `pip install relaxc`"
        ) from err
    from relaxc.cli.group import cli

    try:
        result = cli.main(args, prog_name="relaxc", standalone_mode=False)
    except click.UsageError as err:
        message = err.format_message().rstrip(".")
        path = err.ctx.command_path if err.ctx else "relaxc"
        print(f"error: {message[0].lower()}{message[1:]}; see `{path} --help`", file=sys.stderr)
        return err.exit_code
    return int(result or 0)


def _report(err: BaseException, is_debug: bool) -> int:
    if isinstance(err, SystemExit):
        return int(err.code or 0)
    if is_debug:
        traceback.print_exception(err)
    if isinstance(err, ModuleNotFoundError) and err.name in _COMPILER_PACKAGES:
        err = TargetError(
            f"this command needs the package `{err.name}`, which running artifacts does not; "
            "run `pip install relaxc`"
        )
    if isinstance(err, RelaxcError):
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code
    first = (str(err).strip().splitlines() or [""])[0]
    hint = "" if is_debug else "; run again with --debug for the traceback"
    print(
        f"error: unexpected {type(err).__name__}: {first}; this is a bug of relaxc, "
        f"please report it{hint}",
        file=sys.stderr,
    )
    return _INTERNAL
