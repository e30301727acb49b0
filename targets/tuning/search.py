"""Which candidates to measure next.

A cost model learns from all trials of a template, whatever the workload, what a choice does to a
kernel's time. Of the choices that are left it takes those that it thinks fastest, and now and then
another one, so that it finds out where it is wrong. The first choices of a task are those that won
for the most similar tasks.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from relaxc.targets.tuning.history import History
from relaxc.targets.tuning.records import Fields, canonical
from relaxc.targets.tuning.task import Choice, Task

# What a candidate counts as that did not run.
_FAILED = math.log(4.0)
# Trials that the cost model wants before it is asked.
_FEWEST = 12
_EXPLORED = 0.2
_TREES = 60


class BoostedTrees:
    """XGBoost on sizes of the workload and parameters of the choice.

    Args:
        trials: to learn from.
        seed: of the trees.
    """

    def __init__(self, trials: Sequence[Fields], seed: int) -> None:
        import numpy as np
        import xgboost

        self._columns: dict[str, int] = {}
        rows = [self._numbers(t["workload"], t["choice"]) for t in trials]
        self._width = len(self._columns)
        targets = np.array([_cost(t) for t in trials], np.float32)
        settings = {"max_depth": 5, "eta": 0.15, "nthread": 1, "seed": seed, "verbosity": 0}
        data = xgboost.DMatrix(self._matrix(rows), label=targets)
        self._model = xgboost.train(settings, data, num_boost_round=_TREES)

    def predict(self, workload: Fields, choices: Sequence[Choice]) -> list[float]:
        """One number per choice; smaller is faster."""
        rows = [self._numbers(workload, choice) for choice in choices]
        import xgboost

        return [float(v) for v in self._model.predict(xgboost.DMatrix(self._matrix(rows)))]

    def _matrix(self, rows: list[dict[int, float]]) -> Any:
        import numpy as np

        matrix = np.full((len(rows), self._width), np.nan, np.float32)
        for i, row in enumerate(rows):
            for column, value in row.items():
                if column < self._width:
                    matrix[i, column] = value
        return matrix

    def _numbers(self, workload: Fields, choice: Choice) -> dict[int, float]:
        """Values by column; names become columns of zeros and ones."""
        row = {}
        for name, value in (*flattened("w", workload), *flattened("c", choice)):
            column = self._columns.setdefault(name, len(self._columns))
            row[column] = value
        return row


def has_cost_model() -> bool:
    """Whether XGBoost is installed."""
    import importlib.util

    return importlib.util.find_spec("xgboost") is not None


def flattened(prefix: str, value: Any) -> Iterator[tuple[str, float]]:
    """Named numbers of a nest of JSON: sizes as logarithms, words as ones."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from flattened(f"{prefix}.{name}", item)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from flattened(f"{prefix}.{i}", item)
    elif isinstance(value, bool):
        yield prefix, float(value)
    elif isinstance(value, int):
        yield prefix, math.log2(1 + value)
    elif isinstance(value, str):
        yield f"{prefix}={value}", 1.0


def proposals(
    task: Task,
    space: Sequence[Choice],
    history: History,
    count: int,
    rng: random.Random,
    use_model: bool = True,
) -> list[Choice]:
    """The next choices to try, at most `count`; none if all have been tried.

    Args:
        task: for which.
        space: all choices, the untuned one first, which is no candidate.
        history: what was tried.
        count: how many.
        rng: decides between equals.
        use_model: whether XGBoost is there; else neighbours of the best come first.
    """
    tried = {canonical(r["choice"]) for r in history.trials(task)}
    left = [choice for choice in space[1:] if canonical(choice) not in tried]
    if not left:
        return []
    rng.shuffle(left)
    chosen = [choice for choice in seeds(task, history) if choice in left][: count // 2]
    left = [choice for choice in left if choice not in chosen]
    left = _ranked(task, space[0], left, history, rng, use_model)
    while left and len(chosen) < count:
        at = rng.randrange(len(left)) if rng.random() < _EXPLORED else 0
        chosen.append(left.pop(at))
    return chosen


def _ranked(
    task: Task,
    first: Choice,
    left: list[Choice],
    history: History,
    rng: random.Random,
    use_model: bool,
) -> list[Choice]:
    trials = history.all_trials(task.kernel, task.context)
    if use_model and len(trials) >= _FEWEST:
        costs = BoostedTrees(trials, rng.randrange(1 << 16)).predict(task.workload, left)
        order = sorted(range(len(left)), key=costs.__getitem__)
        return [left[i] for i in order]
    own = [t for t in history.trials(task) if t["outcome"] == "ok"]
    best = min(own, key=lambda t: float(t["ratio"]), default=None)
    anchor = first if best is None or best["ratio"] > 1 else best["choice"]
    return sorted(left, key=lambda choice: distance(choice, anchor))


def seeds(task: Task, history: History) -> list[Choice]:
    """What won for other workloads of the template, the most similar first."""
    found = []
    for other in history.tasks.values():
        is_near = other.key != task.key and other.kernel == task.kernel
        if is_near and other.context == task.context:
            decision = history.decide(other)
            if decision is not None and decision.choice is not None:
                found.append((_apart(task.workload, other.workload), other.key, decision.choice))
    return [choice for _, _, choice in sorted(found, key=lambda f: f[:2])]


def nearest(task: Task, history: History) -> Task | None:
    """The most similar workload of the template that was tuned for the same machine."""
    found = [
        (_apart(task.workload, other.workload), key)
        for key, other in history.tasks.items()
        if other.kernel == task.kernel and other.context == task.context and key != task.key
    ]
    return history.tasks[min(found)[1]] if found else None


def _apart(a: Fields, b: Fields) -> float:
    """How unlike two workloads are: the sum over sizes of how often one is doubled."""
    one, two = dict(flattened("", a)), dict(flattened("", b))
    return sum(abs(one.get(k, 0.0) - two.get(k, 0.0)) for k in one.keys() | two.keys())


def distance(a: Choice, b: Choice) -> int:
    """In how many parameters two choices differ."""
    return sum(a.get(k) != b.get(k) for k in a.keys() | b.keys())


def _cost(trial: Fields) -> float:
    if trial["outcome"] != "ok":
        return _FAILED
    return min(math.log(max(float(trial["ratio"]), 1e-3)), _FAILED)


def next_task(shares: Mapping[str, float], idle: Mapping[str, int], open_: Iterable[str]) -> str:
    """The task whose next trials promise most: much time, and little tried in vain.

    Args:
        shares: key of a task -> how much of the model's time it takes.
        idle: key -> trials since the last improvement.
        open_: keys of tasks that have choices left.
    """
    return max(open_, key=lambda key: (shares[key] / (1 + idle[key] / 8), key))
