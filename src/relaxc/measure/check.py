"""Whether a compiled model computes what ONNX Runtime computes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from relaxc.artifact import is_artifact
from relaxc.compiler import compile
from relaxc.errors import OptionError
from relaxc.frontend.extension import NOTHING, Extension
from relaxc.frontend.load import OnnxModel, read_model
from relaxc.frontend.simplify import convert_opset, real_inputs
from relaxc.measure.compare import QUANTIZED, TOLERANCES, Agreement, Tolerance, compare
from relaxc.measure.evaluate import evaluate_on
from relaxc.measure.expose import Layer, expose_layers
from relaxc.measure.feeds import FeedOptions
from relaxc.measure.reference import run_reference
from relaxc.measure.weights import save, weights_aside
from relaxc.options import CompileOptions
from relaxc.runtime.model import Model
from relaxc.runtime.session import load
from relaxc.search.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """How to check.

    Attributes:
        model: the ONNX model behind an artifact.
        feed: the inputs; its shapes are for artifacts, those of a model are in `compile`.
        limits: fields of `Tolerance` that replace those fitting the precision.
        per_layer: also look for the first layer that diverges.
        compile: how to compile a model that is not yet an artifact.
        evaluate: the user's own measure of the artifact: from a model to a number.
    """

    model: Path | None = None
    feed: FeedOptions = field(default_factory=FeedOptions)
    limits: Mapping[str, float] = field(default_factory=dict)
    per_layer: bool = False
    compile: CompileOptions = field(default_factory=CompileOptions)
    evaluate: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class LayerAgreement:
    """One ONNX node and the results that it computes."""

    layer: Layer
    results: tuple[Agreement, ...]

    @property
    def is_ok(self) -> bool:
        """Whether all of its results agree."""
        return all(result.is_ok for result in self.results)


@dataclass(frozen=True)
class CheckResult:
    """What a check found.

    Attributes:
        outputs: the model's outputs.
        layers: every node, in topological order; empty unless asked for.
        warnings: what weakens the result, one sentence each.
        tolerance: when two tensors agree.
        is_quantized: whether the model computes on integers.
        score: what the user's own measure says; None without one.
    """

    outputs: tuple[Agreement, ...]
    layers: tuple[LayerAgreement, ...]
    warnings: tuple[str, ...]
    tolerance: Tolerance = field(default_factory=Tolerance)
    is_quantized: bool = False
    score: float | None = None

    @property
    def is_ok(self) -> bool:
        """Whether every output agrees."""
        return all(output.is_ok for output in self.outputs)

    @property
    def first_divergence(self) -> LayerAgreement | None:
        """The first node whose results do not agree."""
        return next((layer for layer in self.layers if not layer.is_ok), None)


def check(path: Path, options: CheckOptions) -> CheckResult:
    """Compare an artifact or an ONNX model with ONNX Runtime.

    Raises:
        OptionError: an artifact was given without its ONNX model, or with another one whose
            outputs have other names; or the user's measure fails.
        RelaxcError: the model cannot be compiled, loaded or run.
    """
    with tempfile.TemporaryDirectory(prefix="relaxc-") as name:
        folder = Path(name)
        if is_artifact(path):
            artifact = path
            source, model, warnings = _behind(path, options)
            feed_options, compile_options = options.feed, _options_of(model)
        else:
            source, artifact = path, folder / "model.rxc"
            warnings = compile(source, artifact, options.compile).warnings
            feed_options, compile_options = replace(options.feed, shapes={}), options.compile
            model = load(artifact)
        for info in (*model.inputs, *model.outputs):
            if not info.is_numeric:
                raise OptionError(
                    f"`{info.name}` is of type {info.dtype}; only tensors of numbers are compared"
                )
        source = _extended(source, compile_options, folder)
        feed = feed_options.feed(model.inputs)
        ours, theirs = model.run(feed), run_reference(source, feed)
        if compile_options.io != "model":
            theirs = {n: _like(array, ours[n]) for n, array in theirs.items() if n in ours}
        if ours.keys() != theirs.keys():
            raise OptionError(
                f"the outputs of `{path}` ({_listed(ours)}) are not those of `{source}` "
                f"({_listed(theirs)}); give the ONNX model that the artifact was compiled from"
            )
        quantize = compile_options.quantize
        usual = TOLERANCES[compile_options.precision]
        if quantize is not None:
            usual = QUANTIZED[quantize.scheme]
        tolerance = replace(usual, **options.limits)
        outputs = _compare_all(ours, theirs, tolerance)
        layers = []
        if options.per_layer:
            plain = replace(compile_options, preprocess=(), postprocess=())
            layers = _check_layers(source, feed, plain, tolerance, folder)
        return CheckResult(
            tuple(outputs.values()),
            tuple(layers),
            warnings,
            tolerance,
            quantize is not None,
            None if options.evaluate is None else evaluate_on(artifact, options.evaluate),
        )


def _extended(source: Path, options: CompileOptions, folder: Path) -> Path:
    """The model with the preprocessing and postprocessing of its artifact, for ONNX Runtime."""
    extension = Extension.parse(options.preprocess, options.postprocess)
    if extension == NOTHING:
        return source
    model = OnnxModel(onnx.load(source), {}, "", source.stem)
    with weights_aside(model):
        convert_opset(model)
    extension.add_to(model.proto, [value.name for value in real_inputs(model)])
    extended = folder / "extended.onnx"
    save(model.proto, extended)
    return extended


def _behind(path: Path, options: CheckOptions) -> tuple[Path, Model, tuple[str, ...]]:
    """The ONNX model behind an artifact, the loaded artifact, and what is odd about them."""
    source = options.model
    if source is None:
        raise OptionError(
            f"`{path}` is an artifact; give the ONNX model that it was compiled from with `--model`"
        )
    model = load(path)
    is_same = read_model(source).sha256 == model.manifest["model"]["sha256"]
    warnings = []
    if not is_same:
        warnings.append(f"the artifact was compiled from another file than `{source}`")
    quantize = model.manifest["options"].get("quantize")
    if options.per_layer and quantize is not None and quantize["scheme"] == "int8":
        warnings.append(
            "layers are quantized anew, with the ranges of these inputs: where the artifact was "
            "calibrated on others, they differ a little; give inputs with `--inputs`"
        )
    return source, model, tuple(warnings)


def _like(array: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """A float result of the model in the type that the artifact gives it."""
    return array.astype(ours.dtype) if array.dtype.kind == ours.dtype.kind == "f" else array


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _options_of(model: Model) -> CompileOptions:
    """How an artifact was compiled."""
    recorded = model.manifest["options"]
    return CompileOptions(
        target=recorded["target"],
        input_shapes={name: tuple(shape) for name, shape in recorded["input_shapes"].items()},
        opt_level=recorded["opt_level"],
        disabled_passes=tuple(recorded["disabled_passes"]),
        quantize=Recipe.from_dict({"quantize": recorded.get("quantize")}).quantize,
        precision=recorded.get("precision", "float32"),
        io=recorded.get("io", "model"),
        preprocess=tuple(recorded.get("preprocess", ())),
        postprocess=tuple(recorded.get("postprocess", ())),
    )


def _compare_all(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], tolerance: Tolerance
) -> dict[str, Agreement]:
    return {name: compare(name, ours[name], np.asarray(theirs[name]), tolerance) for name in ours}


def _check_layers(
    source: Path,
    feed: Mapping[str, np.ndarray],
    options: CompileOptions,
    tolerance: Tolerance,
    folder: Path,
) -> list[LayerAgreement]:
    exposed, artifact = folder / "exposed.onnx", folder / "exposed.rxc"
    layers = expose_layers(source, exposed)
    data = None
    if options.quantize is not None:
        # All layers, and as they are before corrections, which look at what comes after.
        plain = replace(
            options.quantize, speed_gate=False, correct=(), least_sqnr_db=None, most_noise=None
        )
        options = replace(options, quantize=plain)
        data = [feed] if plain.scheme == "int8" else None
    compile(exposed, artifact, options, calibration_data=data)
    ours, theirs = load(artifact).run(feed), run_reference(exposed, feed)
    shared = {name: array for name, array in ours.items() if name in theirs}
    results = _compare_all(shared, theirs, tolerance)
    return [
        LayerAgreement(layer, tuple(results[name] for name in layer.outputs if name in results))
        for layer in layers
    ]
