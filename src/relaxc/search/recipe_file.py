"""Recipes as files: what a compilation is to do, and what it decided."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import yaml

from relaxc.compiler import CompileResult
from relaxc.errors import OptionError, OutputError
from relaxc.options import CompileOptions
from relaxc.replacing import replacing
from relaxc.search.recipe import Recipe


def read_recipe(path: Path) -> Recipe:
    """Read a recipe that `write_recipe`, `relaxc optimize` or a person wrote.

    Raises:
        OptionError: the file is missing, is not YAML, or holds no recipe.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise OptionError(f"cannot read recipe `{path}`: {err.strerror or err}") from err
    except (yaml.YAMLError, ValueError) as err:
        raise OptionError(f"recipe `{path}` is not YAML: {str(err).splitlines()[0]}") from err
    if isinstance(values, dict) and "recipe" in values:
        values = values["recipe"]
    if not isinstance(values, dict):
        raise OptionError(
            f"there is no recipe in `{path}`; write for example `quantize:` and below"
        )
    return Recipe.from_dict(values)


def decided(options: CompileOptions, result: CompileResult) -> Recipe:
    """What was done, with nothing left to be decided: layers that stayed float are excluded."""
    quantize = options.quantize
    if quantize is not None:
        nodes = list(result.gate.reverted) if result.gate else []
        nodes += [error.node for error in result.quantized if not error.is_kept]
        exclude = (*quantize.exclude, *map(re.escape, dict.fromkeys(nodes)))
        quantize = replace(
            quantize, exclude=exclude, speed_gate=False, least_sqnr_db=None, most_noise=None
        )
    return Recipe(
        precision=options.precision,
        quantize=quantize,
        prune=options.prune,
        sparsify=options.sparsify,
    )


def write_recipe(path: Path, options: CompileOptions, result: CompileResult) -> None:
    """Write what a compilation decided, and in comments what it measured.

    Raises:
        OutputError: the file cannot be written.
    """
    lines = ["# How to build this artifact again: relaxc compile MODEL --recipe THIS"]
    lines += [f"# {node}: stays float, {reason}" for node, reason in result.unquantized]
    for error in sorted(result.quantized, key=lambda error: error.sqnr_db):
        ratio = f"{error.sqnr_db:.1f} dB" if math.isfinite(error.sqnr_db) else "exact"
        kept = "int8" if error.is_kept else "stays float"
        lines.append(f"# {error.node}: {ratio}, cosine {error.cosine:.6f}, {kept}")
    text = yaml.safe_dump(decided(options, result).as_dict(), sort_keys=False)
    try:
        with replacing(path) as file:
            file.write("\n".join([*lines, text]).encode())
    except OSError as err:
        raise OutputError(f"cannot write `{path}`: {err.strerror or err}") from err
