"""Which backend serves a target string."""

from __future__ import annotations

from relaxc.targets.base import Backend
from relaxc.targets.cuda.backend import CudaBackend
from relaxc.targets.cuda.target import parse_target as parse_gpu
from relaxc.targets.llvm.backend import LlvmBackend
from relaxc.targets.llvm.target import parse_target as parse_cpu
from relaxc.targets.spelling import read_target


def backend_for(text: str) -> Backend:
    """Return the backend for a target as users write it.

    Raises:
        OptionError: the target is unknown or malformed.
    """
    if read_target(text)["kind"] == "cuda":
        return CudaBackend(parse_gpu(text))
    return LlvmBackend(parse_cpu(text))
