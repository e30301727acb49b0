"""relaxc: an optimizing compiler from ONNX to self-contained artifacts.

Loading an artifact needs NumPy and tvm_ffi only; `compile` imports TVM and ONNX when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relaxc.runtime.session import InferenceSession, Model, TensorInfo, load

if TYPE_CHECKING:
    from relaxc.compiler import CompileResult, compile
    from relaxc.options import CompileOptions, Diagnostics

__version__ = "0.1.0"
__all__ = [
    "CompileOptions",
    "CompileResult",
    "Diagnostics",
    "InferenceSession",
    "Model",
    "TensorInfo",
    "compile",
    "load",
]

_LAZY = {
    "compile": "relaxc.compiler",
    "CompileResult": "relaxc.compiler",
    "CompileOptions": "relaxc.options",
    "Diagnostics": "relaxc.options",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'relaxc' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
