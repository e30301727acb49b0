"""Measures a folder of candidates on this machine's GPU: `python FOLDER/measure.py`.

Travels with candidates, see folder.py: it needs Python, NumPy and NVIDIA's driver. Every answer is
on the disk, as a line of `measured.jsonl`, before the next candidate is tried; called again, it
goes on where it was. A child process runs the kernels: one that crashes or hangs is written down
as such, and another child goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from relaxc.tuning.conversation import Conversation
from relaxc.tuning.gpu.bench import Bench, Machine, read_plan
from relaxc.tuning.gpu.driver import Device, DriverError

RESULTS = "measured.jsonl"
# A candidate that takes longer hangs; the first answer of a child, and of a task, takes longer.
_TRIAL_S, _START_S = 20.0, 120.0
# Measurements beside the untuned kernel: of every candidate, and of the best once more.
_PAIRS, _LEAST_S = 5, 0.02
_FINAL_PAIRS, _FINAL_S = 20, 0.15
FINALISTS = 4
# A candidate that was slower by this may still win the second time.
_CLOSE = 1.005

Ask = Callable[[Mapping[str, Any]], dict[str, Any]]


def measure(folder: Path, seconds: float, ask: Ask, tell: Callable[[str], None]) -> None:
    """Measure what has not been measured yet, the costliest tasks first.

    Args:
        folder: of candidates.
        seconds: to spend at most; the best are measured once more even so.
        ask: has a child do something, and gives its answer.
        tell: is told what happens.

    Raises:
        DriverError: there is no GPU, or it cannot run what was compiled.
        ValueError: the results that are there are of other candidates.
    """
    plan = read_plan(folder)
    with (folder / RESULTS).open("a+", encoding="utf-8") as file:
        known = list(_begun(folder, file, ask({"kind": "hello"})))
        end = time.monotonic() + seconds
        done = {(line["task"], line.get("kernel"), line["kind"]): line for line in known}

        def answer(kind: str, task: int, kernel: int | None, **more: Any) -> dict[str, Any]:
            """Ask, unless the answer is known, and write it down."""
            key = (task, kernel, kind)
            if key not in done:
                begin = time.monotonic()
                found = ask({"kind": kind, "task": task, "kernel": kernel, **more})
                found = {**found, "kind": kind, "task": task, "kernel": kernel}
                found["spent"] = round(time.monotonic() - begin, 3)
                done[key] = _written(file, found)
            return done[key]

        costs = []
        for number, task in enumerate(plan["tasks"]):
            untuned = answer("untuned", number, 0)
            costs.append(task["calls"] * float(untuned.get("seconds", 0.0)))
        for number in sorted(range(len(costs)), key=lambda n: -costs[n]):
            if costs[number]:
                _search(plan["tasks"][number], number, answer, end, tell)


def _search(
    task: Mapping[str, Any],
    number: int,
    answer: Callable[..., dict[str, Any]],
    end: float,
    tell: Callable[[str], None],
) -> None:
    found: list[tuple[float, int]] = []
    is_complete = True
    for kernel, about in enumerate(task["kernels"][1:], 1):
        if about.get("outcome", "ok") != "ok":  # it could not be compiled
            continue
        if time.monotonic() >= end:
            is_complete = False
            break
        line = answer("trial", number, kernel, pairs=_PAIRS, least_s=_LEAST_S)
        if line["outcome"] == "ok" and line["ratio"] < _CLOSE:
            found.append((float(line["ratio"]), kernel))
    best = 1.0
    for _, kernel in sorted(found)[:FINALISTS]:
        line = answer("final", number, kernel, pairs=_FINAL_PAIRS, least_s=_FINAL_S)
        if line["outcome"] == "ok":
            best = min(best, float(line["ratio"]))
    if is_complete or found:
        answer("done", number, None)
    tell(f"{task['text']}: {1 / best:.2f}x")


def _begun(folder: Path, file: TextIO, hello: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What earlier calls have written, after the line that says what was measured, and where."""
    about = (folder / "plan.json").read_bytes()
    plan = hashlib.sha256(about).hexdigest()
    arch = str(json.loads(about)["arch"])
    if hello["outcome"] != "ok":
        raise DriverError(str(hello.get("detail", hello["outcome"])))
    built, has = (int(text.removeprefix("sm_")) for text in (arch, hello["arch"]))
    if built // 10 != has // 10 or built > has:
        raise DriverError(f"candidates are for {arch}, this GPU is a {hello['arch']}")
    file.seek(0)
    text = file.read()
    lines = [json.loads(line) for line in text.splitlines() if _is_whole(line)]
    if text and not text.endswith("\n"):
        file.write("\n")
    if not lines:
        _written(file, {"kind": "begin", "plan": plan, "device": hello["device"]})
        return
    if lines[0].get("plan") != plan:
        raise ValueError(f"`{folder / RESULTS}` is of other candidates; remove it")
    yield from lines[1:]


def _is_whole(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _written(file: TextIO, line: dict[str, Any]) -> dict[str, Any]:
    line = {**line, "at": time.time_ns() // 1_000_000}
    file.write(json.dumps(line) + "\n")
    file.flush()
    os.fsync(file.fileno())
    return line


class Child:
    """The process that runs kernels; another one after it was taken down."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._child: Conversation | None = None

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Have something done; the answer says how it ended."""
        if request["kind"] == "done":  # a mark, nothing to do
            return {"outcome": "ok"}
        is_new = self._child is None
        if self._child is None:
            self._child = Conversation(
                subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
        slow = is_new or request["kind"] in ("hello", "untuned")
        answer = self._child.ask(request, _START_S if slow else _TRIAL_S)
        # A kernel that reads where it must not leaves a GPU that its process cannot use any more.
        if answer["outcome"] not in ("ok", "wrong"):
            self.stop()
        return answer

    def stop(self) -> None:
        """End it."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()


class Worker:
    """What the child does.

    Args:
        folder: of candidates.
        device: makes the GPU.
    """

    def __init__(self, folder: Path, device: Callable[[], Machine]) -> None:
        self._folder, self._make = folder, device
        self._plan = read_plan(folder)
        self._device: Machine | None = None
        self._bench: Bench | None = None
        self._task = -1

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what is asked; errors are answers, too."""
        try:
            if self._device is None:
                self._device = self._make()
            if request["kind"] == "hello":
                names = {"device": "name", "arch": "arch"}
                return {"outcome": "ok"} | {k: getattr(self._device, v) for k, v in names.items()}
            bench = self._begun(int(request["task"]))
            if request["kind"] == "untuned":
                return {"outcome": "ok", "seconds": bench.seconds}
            settings = int(request["pairs"]), float(request["least_s"])
            return bench.trial(int(request["kernel"]), *settings)
        except Exception as err:  # whatever it is, it is this candidate's
            return {"outcome": "failed", "detail": f"{type(err).__name__}: {err}"[:300]}

    def _begun(self, task: int) -> Bench:
        if self._bench is None or self._task != task:
            if self._bench is not None:
                self._bench.close()
                self._bench = None
            assert self._device is not None
            self._bench = Bench(self._device, self._folder, self._plan["tasks"][task])
            self._task = task
        return self._bench


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Measure candidates of `relaxc tune` on this GPU.")
    parser.add_argument("--seconds", type=float, help="to spend at most")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    script = Path(sys.argv[0]).resolve()
    folder = script.parent
    if args.worker:
        worker = Worker(folder, Device)
        for line in sys.stdin:
            print(json.dumps(worker.answer(json.loads(line))), flush=True)
        return 0
    child = Child([sys.executable, str(script), "--worker"])
    seconds = args.seconds if args.seconds is not None else float(read_plan(folder)["seconds"])
    try:
        measure(folder, seconds, child.ask, lambda text: print(text, flush=True))
    except (DriverError, ValueError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    finally:
        child.stop()
    return 0
