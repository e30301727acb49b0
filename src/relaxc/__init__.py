"""relaxc: an optimizing compiler from ONNX to self-contained artifacts.

Names are imported when first used: loading an artifact needs NumPy and apache-tvm-ffi only,
`compile` and `optimize` TVM and ONNX as well, and the command line nothing to say what it takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relaxc.compiler import CompileResult, compile
    from relaxc.exporting import ExportResult, export
    from relaxc.options import CompileOptions, Diagnostics
    from relaxc.runtime.model import Model, TensorInfo
    from relaxc.runtime.session import InferenceSession, load
    from relaxc.search.optimize import optimize
    from relaxc.search.options import SearchOptions
    from relaxc.search.result import Result
    from relaxc.tuning.options import TuneOptions
    from relaxc.tuning.result import TuneResult
    from relaxc.tuning.tune import tune

__version__ = "0.1.0"
__all__ = [
    "CompileOptions",
    "CompileResult",
    "Diagnostics",
    "ExportResult",
    "InferenceSession",
    "Model",
    "Result",
    "SearchOptions",
    "TensorInfo",
    "TuneOptions",
    "TuneResult",
    "compile",
    "export",
    "load",
    "optimize",
    "tune",
]

_LAZY = {
    "compile": "relaxc.compiler",
    "CompileResult": "relaxc.compiler",
    "CompileOptions": "relaxc.options",
    "Diagnostics": "relaxc.options",
    "ExportResult": "relaxc.exporting",
    "export": "relaxc.exporting",
    "InferenceSession": "relaxc.runtime.session",
    "Model": "relaxc.runtime.model",
    "TensorInfo": "relaxc.runtime.model",
    "load": "relaxc.runtime.session",
    "optimize": "relaxc.search.optimize",
    "Result": "relaxc.search.result",
    "SearchOptions": "relaxc.search.options",
    "TuneOptions": "relaxc.tuning.options",
    "TuneResult": "relaxc.tuning.result",
    "tune": "relaxc.tuning.tune",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'relaxc' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
