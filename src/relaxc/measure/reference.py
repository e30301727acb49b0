"""ONNX Runtime, the reference that results are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from relaxc.errors import ModelError, TargetError


def run_reference(model: Path, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run an ONNX model in ONNX Runtime on the CPU; it gets floats of the width that it wants.

    Raises:
        TargetError: ONNX Runtime is not installed.
        ModelError: it refuses the model or fails on the inputs.
    """
    try:
        session = open_session(model)
        names = [output.name for output in session.get_outputs()]
        widths = {i.name: _FLOATS.get(i.type) for i in session.get_inputs()}
        own = {name: _as_float(array, widths.get(name)) for name, array in feed.items()}
        return dict(zip(names, session.run(names, own)))
    except TargetError:
        raise
    except Exception as err:  # its exceptions have no common base but this one
        first = str(err).strip().splitlines()[0]
        raise ModelError(f"the reference, ONNX Runtime, fails on `{model}`: {first}") from err


_FLOATS = {"tensor(float16)": "float16", "tensor(float)": "float32"}


def _as_float(array: np.ndarray, dtype: str | None) -> np.ndarray:
    return array.astype(dtype) if dtype and array.dtype.kind == "f" else array


def open_session(model: Path, threads: int = 0) -> Any:
    """An ONNX Runtime session that keeps its warnings to itself.

    Args:
        model: the ONNX file.
        threads: threads per operator; 0 leaves the choice to ONNX Runtime.

    Raises:
        TargetError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as err:
        raise TargetError(
            'comparing needs ONNX Runtime; run `pip install "relaxc[check]"`'
        ) from err
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
