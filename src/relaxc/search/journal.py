"""The trials of a search on disk, so that it can be killed at any time and go on.

A folder beside the result: `journal.jsonl` holds a line per trial, the first line says what is
searched. Lines are written whole and synced; one that was cut off by a crash is left out.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from relaxc.errors import OptionError, OutputError
from relaxc.search.recipe import Recipe

_FILE, _LOCK = "journal.jsonl", "lock"


@dataclass(frozen=True)
class Trial:
    """A candidate and what became of it.

    Attributes:
        number: its place in the search, from 0; the float model is the first.
        recipe: how it was built.
        score: on the search's part of the data; None where it failed.
        latency_ms: its latency, at the speed that the machine had for the float build.
        ratio: its latency relative to the float build's, measured in turns.
        size_bytes: of the artifact.
        seconds: what the trial took.
        passes: seconds of every pass and phase of the compilation.
        layers: what quantization did to each layer, see `builds.layers_of`.
        channels: what pruning left of each group, see `builds.channels_of`.
        code: digest of the artifact's code and weights.
        error: why there is no artifact; empty where there is one.
    """

    number: int
    recipe: Recipe
    score: float | None = None
    latency_ms: float | None = None
    ratio: float | None = None
    size_bytes: int | None = None
    seconds: float = 0.0
    passes: Mapping[str, float] = field(default_factory=dict, compare=False)
    layers: Sequence[Mapping[str, Any]] = field(default=(), compare=False)
    channels: Sequence[Mapping[str, Any]] = field(default=(), compare=False)
    code: str = ""
    error: str = ""

    @property
    def is_ok(self) -> bool:
        """Whether there is an artifact."""
        return not self.error

    def as_dict(self) -> dict[str, Any]:
        """Plain values only."""
        return {**asdict(self), "recipe": self.recipe.as_dict()}


class Journal:
    """The trials so far, and a place to write more."""

    def __init__(self, folder: Path, trials: list[Trial]) -> None:
        self.folder = folder
        self.trials = trials

    def artifact(self, trial: Trial) -> Path:
        """Where a trial's artifact lies, if it is still there."""
        return self.folder / f"{trial.number:03}.rxc"

    def add(self, trial: Trial) -> None:
        """Write a trial down; when this returns, it is safe.

        Raises:
            OutputError: it cannot be written.
        """
        _append(self.folder / _FILE, trial.as_dict())
        self.trials.append(trial)


@contextmanager
def open_journal(folder: Path, subject: dict[str, Any], resume: bool) -> Iterator[Journal]:
    """Open or make the journal of a search, for this process alone.

    Args:
        folder: its folder; made where it is missing.
        subject: what is searched: model, data, goal and options, as plain values.
        resume: go on where the last run ended; else its trials are dropped.

    Raises:
        OptionError: another process searches there, or `resume` and another search was there.
        OutputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK).open("w")
    except OSError as err:
        raise OutputError(f"cannot write `{folder}`: {err.strerror or err}") from err
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            raise OptionError(
                f"another search is running in `{folder}`; wait for it, or choose another output"
            ) from err
        lines = _lines(folder / _FILE)
        if resume and lines and lines[0] != subject:
            changed = ", ".join(f"`{k}`" for k in subject if lines[0].get(k) != subject[k])
            raise OptionError(
                f"the search in `{folder}` was another one ({changed or 'its form'} changed); "
                "leave `--resume` out to begin anew"
            )
        if not resume or not lines:
            for left in folder.glob("*.rxc"):
                left.unlink()
            (folder / _FILE).unlink(missing_ok=True)
            _append(folder / _FILE, subject)
            lines = [subject]
        trials = [
            Trial(**{**line, "recipe": Recipe.from_dict(line["recipe"])}) for line in lines[1:]
        ]
        yield Journal(folder, trials)


def _append(path: Path, values: dict[str, Any]) -> None:
    text = json.dumps(values, ensure_ascii=False) + "\n"
    try:
        with path.open("ab+") as file:
            # The line before was cut off when the process died: what is left of it ends here.
            if file.tell() and _last_byte(file.fileno(), file.tell()) != b"\n":
                file.write(b"\n")
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as err:
        raise OutputError(f"cannot write `{path}`: {err.strerror or err}") from err


def _last_byte(descriptor: int, size: int) -> bytes:
    return os.pread(descriptor, 1, size - 1)


def _lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
