"""Who wins alone must win inside of the model, and with the other winners."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from relaxc.targets.tuning.history import Decider, Decision, History
from relaxc.targets.tuning.records import Fields
from relaxc.targets.tuning.task import Choice, Task
from relaxc.tuning.finals import finalists, play
from relaxc.tuning.plan import Entry
from relaxc.tuning.verify import Comparison

SPACE: list[Choice] = [{"tile": n, "step": n // 5} for n in range(6)]
CONTEXT = {"machine": 1}


def task(size: int) -> Task:
    return Task({"kernel": "k", "size": size, "epilogue": []}, CONTEXT)


def entry(of: Task) -> Entry:
    site: Any = SimpleNamespace(task=of)
    return Entry(site, 1, SPACE)


def trial(of: Task, tile: int, ratio: float, **more: Any) -> Fields:
    record = {"kind": "trial", "workload": of.workload, "context": CONTEXT, "outcome": "ok"}
    return {
        **record,
        "choice": {"tile": tile, "step": tile // 5},
        "ratio": ratio,
        "noise": 0.0,
        "at": 1,
        **more,
    }


def model(
    costs: Callable[[Mapping[str, Decision]], tuple[dict[str, float], float]], tasks: list[Task]
) -> tuple[Callable[[Decider], Comparison], list[dict[int, Any]]]:
    """Pretends to build and to measure; also returns which tiles were built in."""
    built: list[dict[int, Any]] = []

    def compare(decider: Decider) -> Comparison:
        used = {t.key: d for t in tasks if (d := decider.decide(t)) is not None}
        sizes = {t.key: t.workload["size"] for t in tasks}
        built.append({sizes[k]: d.choice["tile"] for k, d in used.items() if d.choice})
        ratios, whole = costs(used)
        return Comparison(ratios, 1.0, whole, whole)

    return compare, built


def test_the_best_inside_of_the_model_wins() -> None:
    a, b = task(1), task(2)
    found = [trial(a, 1, 0.8), trial(a, 2, 0.9), trial(a, 3, 1.2), trial(b, 4, 0.5)]
    inside = {a.key: {1: 1.1, 2: 0.7}, b.key: {4: 0.6}}

    def costs(used: Mapping[str, Decision]) -> tuple[dict[str, float], float]:
        ratios = {k: inside[k][int((d.choice or {})["tile"])] for k, d in used.items()}
        return ratios, 0.9

    compare, built = model(costs, [a, b])
    won, compared = play([entry(a), entry(b)], History(found), compare)
    assert built == [{1: 1, 2: 4}, {1: 2}, {1: 2, 2: 4}]
    assert {k: (d.choice, d.ratio) for k, d in won.items()} == {
        a.key: ({"tile": 2, "step": 0}, 0.7),
        b.key: ({"tile": 4, "step": 0}, 0.6),
    }
    assert compared is not None and compared.ratio == 0.9


def test_who_loses_at_last_is_taken_back() -> None:
    a, b = task(1), task(2)
    calls: list[int] = []

    def costs(used: Mapping[str, Decision]) -> tuple[dict[str, float], float]:
        calls.append(len(used))
        return {a.key: 0.9, b.key: 0.9 if len(calls) == 1 else 1.0}, 0.95

    compare, _ = model(costs, [a, b])
    won, _ = play([entry(a), entry(b)], History([trial(a, 1, 0.8), trial(b, 1, 0.8)]), compare)
    assert set(won) == {a.key} and calls == [2, 2, 1]


def test_a_model_that_gains_nothing_stays_as_it_is() -> None:
    a, b = task(1), task(2)
    compare, built = model(lambda used: (dict.fromkeys(used, 0.9), 1.1), [a, b])
    history = History([trial(a, 1, 0.8), trial(b, 1, 0.8)])
    assert play([entry(a), entry(b)], history, compare) == ({}, None)
    assert [len(used) for used in built] == [2, 2, 1]
    assert play([entry(a)], History([]), compare) == ({}, None)


def test_candidates_come_from_trials_or_relatives() -> None:
    a, b = task(1), task(2)
    failed = {"outcome": "crashed"}
    own = [trial(a, n, 0.5 + n / 10) for n in range(1, 6)] + [trial(a, 1, 0.1, **failed)]
    first, *rest = finalists(entry(a), History(own))
    assert (first["tile"], [c["tile"] for c in rest]) == (
        1,
        [5, 2, 3],
    )  # the most unlike one second
    # Of a kernel that was not searched: what won for the most similar one, if it is offered.
    assert finalists(entry(b), History(own)) == [{"tile": 1, "step": 0}]
    assert finalists(entry(b), History([trial(a, 9, 0.5)])) == []
