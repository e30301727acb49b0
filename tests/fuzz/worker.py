"""A child process that judges cases, so that what kills it kills nothing else.

Reads one JSON object per line, `{"kind": "graph", "seed": 7}`, and answers each with a line for
every stage that begins and one with the verdict.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable
from typing import Any

from fuzz.cases import random_case
from fuzz.judge import Verdict, judge, run_references
from fuzz.mutants import random_mutant

_MEMORY_BYTES = 8 << 30
_MAKERS: dict[str, Callable[[int], tuple[Any, Any]]] = {
    "graph": random_case,
    "mutant": random_mutant,
}


def main() -> None:
    """Serve until the parent closes the pipe."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Compilers print; answers get a channel of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**content: str) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    for line in sys.stdin:
        task = json.loads(line)
        answer(stage="make")
        model, trials = _MAKERS[task["kind"]](task["seed"])
        if task.get("only_reference"):
            answer(stage="reference")
            run_references(model, trials)
            answer(status="passed")
            continue
        try:
            verdict = judge(model, trials, lambda name: answer(stage=name))
        except MemoryError:  # nothing of ours raises it bare
            verdict = Verdict("rejected", "too large to be compared")
        answer(status=verdict.status, detail=verdict.detail[:600])


if __name__ == "__main__":
    main()
