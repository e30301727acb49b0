"""Lines of JSON to a child process and back, with an end to waiting.

Travels with candidates for GPUs, so it needs Python only.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Mapping
from typing import Any


class Conversation:
    """A child that answers each line with a line."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child
        self._buffer = b""

    def ask(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """The answer; `outcome` is `crashed` or `timeout` where none comes."""
        child = self._child
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
        except OSError:
            return {"outcome": "crashed"}
        end = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([child.stdout], [], [], left)[0]:
                return {"outcome": "timeout"}
            more = os.read(child.stdout.fileno(), 1 << 16)
            if not more:
                return {"outcome": "crashed"}
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def kill(self) -> None:
        """End it."""
        self._child.kill()
        with contextlib.suppress(OSError):  # what was still to be written has no reader
            self._child.communicate()
