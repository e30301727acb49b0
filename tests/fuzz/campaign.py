"""Judge thousands of random graphs and mutants; interrupted campaigns go on where they stopped.

    python -m fuzz.campaign --graphs 5000 --mutants 10000 --log fuzz.jsonl   (in tests/)

Every seed is a case of its own. The log holds one line per case; seeds in it are not run again.
Children do the work: one that crashes or takes too long costs only its case, which is counted as
`crashed` or `hung` together with the stage it was in.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).resolve().parents[1]
# Of processor time, which other work on the machine does not use up, and of waiting for nothing.
_CPU_LIMIT_S = 60
_WALL_LIMIT_S = 600
_FAILURES = ("wrong", "unclean", "crashed", "hung")
# A compiler's leftovers grow with every case.
_CASES_PER_CHILD = 400


class _Child:
    def __init__(self) -> None:
        self.cases = 0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fuzz.worker"],
            cwd=_TESTS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,  # lines that are already buffered would not wake the selector
        )
        self.ready = selectors.DefaultSelector()
        assert self.process.stdout is not None
        self.ready.register(self.process.stdout, selectors.EVENT_READ)

    def judge(self, kind: str, seed: int, only_reference: bool = False) -> dict[str, Any]:
        """The verdict on one case."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.cases += 1
        task = {"kind": kind, "seed": seed, "only_reference": only_reference}
        self.process.stdin.write(json.dumps(task).encode() + b"\n")
        self.process.stdin.flush()
        stage, begin, spent = "start", time.monotonic(), self._cpu_seconds()
        while True:
            while not self.ready.select(2):
                waited = time.monotonic() - begin
                if self._cpu_seconds() - spent > _CPU_LIMIT_S or waited > _WALL_LIMIT_S:
                    self.stop()
                    return {"status": "hung", "detail": f"during {stage}"}
            line = self.process.stdout.readline()
            if not line:
                code = self.process.wait()
                return {"status": "crashed", "detail": f"during {stage}, exit code {code}"}
            answer: dict[str, Any] = json.loads(line)
            if "status" in answer:
                return answer
            stage = answer["stage"]

    def _cpu_seconds(self) -> float:
        try:
            # Linux; the name in parentheses may hold spaces.
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def is_spent(self) -> bool:
        return self.process.poll() is not None or self.cases >= _CASES_PER_CHILD


def run(tasks: Iterable[tuple[str, int]]) -> Iterator[dict[str, Any]]:
    """Judge the cases one after another."""
    child = _Child()
    try:
        for kind, seed in tasks:
            if child.is_spent():
                child.stop()
                child = _Child()
            verdict = child.judge(kind, seed)
            if verdict["status"] in ("crashed", "hung") and "reference" in verdict["detail"]:
                # Ours, if what we did before has done it.
                child = _Child()
                if child.judge(kind, seed, only_reference=True)["status"] != "passed":
                    verdict = {"status": "rejected", "detail": "ONNX Runtime dies"}
            yield {"kind": kind, "seed": seed, **verdict}
    finally:
        child.stop()


def summary(results: Iterable[dict[str, Any]]) -> str:
    """A table of counts, and the failures."""
    results = list(results)
    lines = []
    for kind in ("graph", "mutant"):
        counts = Counter(r["status"] for r in results if r["kind"] == kind)
        listed = ", ".join(f"{count} {status}" for status, count in counts.most_common())
        lines.append(f"{sum(counts.values())} {kind}s: {listed}")
    for r in results:
        if r["status"] in _FAILURES:
            lines.append(f"{r['kind']} {r['seed']}: {r['status']}: {r['detail'][:300]}")
    return "\n".join(lines)


def main() -> int:
    """Run what the log lacks, and sum up all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", type=int, default=0, help="how many graphs")
    parser.add_argument("--mutants", type=int, default=0, help="how many mutants")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--log", type=Path, default=Path("fuzz.jsonl"), help="results so far")
    args = parser.parse_args()
    known = []
    if args.log.exists():
        known = [json.loads(line) for line in args.log.read_text().splitlines()]
    done = {(r["kind"], r["seed"]) for r in known}
    tasks = [
        (kind, args.seed + i)
        for kind, count in (("graph", args.graphs), ("mutant", args.mutants))
        for i in range(count)
    ]
    with args.log.open("a") as log:
        for result in run(task for task in tasks if task not in done):
            log.write(json.dumps(result) + "\n")
            log.flush()
            known.append(result)
    print(summary(known))
    return int(any(r["status"] in _FAILURES for r in known))


if __name__ == "__main__":
    sys.exit(main())
