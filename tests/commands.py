"""What a command of ours did, when run inside of the test's process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """Exit code and output."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The output, parsed."""
        document: dict[str, Any] = json.loads(self.out)
        return document


Run = Callable[..., Outcome]
