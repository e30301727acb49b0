"""relaxc, ONNX Runtime and OpenVINO behind one interface, each set up for the least latency."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import queue
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from relaxc import __version__
from relaxc.errors import ModelError, RelaxcError
from relaxc.measure.reference import open_session
from relaxc.measure.signal_stack import kept_signal_stack
from relaxc.runtime.session import load

Feed = Mapping[str, np.ndarray]
ONNXRUNTIME = "ONNX Runtime"


@dataclass(frozen=True)
class Contender:
    """A model loaded in an engine.

    Attributes:
        engine: its name, and the precision where it has several.
        version: of the engine.
        path: the file it runs.
        run: computes all outputs by name; several threads may call it.
    """

    engine: str
    version: str
    path: Path
    run: Callable[[Feed], dict[str, np.ndarray]]


def relaxc_contender(path: Path, threads: int, device: str | None = None) -> Contender:
    """A compiled artifact."""
    model = load(path, device, threads)
    return Contender("relaxc", __version__, path, model.run)


def onnxruntime_contender(path: Path, threads: int) -> Contender:
    """ONNX Runtime's CPU provider with its default optimizations.

    Raises:
        TargetError: ONNX Runtime is not installed.
        ModelError: it refuses the model.
    """
    session = _refusing(ONNXRUNTIME, path, lambda: open_session(path, threads))
    version = importlib.metadata.version("onnxruntime")
    names = [output.name for output in session.get_outputs()]

    def run(feed: Feed) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, dict(feed))))

    return Contender(ONNXRUNTIME, version, path, run)


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return importlib.util.find_spec("openvino") is not None


def openvino_contender(
    path: Path, threads: int, feed: Feed, *, is_float32: bool, streams: int = 1
) -> Contender:
    """OpenVINO's CPU plugin, compiled for the shapes of `feed`.

    Args:
        path: the ONNX file.
        threads: threads per inference.
        feed: inputs of the shapes to compile for.
        is_float32: compute in float32, not in whatever precision it chooses for this CPU.
        streams: how many threads may call at the same time.

    Raises:
        ModelError: it refuses the model.
    """
    import openvino

    config: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads * streams}
    if streams == 1:
        config["PERFORMANCE_HINT"] = "LATENCY"
    else:
        config["NUM_STREAMS"] = streams
    if is_float32:
        config["INFERENCE_PRECISION_HINT"] = "f32"

    def compiled() -> Any:
        core = openvino.Core()
        model = core.read_model(str(path))
        model.reshape({name: list(array.shape) for name, array in feed.items()})
        return core.compile_model(model, "CPU", config)

    with kept_signal_stack():
        executable = _refusing("OpenVINO", path, compiled)
    # Simplified away, a tensor leaves its name to another, which then has several.
    results = {o.name for o in onnx.load(path, load_external_data=False).graph.output}
    names = [min(output.names & results) for output in executable.outputs]
    idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for _ in range(streams):
        idle.put(executable.create_infer_request())

    def run(feed: Feed) -> dict[str, np.ndarray]:
        request = idle.get()
        try:
            # Shared outputs would be overwritten by the next call of the request.
            arrays = request.infer(dict(feed), share_inputs=True, share_outputs=streams == 1)
            return {name: arrays[i] for i, name in enumerate(names)}
        finally:
            idle.put(request)

    version = openvino.__version__.partition("-")[0]
    return Contender(f"OpenVINO {'f32' if is_float32 else 'default'}", version, path, run)


def _refusing(engine: str, path: Path, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except RelaxcError:
        raise
    except Exception as err:  # neither peer's exceptions have a common base but this one
        raise ModelError(f"{engine} fails on `{path}`: {str(err).strip().splitlines()[0]}") from err
