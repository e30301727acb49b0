"""Engines for suites of ONNX models: compile, load and run a model as a user would.

A runner takes a callable `run(model, inputs) -> outputs`, or for models of symbolic shapes
`compile_once(model) -> (inputs -> outputs)`; a refusal is `NotImplementedError`, and any other
exception counts as unclean.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import relaxc
from relaxc.errors import ModelError
from relaxc.options import CompileOptions
from relaxc.runtime.session import load


def run(model: onnx.ModelProto, inputs: Sequence[Any], opt_level: int = 3) -> list[Any]:
    """Compile `model` into an artifact, load it and run it on one thread.

    Args:
        model: the model.
        inputs: one value per graph input that is not an initializer, in their order.
        opt_level: how much to optimize.

    Returns:
        The outputs in the order of the graph.

    Raises:
        NotImplementedError: relaxc refuses the model, and says what in it.
    """
    values = _fed(model)
    feed = {value.name: given for value, given in zip(values, inputs)}
    shapes = {
        value.name: given.shape
        for value, given in zip(values, inputs)
        if isinstance(given, np.ndarray)
        and value.type.HasField("tensor_type")
        and not value.type.tensor_type.HasField("shape")
    }
    with tempfile.TemporaryDirectory(prefix="relaxc-") as folder:
        path = Path(folder, "case.rxc")
        try:
            relaxc.compile(model, path, CompileOptions(input_shapes=shapes, opt_level=opt_level))
        except ModelError as err:
            raise NotImplementedError(str(err)) from err
        loaded = load(path, threads=1, cache_dir=folder)
        results = loaded.run(feed)
    return [results[value.name] for value in model.graph.output]


def compile_once(model: onnx.ModelProto) -> Callable[[Sequence[Any]], list[Any]]:
    """Compile a model with its symbolic dimensions; what is returned runs it at any sizes.

    Raises:
        NotImplementedError: relaxc refuses the model, and says what in it.
    """
    with tempfile.TemporaryDirectory(prefix="relaxc-") as folder:
        path = Path(folder, "case.rxc")
        try:
            relaxc.compile(model, path)
        except ModelError as err:
            raise NotImplementedError(str(err)) from err
        loaded = load(path, threads=1, cache_dir=folder)
    names = [value.name for value in _fed(model)]

    def call(inputs: Sequence[Any]) -> list[Any]:
        results = loaded.run(dict(zip(names, inputs)))
        return [results[value.name] for value in model.graph.output]

    return call


def _fed(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The graph inputs that are not initializers."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]
