"""Keep what native libraries print away from the user's terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def quiet(is_debug: bool = False) -> Iterator[Callable[[str], None]]:
    """Send what is written to file descriptors 1 and 2 meanwhile to nowhere.

    TVM and LLVM print warnings there that tell users nothing; what matters arrives as exceptions.

    Args:
        is_debug: let everything through.

    Yields:
        A function that prints a line to the real stdout.
    """
    if is_debug:
        yield print
        return
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    with Path(os.devnull).open("wb") as sink, os.fdopen(os.dup(1), "w") as real:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        try:
            yield lambda text: print(text, file=real, flush=True)
        except BaseException as err:
            _release_frames(err)
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, original in enumerate(saved, start=1):
                os.dup2(original, number)
                os.close(original)


def _release_frames(err: BaseException | None) -> None:
    """Drop what an exception's frames hold now: TVM complains when its builders die unfinished."""
    while err is not None:
        traceback.clear_frames(err.__traceback__)
        err = err.__cause__ or err.__context__
