"""Recipes survive being written down."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from relaxc.errors import OptionError
from relaxc.options import CompileOptions, DistillOptions, QuantizeOptions, SparsifyOptions
from relaxc.search.recipe import Recipe, Run

RECIPE = Recipe(quantize=QuantizeOptions(calibration="mse", exclude=("/conv/Conv", "head.*")))
SPARSE = Recipe(
    sparsify=SparsifyOptions(share=0.8, blocks=True, recover=True, distill=DistillOptions(epochs=2))
)
RUN = Run(
    recipe=RECIPE,
    seed=3,
    model_sha256="ab",
    data_sha256="cd",
    target="llvm",
    input_shapes={"x": (1, "n")},
    versions={"relaxc": "0.1.0"},
)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(tuned=True),
        RECIPE,
        SPARSE,
        Recipe(sparsify=SparsifyOptions(pattern=(2, 4))),
    ],
)
def test_round_trip(recipe: Recipe) -> None:
    assert Recipe.from_dict(recipe.as_dict()) == recipe
    run = replace(RUN, recipe=recipe, records=('{"kind":"verdict"}',))
    assert Run.from_yaml(run.to_yaml()) == run


def test_options() -> None:
    options = RECIPE.options(CompileOptions(target="llvm", opt_level=2))
    assert options.quantize == RECIPE.quantize
    assert options.opt_level == 2
    assert options.tuning_records is None


def test_only_tuned_recipes_read_records() -> None:
    records = Path("records.jsonl")
    assert Recipe().options(CompileOptions(), records).tuning_records is None
    assert Recipe(tuned=True).options(CompileOptions(), records).tuning_records == records
    assert str(Recipe(tuned=True)) == "float32, tuned"


def test_words() -> None:
    assert str(Recipe()) == "float32"
    assert str(Recipe(precision="bfloat16")) == "bfloat16"
    assert str(RECIPE) == "int8 mse, 2 nodes float, 34 dB or float"
    assert str(Recipe(quantize=QuantizeOptions(least_sqnr_db=None))) == "int8 minmax"
    assert str(SPARSE) == "80% of blocks zero"
    assert str(Recipe(sparsify=SparsifyOptions(pattern=(2, 4)))) == "2:4 zero"
    assert str(Recipe(sparsify=SparsifyOptions(share=0.5))) == "50% of weights zero"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "a recipe is not YAML"),
        ("- 1", "there is no recipe in this file"),
        ("recipe: {precison: float32}", r"unknown field `precison` \(did you mean `precision`\?\)"),
        ("recipe: {quantize: {calibration: best}}", "unknown calibration method `best`"),
        ("recipe: {quantize: 8}", "holds `8` where names and values belong"),
        ("recipe: {}", "a recipe does not make sense: .*seed"),
        ("recipe: !!python/object/apply:os.system [ls]", "a recipe is not YAML"),
    ],
)
def test_what_is_no_recipe(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Run.from_yaml(text)
