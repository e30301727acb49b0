"""The best candidates once more, inside of the model, beside the untuned model.

The best of many measurements has been lucky, too; and alone, a kernel finds its data elsewhere than
behind another layer. So each finalist is built into the model, those of all kernels at a time, and
compared kernel by kernel. What wins there is built together and must win again; what does not is
taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from relaxc.targets.tuning.history import LEAST_GAIN, Decider, Decision, History, wins
from relaxc.targets.tuning.records import Fields
from relaxc.targets.tuning.search import distance, seeds
from relaxc.targets.tuning.task import Choice, Task
from relaxc.tuning.plan import Entry
from relaxc.tuning.verify import Comparison

# Per kernel.
FINALISTS = 4
# Of two that differ in fewer parameters, one is enough.
_APART = 2
# A candidate that was slower alone by this may still win inside of the model.
_CLOSE = 1.005
# What may be a whim of the measurement.
_NOISE = 0.005


class Choices:
    """Decisions that are made."""

    def __init__(self, decisions: Mapping[str, Decision]) -> None:
        self._decisions = decisions

    def decide(self, task: Task) -> Decision | None:
        """What was decided for a task."""
        return self._decisions.get(task.key)


def finalists(entry: Entry, history: History) -> list[Choice]:
    """A kernel's best candidates; of one that was not searched, what won for its relatives."""
    trials = [t for t in history.trials(entry.task) if t["outcome"] == "ok"]
    close = sorted((t for t in trials if t["ratio"] < _CLOSE), key=lambda t: float(t["ratio"]))
    found = [t["choice"] for t in close]
    decision = history.decide(entry.task)
    if decision is not None and decision.choice is not None:
        found.insert(0, decision.choice)
    if not trials:
        found += seeds(entry.task, history)
    unique: list[Choice] = []
    for least in (_APART, 1):  # unlike ones first
        for choice in found:
            is_new = all(distance(choice, other) >= least for other in unique)
            if is_new and choice in entry.space[1:]:
                unique.append(choice)
    return unique[:FINALISTS]


def play(
    entries: Sequence[Entry],
    history: History,
    compare: Callable[[Decider], Comparison],
) -> tuple[dict[str, Decision], Comparison | None]:
    """Find each kernel's winner.

    Args:
        entries: the kernels.
        history: what is known of them.
        compare: builds the model with decisions, and measures it beside the untuned one.

    Returns:
        Decisions by the task's key, for kernels that win, and the last comparison, of the model
        with these decisions; None if none wins.
    """
    fields = {entry.task.key: finalists(entry, history) for entry in entries}
    tasks = {entry.task.key: entry.task for entry in entries}
    best: dict[str, Decision] = {}
    for number in range(max((len(field) for field in fields.values()), default=0)):
        playing = {
            key: Decision(field[number], 1.0, tasks[key])
            for key, field in fields.items()
            if number < len(field)
        }
        ratios = compare(Choices(playing)).ratios
        for key, decision in playing.items():
            ratio = ratios.get(key, 1.0)
            if ratio < 1 - LEAST_GAIN and (key not in best or ratio < best[key].ratio):
                best[key] = Decision(decision.choice, ratio, decision.task)
    while best:
        compared = compare(Choices(best))
        kept = {k: d for k, d in best.items() if compared.ratios.get(k, 1.0) < 1 - _NOISE}
        if len(kept) == len(best):
            if compared.ratio < 1 + _NOISE:
                ratios = compared.ratios
                return {k: Decision(d.choice, ratios[k], d.task) for k, d in best.items()}, compared
            # What the kernels win, something else loses: the weaker half goes.
            ranked = sorted(best, key=lambda k: best[k].ratio)
            kept = {k: best[k] for k in ranked[: len(ranked) // 2]}
        best = kept
    return {}, None


def play_alone(
    entries: Sequence[Entry],
    history: History,
    measure: Callable[[Entry, list[Choice]], list[Fields]],
) -> dict[str, Decision]:
    """Find each kernel's winner where models cannot be compared as a whole: by longer measurement.

    Args:
        entries: the kernels.
        history: what is known of them.
        measure: answers to a kernel's candidates, in their order.
    """
    won: dict[str, Decision] = {}
    for entry in entries:
        field = finalists(entry, history)
        if not field:
            continue
        for choice, answer in zip(field, measure(entry, field)):
            known = won.get(entry.task.key)
            if wins(answer) and (known is None or answer["ratio"] < known.ratio):
                won[entry.task.key] = Decision(choice, float(answer["ratio"]), entry.task)
    return won


def settled(
    won: dict[str, Decision], race: Callable[[Decider], Comparison]
) -> tuple[dict[str, Decision], Comparison]:
    """Take winners back until the model as a whole does not lose; the weaker half at a time.

    Args:
        won: decisions by the task's key.
        race: builds the model with decisions, and times it beside the untuned one.
    """
    while True:
        compared = race(Choices(won))
        if not won or compared.ratio < 1 + _NOISE:
            return won, compared
        ranked = sorted(won, key=lambda key: won[key].ratio)
        won = {key: won[key] for key in ranked[: len(ranked) // 2]}
