"""Build what a finished search found, again."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from relaxc.calibrate import CalibrationData
from relaxc.compiler import CompileResult, compile
from relaxc.errors import InputError, ModelError, OptionError
from relaxc.manifest import versions
from relaxc.options import CompileOptions
from relaxc.search.building import write_records
from relaxc.search.dataset import feeds_of, split
from relaxc.search.recipe import Run
from relaxc.targets.tuning.records import FILE


def replay(
    model: Path,
    output: Path,
    recipe: Path,
    data: CalibrationData,
    labels: np.ndarray | None,
    options: CompileOptions,
) -> CompileResult:
    """Build the artifact of a recipe: the same bytes, with the same packages.

    Args:
        model: the ONNX file of the search.
        output: the artifact to write.
        recipe: the file that the search wrote.
        data: the samples of the search, as `optimize` takes them.
        labels: the labels of the search.
        options: what to compile for; target and shapes are the recipe's.

    Raises:
        OptionError: the file is no recipe.
        ModelError: the model is another one.
        InputError: the samples are others.
    """
    try:
        text = recipe.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise OptionError(f"cannot read recipe `{recipe}`: {err}") from err
    try:
        run = Run.from_yaml(text)
    except OptionError as err:
        raise OptionError(f"`{recipe}`: {err}") from err
    options = replace(options, target=run.target, input_shapes=run.input_shapes)
    feeds, sha256 = feeds_of(model, data, options)
    if sha256 != run.model_sha256:
        raise ModelError(f"`{model}` is not the model of recipe `{recipe}`: its contents differ")
    dataset = split(feeds, labels, run.seed)
    if dataset.sha256 != run.data_sha256:
        raise InputError(
            f"these samples are not those of recipe `{recipe}`; give the same data and labels"
        )
    samples = dataset.calibration.feeds
    with tempfile.TemporaryDirectory(prefix="relaxc-") as folder:
        records = Path(folder, FILE)
        write_records(records, run.records)
        result = compile(
            model,
            output,
            run.recipe.options(options, records),
            calibration_data=samples,
            recovery_data=samples,
        )
    changed = {name: old for name, old in run.versions.items() if versions().get(name) != old}
    if not changed:
        return result
    listed = ", ".join(f"{name} {version}" for name, version in changed.items())
    warning = f"the recipe was made with {listed}; the artifact may differ from the search's"
    return replace(result, warnings=(*result.warnings, warning))
