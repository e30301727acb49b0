"""Which candidates are tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from relaxc.layout import Precision
from relaxc.search.journal import Trial
from relaxc.search.recipe import Recipe
from relaxc.search.strategy import Space, default_strategy

NODES = [f"n{i}" for i in range(20)]


def run(
    drop_of: Callable[[Recipe], float], precisions: Sequence[Precision] = (), integers: bool = True
) -> list[Recipe]:
    """Play a search in which a recipe loses what `drop_of` says."""
    drops: dict[int, float] = {}
    space = Space(
        precisions=precisions,
        has_integers=integers,
        drop=lambda trial: drops[trial.number] if trial.is_ok else float("inf"),
        allowed=lambda: 0.01,
        sensitive_nodes=lambda _recipe: NODES,
    )
    strategy = default_strategy(space)
    tried = [next(strategy)]
    while True:
        drop = drop_of(tried[-1])
        trial = Trial(len(tried), tried[-1], 1 - drop, 1.0, 1.0, 1)
        drops[trial.number] = drop
        try:
            tried.append(strategy.send(trial if drop < 9 else replace(trial, error="fails")))
        except StopIteration:
            return tried


def test_float_comes_first_and_every_precision_is_tried() -> None:
    tried = run(lambda _recipe: 0.0, ("bfloat16",), integers=False)
    assert tried == [Recipe(), Recipe(precision="bfloat16")]


def test_integers_that_keep_the_accuracy_need_no_more() -> None:
    tried = run(lambda _recipe: 0.0)
    assert [r.quantize.calibration for r in tried if r.quantize] == [
        "minmax",
        "percentile",
        "entropy",
        "mse",
    ]
    assert len(tried) == 5


def excluded(recipe: Recipe) -> int:
    return len(recipe.quantize.exclude) if recipe.quantize else len(NODES)


def test_as_few_layers_as_will_do_stay_float() -> None:
    """Twelve must: 1, 2, 4, 8, 16 are tried, then 12, 10, 11."""

    def drop_of(recipe: Recipe) -> float:
        is_mse = recipe.quantize is not None and recipe.quantize.calibration == "mse"
        return 0.0 if excluded(recipe) >= 12 else 0.1 if is_mse else 0.2

    tried = [recipe for recipe in run(drop_of) if recipe.quantize and recipe.quantize.exclude]
    assert [excluded(recipe) for recipe in tried] == [1, 2, 4, 8, 16, 12, 10, 11]
    assert all(r.quantize and r.quantize.calibration == "mse" for r in tried)
    assert tried[-1].quantize is not None
    assert tried[-1].quantize.exclude == tuple(NODES[:11])


def test_failures_lead_nowhere() -> None:
    assert len(run(lambda recipe: 10.0 if recipe.quantize else 0.0)) == 5
