"""From the results of a folder of candidates to records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from relaxc.errors import InputError
from relaxc.targets.tuning.history import TRIAL, VERDICT, is_record, wins
from relaxc.targets.tuning.records import Fields
from relaxc.tuning.gpu.measure import RESULTS

_NUMBERS = ("ratio", "noise", "seconds", "untuned_seconds", "spent")


def records_of(folder: Path) -> list[Fields]:
    """Trials, and the verdict on each kernel whose candidates have all been measured.

    Raises:
        InputError: the folder holds no results, or those of other candidates.
    """
    try:
        about = (folder / "plan.json").read_bytes()
        text = (folder / RESULTS).read_text(encoding="utf-8")
        tasks = json.loads(about)["tasks"]
        lines = list(_lines(text))
    except FileNotFoundError as err:
        name = Path(str(err.filename)).name
        hint = "; give a folder that `--candidates` wrote"
        if name == RESULTS:
            hint = f"; run `python {folder}/measure.py` where the GPU is"
        raise InputError(f"`{folder}` has no `{name}`{hint}") from None
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise InputError(f"`{folder}` cannot be read: {err}") from err
    if not lines:
        hint = f"run `python {folder}/measure.py` where the GPU is"
        raise InputError(f"nothing has been measured in `{folder}` yet; {hint}")
    if lines[0].get("plan") != hashlib.sha256(about).hexdigest():
        raise InputError(f"the results in `{folder}` are not of its candidates")
    device = str(lines[0].get("device"))
    found: list[Fields] = []
    try:
        for number, task in enumerate(tasks):
            own = [line for line in lines[1:] if line.get("task") == number]
            found += _of_task(task, own, device)
    except (KeyError, TypeError, ValueError) as err:
        raise InputError(f"the results in `{folder}` are damaged: {err!r}") from err
    return [record for record in found if is_record(record)]


def _of_task(task: dict[str, Any], lines: list[dict[str, Any]], device: str) -> Iterator[Fields]:
    shared = {"workload": task["workload"], "context": task["context"]}
    kernels = task["kernels"]

    def choice(line: dict[str, Any]) -> Any:
        number = line.get("kernel")
        is_known = isinstance(number, int) and 0 < number < len(kernels)
        return kernels[number]["choice"] if is_known else None

    # What it took to begin, and to compare the best once more, is on the first candidate's account.
    extra = sum(float(n["spent"]) for n in lines if n["kind"] in ("untuned", "final"))
    done = next((line for line in lines if line["kind"] == "done"), None)
    for line in lines:
        if line["kind"] == "trial":
            more = {name: line[name] for name in (*_NUMBERS, "detail") if name in line}
            more["spent"], extra = round(float(line["spent"]) + extra, 3), 0.0
            yield {
                "kind": TRIAL,
                **shared,
                "choice": choice(line),
                "outcome": line.get("outcome"),
                "at": line.get("at"),
                "device": device,
                **more,
            }
    if done is None:
        return
    for kernel in kernels[1:]:
        if "outcome" in kernel:  # refused by the compiler
            refused = {name: kernel[name] for name in ("choice", "outcome", "detail")}
            yield {"kind": TRIAL, **shared, **refused, "at": done["at"], "device": device}
    finals = [line for line in lines if line["kind"] == "final" and choice(line) is not None]
    won = [line for line in finals if wins(line)]
    best = min(won, key=lambda line: float(line["ratio"]), default=None)
    yield {
        "kind": VERDICT,
        **shared,
        "choice": {} if best is None else choice(best),
        "ratio": 1.0 if best is None else float(best["ratio"]),
        # What was measured after an earlier end makes a later verdict.
        "at": max(int(line["at"]) for line in (done, *finals)),
        "device": device,
    }


def _lines(text: str) -> Iterator[dict[str, Any]]:
    """Lines that are whole: the last one may be torn."""
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and isinstance(found.get("kind"), str):
            yield found
