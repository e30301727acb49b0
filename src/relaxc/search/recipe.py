"""How a candidate is built, as a value that can be written down and read again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from relaxc.errors import OptionError, near_matches
from relaxc.layout import Precision
from relaxc.options import (
    CompileOptions,
    DistillOptions,
    PruneOptions,
    QuantizeOptions,
    SparsifyOptions,
)

_Options = TypeVar("_Options")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a candidate does to the model. The target and the shapes are the same for all.

    Attributes:
        precision: of tensors between kernels.
        quantize: how to quantize; None leaves the model in float.
        prune: which channels to remove; None leaves all.
        sparsify: which weights to set to zero; None leaves all.
        tuned: whether kernels are as tuning found them to be faster.
    """

    precision: Precision = "float32"
    quantize: QuantizeOptions | None = None
    prune: PruneOptions | None = None
    sparsify: SparsifyOptions | None = None
    tuned: bool = False

    def options(self, base: CompileOptions, records: Path | None = None) -> CompileOptions:
        """The options that build this candidate.

        Args:
            base: what is the same for all candidates.
            records: what tuning has found. The user's own records are not looked at: they change,
                and the recipe would build something else then.
        """
        return replace(
            base,
            precision=self.precision,
            quantize=self.quantize,
            prune=self.prune,
            sparsify=self.sparsify,
            tuning_records=records if self.tuned else None,
        )

    def __str__(self) -> str:
        """Short, for tables: `30% macs less, int8 mse, 3 nodes float`."""
        words = []
        if self.prune is not None:
            words.append(f"{self.prune.share:.0%} {self.prune.saving} less")
        if self.sparsify is not None:
            words.append(_sparsity(self.sparsify))
        if self.quantize is not None:
            is_static = self.quantize.scheme == "int8"
            words.append(f"int8 {self.quantize.calibration}" if is_static else self.quantize.scheme)
            if self.quantize.exclude:
                words.append(f"{len(self.quantize.exclude)} nodes float")
            if is_static and self.quantize.least_sqnr_db is not None:
                words.append(f"{self.quantize.least_sqnr_db:g} dB or float")
        if self.precision != "float32" or not words:
            words.append(self.precision)
        if self.tuned:
            words.append("tuned")
        return ", ".join(words)

    def as_dict(self) -> dict[str, Any]:
        """Plain values only."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """The inverse of `as_dict`.

        Raises:
            OptionError: a field is unknown, or its value makes no sense.
        """
        inner = dict(values)
        if inner.get("quantize") is not None:
            inner["quantize"] = _built(QuantizeOptions, _with_distillation(inner["quantize"]))
        if inner.get("prune") is not None:
            inner["prune"] = _built(PruneOptions, _with_distillation(inner["prune"]))
        if inner.get("sparsify") is not None:
            inner["sparsify"] = _built(SparsifyOptions, _with_distillation(inner["sparsify"]))
        return _built(cls, inner)


def _sparsity(options: SparsifyOptions) -> str:
    if options.pattern is not None:
        return "{}:{} zero".format(*options.pattern)
    return f"{options.share:.0%} of {'blocks' if options.blocks else 'weights'} zero"


def _with_distillation(values: Any) -> Any:
    if isinstance(values, Mapping) and values.get("distill") is not None:
        return {**values, "distill": _built(DistillOptions, values["distill"])}
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _built(cls: type[_Options], values: Any) -> _Options:
    if not isinstance(values, Mapping):
        raise OptionError(f"a recipe holds `{values}` where names and values belong")
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise OptionError(
                f"a recipe holds the unknown field `{name}`{near_matches(str(name), known)}; "
                f"fields are " + ", ".join(f"`{field}`" for field in known)
            )
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    try:
        return cls(**given)
    except TypeError as err:
        raise OptionError(f"a recipe does not make sense: {err}") from err


@dataclass(frozen=True, kw_only=True)
class Run:
    """All that it takes to build a candidate again, byte for byte.

    Attributes:
        recipe: what was done.
        seed: of the order in which samples were taken for calibration.
        model_sha256: of the ONNX file.
        data_sha256: of the samples and labels.
        target: what it was built for.
        input_shapes: input name -> dimensions that were chosen.
        versions: of the packages that built it.
        records: what tuning found, of a recipe that is tuned: one line of JSON each.
    """

    recipe: Recipe
    seed: int
    model_sha256: str
    data_sha256: str
    target: str
    input_shapes: Mapping[str, tuple[int | str, ...]]
    versions: Mapping[str, str]
    records: tuple[str, ...] = ()

    def to_yaml(self) -> str:
        """The text of a recipe's file."""
        values = {**{f.name: getattr(self, f.name) for f in fields(self)}}
        values["recipe"] = self.recipe.as_dict()
        text: str = yaml.safe_dump(_plain({**values}), sort_keys=False)
        return (
            "# How to build this artifact again: relaxc optimize MODEL --data DATA --recipe THIS\n"
            + text
        )

    @classmethod
    def from_yaml(cls, text: str) -> Run:
        """Read a recipe's file.

        Raises:
            OptionError: it is none.
        """
        try:
            values = yaml.safe_load(text)
        except yaml.YAMLError as err:
            raise OptionError(f"a recipe is not YAML: {str(err).splitlines()[0]}") from err
        if not isinstance(values, dict) or "recipe" not in values:
            raise OptionError("there is no recipe in this file; `relaxc optimize` writes them")
        values["recipe"] = Recipe.from_dict(values["recipe"] or {})
        shapes = values.get("input_shapes")
        if isinstance(shapes, dict):
            values["input_shapes"] = {name: tuple(dims) for name, dims in shapes.items()}
        return _built(cls, values)
