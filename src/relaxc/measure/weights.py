"""Lay a model's large weights aside while onnx's tools, which end at 2 GB, look at the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from relaxc.frontend.load import OnnxModel

_LARGE_BYTES = 1 << 20
# Protobuf holds 2 GB; more than this goes into files beside the model.
_INLINE_BYTES = 1 << 30


@contextmanager
def weights_aside(model: OnnxModel) -> Iterator[None]:
    """Inside, `model.proto` has no large weights.

    It may be replaced by another; that one gets them back at the end, by their names.
    """
    aside = {}
    for tensor in model.proto.graph.initializer:
        if len(tensor.raw_data) > _LARGE_BYTES:
            aside[tensor.name] = tensor.raw_data
            tensor.ClearField("raw_data")
    try:
        yield
    finally:
        for tensor in model.proto.graph.initializer:
            if tensor.name in aside:
                tensor.raw_data = aside[tensor.name]


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model; weights that protobuf cannot hold go to files beside it."""
    weights = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    onnx.save_model(model, path, save_as_external_data=weights > _INLINE_BYTES)
