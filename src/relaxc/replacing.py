"""Write a file whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write; it takes the place of `path` when the block has ended well.

    An interrupted or failed block leaves nothing behind, and an existing file as it was.

    Raises:
        OSError: the file cannot be written, or `path` is there and no regular file.
    """
    if path.exists() and not path.is_file():
        # A device or a folder: as root, the rename would put a file in place of /dev/null.
        raise OSError(errno.EINVAL, "it is not a regular file")
    import tempfile  # slow to import, and not needed to load

    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        temporary.chmod(0o644)  # mkstemp's files are private
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
