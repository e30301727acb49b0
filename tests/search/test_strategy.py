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
    drop_of: Callable[[Recipe], float],
    precisions: Sequence[Precision] = (),
    integers: bool = True,
    prunable: bool = False,
    is_small: bool = False,
    can_tune: bool = False,
    sparse: bool = False,
    predicted_s: Callable[[Recipe], float] = lambda _recipe: float("inf"),
) -> list[Recipe]:
    """Play a search in which a recipe loses what `drop_of` says; without those that prune, if all
    of those would fail.
    """
    drops: dict[int, float] = {}
    space = Space(
        precisions=precisions,
        has_integers=integers,
        has_sparse_kernels=sparse,
        can_tune=can_tune,
        is_small=is_small,
        drop=lambda trial: drops[trial.number] if trial.is_ok else float("inf"),
        allowed=lambda: 0.01,
        best=lambda: next(
            (r for r in reversed(tried) if drops[tried.index(r) + 1] <= 0.01), Recipe()
        ),
        predicted_s=predicted_s,
        sensitive_nodes=lambda _recipe: NODES,
    )
    strategy = default_strategy(space)
    tried = [next(strategy)]
    while True:
        drop = drop_of(tried[-1]) if prunable or not tried[-1].prune else 10.0
        trial = Trial(len(tried), tried[-1], 1 - drop, 1.0, 1.0, 1)
        drops[trial.number] = drop
        try:
            tried.append(strategy.send(trial if drop < 9 else replace(trial, error="fails")))
        except StopIteration:
            return tried if prunable else [recipe for recipe in tried if not recipe.prune]


def test_float_comes_first_and_every_precision_is_tried() -> None:
    tried = run(lambda _recipe: 0.0, ("bfloat16",), integers=False)
    assert tried == [Recipe(), Recipe(precision="bfloat16")]


def test_what_promises_to_be_fast_comes_first() -> None:
    tried = run(
        lambda _recipe: 0.0,
        ("bfloat16", "float16"),
        predicted_s=lambda recipe: (
            1.0 if recipe.quantize else 3.0 - (recipe.precision == "float16")
        ),
    )
    assert tried[1].quantize is not None
    assert [recipe.precision for recipe in tried[-2:]] == ["float16", "bfloat16"]


def test_the_best_is_tuned_in_the_end() -> None:
    tried = run(lambda _recipe: 0.0, ("bfloat16",), integers=False, can_tune=True)
    assert tried == [
        Recipe(),
        Recipe(precision="bfloat16"),
        Recipe(precision="bfloat16", tuned=True),
    ]


def test_integers_that_keep_the_accuracy_need_no_more() -> None:
    tried = run(lambda _recipe: 0.0)
    assert [r.quantize.calibration for r in tried if r.quantize] == [
        "minmax",
        "percentile",
        "entropy",
        "mse",
    ]
    assert all(r.quantize.least_sqnr_db is None for r in tried if r.quantize)
    assert len(tried) == 5


def test_inexact_layers_stay_float_where_integers_lose_too_much() -> None:
    def drop_of(recipe: Recipe) -> float:
        return 0.1 if recipe.quantize and recipe.quantize.least_sqnr_db is None else 0.0

    sixth = run(drop_of)[5].quantize
    assert sixth is not None and sixth.least_sqnr_db is not None


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


def test_int8_that_is_rounded_as_the_model_runs_comes_before_float_layers() -> None:
    tried = run(lambda recipe: 0.1 if recipe.quantize else 0.0)
    schemes = [r.quantize.scheme for r in tried[5:8] if r.quantize]
    assert schemes == ["int8", "int8-dynamic", "int8"]


def shares(tried: list[Recipe]) -> list[float]:
    return [recipe.prune.share for recipe in tried if recipe.prune]


def test_channels_go_until_the_accuracy_does() -> None:
    """A half more than what was kept is tried last, and the fastest recipe is what is pruned."""

    def drop_of(recipe: Recipe) -> float:
        return 0.02 if recipe.prune and recipe.prune.share > 0.4 else 0.0

    tried = run(drop_of, integers=False, precisions=("bfloat16",), prunable=True)
    assert shares(tried) == [0.15, 0.3, 0.45, 0.375]
    assert all(recipe.precision == "bfloat16" for recipe in tried if recipe.prune)


def test_models_without_channels_to_remove() -> None:
    assert shares(run(lambda r: 10.0 if r.prune else 0.0, integers=False, prunable=True)) == [0.15]


def test_blocks_of_weights_go_from_the_best_of_float32() -> None:
    def drop_of(recipe: Recipe) -> float:
        is_less = recipe.quantize or recipe.precision != "float32"
        return 0.1 if is_less or recipe.sparsify and recipe.sparsify.share > 0.7 else 0.0

    tried = run(drop_of, prunable=True, sparse=True)
    sparse = [recipe for recipe in tried if recipe.sparsify]
    assert [recipe.sparsify.share for recipe in sparse if recipe.sparsify] == [0.6, 0.75]
    assert all(recipe.prune and recipe.prune.share == 0.75 for recipe in sparse)
    assert not any(recipe.sparsify for recipe in run(lambda _recipe: 0.0, sparse=True))


def test_weights_alone_are_rounded_where_size_counts() -> None:
    schemes = [r.quantize.scheme for r in run(lambda _r: 0.0, is_small=True) if r.quantize]
    assert schemes[4:] == ["int8-weights", "int4-weights"]
