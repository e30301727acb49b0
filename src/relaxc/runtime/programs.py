"""Models that run in steps: some on the host, the others as compiled pieces.

A graph of the manifest holds `inputs`, `outputs`, `constants` (name -> number) and `steps`, each
with `op`, `name`, `inputs` and `outputs` (empty where absent):

    piece           number `piece` of the compiled ones
    If              `then_branch` or `else_branch`, which are graphs
    Loop, Scan      `body`, a graph; `states` results are states, the others are `stacked`; of a
                    Loop, `shapes` are those of the iteration's number and of the condition
    others          a function of `relaxc.runtime.host`, with `attributes`
"""

from __future__ import annotations

import copy
import itertools
from collections import ChainMap
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import numpy as np

from relaxc.artifact import Artifact, numpy_dtype
from relaxc.errors import ArtifactError, InputError, OptionError, RelaxcError, near_matches
from relaxc.runtime.host import FUNCTIONS
from relaxc.runtime.host.base import integer
from relaxc.runtime.model import Model, TensorInfo, fits
from relaxc.runtime.tensors import as_array

Values = MutableMapping[str, Any]


class ProgramModel(Model):
    """A loaded artifact of a model that runs in steps."""

    def __init__(self, artifact: Artifact, threads: int, cache_dir: Path | None) -> None:
        self.manifest = artifact.manifest
        self.device = "cpu"
        self.threads = threads
        self.inputs = _infos(self.manifest["inputs"])
        self.outputs = _infos(self.manifest["outputs"])
        self._graph = copy.deepcopy(self.manifest["program"]["graph"])
        count = len(self.manifest["program"]["pieces"])
        self._pieces = [Model(artifact.piece(k), "cpu", threads, cache_dir) for k in range(count)]
        self._constants = [_constant(e, artifact) for e in self.manifest["program"]["constants"]]
        _prepare(self._graph, self._constants)

    def profile(self, feed: Mapping[str, Any], runs: int) -> Any:
        """Refused: steps of the host have no profiler.

        Raises:
            OptionError: always.
        """
        raise OptionError("a model with loops, sequences or strings cannot be profiled by kernels")

    def put(self, array: np.ndarray, name: str | None = None) -> Any:
        """Refused: such models run on the CPU.

        Raises:
            OptionError: always.
        """
        raise OptionError("the model runs on the CPU; give it arrays as they are")

    def synchronize(self) -> None:
        """Nothing: results are there when a run returns."""

    def _run(self, feed: Mapping[str, Any]) -> list[Any]:
        values = self._checked_values(feed)
        results = self._execute(self._graph, values, {})
        return [_own(result) for result in results]

    def _checked_values(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        known = {info.name for info in self.inputs}
        for name in feed:
            if name not in known:
                listed = ", ".join(f"`{n}`" for n in known) or "no inputs"
                raise InputError(
                    f"unknown input `{name}`{near_matches(name, known)}; the model takes {listed}"
                )
        symbols: dict[str, int] = {}
        values = {}
        for info in self.inputs:
            if info.name not in feed and not info.dtype.startswith("optional("):
                raise InputError(f"input `{info.name}` is missing; it is {info}")
            values[info.name] = _checked(info, info.dtype, feed.get(info.name), symbols)
        return values

    def _execute(
        self, graph: Mapping[str, Any], inputs: Values, outer: Mapping[str, Any]
    ) -> list[Any]:
        """Run the steps of a graph; names that it does not define are those of `outer`."""
        values: Values = ChainMap(inputs, outer) if outer else inputs  # type: ignore[arg-type]
        for name, number in graph["constants"].items():
            values[name] = self._constants[number]
        for step in graph["steps"]:
            try:
                results = self._step(step, values)
            except RelaxcError:
                raise
            except (ValueError, IndexError, TypeError, ArithmeticError, AttributeError) as err:
                raise InputError(
                    f"`{step['op']}` (node `{step['name']}`) fails on these inputs: {err}"
                ) from err
            for name, result in zip(step["outputs"], results):
                if name:
                    values[name] = result
        return [values[name] for name in graph["outputs"]]

    def _step(self, step: Mapping[str, Any], values: Values) -> list[Any]:
        op = step["op"]
        given = [values[name] if name else None for name in step["inputs"]]
        if op == "piece":
            piece = self._pieces[step["piece"]]
            return list(piece.run(dict(zip(step["inputs"], given))).values())
        if op == "If":
            branch = step["then_branch" if bool(np.all(given[0])) else "else_branch"]
            return self._execute(branch, {}, values)
        if op == "Loop":
            return self._loop(step, given, values)
        if op == "Scan":
            return self._scan(step, given, values)
        return FUNCTIONS[op](given, step["attributes"])

    def _loop(self, step: Mapping[str, Any], given: list[Any], values: Values) -> list[Any]:
        body, count = step["body"], step["states"]
        limit = None if given[0] is None else integer(given[0])
        is_going = True if given[1] is None else bool(np.all(given[1]))
        states, stacked = given[2:], [[] for _ in step["stacked"]]  # type: ignore[var-annotated]
        number = 0
        while is_going and (limit is None or number < limit):
            first = [np.array(number, np.int64), np.array(True)]
            first = [a.reshape(shape) for a, shape in zip(first, step["shapes"])]
            results = self._execute(body, dict(zip(body["inputs"], first + states)), values)
            is_going, states = bool(np.all(results[0])), results[1 : 1 + count]
            for kept, result in zip(stacked, results[1 + count :]):
                kept.append(result)
            number += 1
        return states + [_stack(rows, 0, kind) for rows, kind in zip(stacked, step["stacked"])]

    def _scan(self, step: Mapping[str, Any], given: list[Any], values: Values) -> list[Any]:
        body, count, attrs = step["body"], step["states"], step["attributes"]
        states, sources = given[:count], given[count:]
        axes = attrs.get("scan_input_axes") or [0] * len(sources)
        backward = attrs.get("scan_input_directions") or [0] * len(sources)
        lengths = {source.shape[axis] for source, axis in zip(sources, axes)}
        if len(lengths) != 1:
            raise ValueError(f"what it scans has different lengths: {sorted(lengths)}")
        (length,) = lengths
        stacked: list[list[Any]] = [[] for _ in step["stacked"]]
        for number in range(length):
            slices = [
                np.take(source, length - 1 - number if is_backward else number, axis)
                for source, axis, is_backward in zip(sources, axes, backward)
            ]
            inputs = dict(zip(body["inputs"], [*states, *slices]))
            results = self._execute(body, inputs, values)
            states = results[:count]
            for kept, result in zip(stacked, results[count:]):
                kept.append(result)
        out_axes = attrs.get("scan_output_axes") or [0] * len(stacked)
        out_backward = attrs.get("scan_output_directions") or [0] * len(stacked)
        return states + [
            _stack(rows[::-1] if is_backward else rows, axis, kind)
            for rows, axis, is_backward, kind in zip(
                stacked, out_axes, out_backward, step["stacked"]
            )
        ]


def load_program(
    artifact: Artifact, device: str | None, threads: int, cache_dir: Path | None
) -> ProgramModel:
    """Load an artifact whose manifest holds a program.

    Raises:
        OptionError: it is wanted on a GPU.
    """
    if device not in (None, "cpu"):
        raise OptionError(
            f"`{artifact.path}` has loops, sequences or strings and runs on the CPU, "
            f"not on `{device}`"
        )
    return ProgramModel(artifact, threads, cache_dir)


def _stack(rows: list[Any], axis: int, kind: Mapping[str, Any]) -> np.ndarray:
    """Results of all iterations in one tensor."""
    if rows:
        return np.stack(rows, axis)
    if kind["shape"] is None or kind["dtype"] is None:
        raise ValueError("no iteration ran, and the shape of one's results is not known")
    shape = list(kind["shape"])
    shape.insert(axis % (len(shape) + 1), 0)
    return np.empty(shape, numpy_dtype(kind["dtype"]))


def _own(value: Any) -> Any:
    """A result that shares no memory with inputs, constants or other results."""
    if isinstance(value, list):
        return [_own(item) for item in value]
    return None if value is None else np.array(value)


def _infos(entries: list[Mapping[str, Any]]) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(e["name"], e["dtype"], tuple(e["shape"]), e.get("rank", 0) is not None)
        for e in entries
    )


def _checked(info: TensorInfo, dtype: str, value: Any, symbols: dict[str, int]) -> Any:
    """An input as steps take it.

    Raises:
        InputError: it is of another kind, type or shape.
    """
    kind, _, inner = dtype.removesuffix(")").partition("(")
    if kind == "optional":
        return None if value is None else _checked(info, inner, value, symbols)
    if kind == "sequence":
        if not isinstance(value, list | tuple):
            raise InputError(f"input `{info.name}` must be a list of arrays; it is {info}")
        # Elements may differ in what the type leaves open.
        return [_checked(info, inner, item, dict(symbols)) for item in value]
    if kind == "string":
        array = _strings(info, value)
    else:
        try:
            array = as_array(value, numpy_dtype(kind))
        except ValueError as err:
            raise InputError(f"input `{info.name}` cannot be read: {err}") from err
        if array.dtype != numpy_dtype(kind):
            raise InputError(
                f"input `{info.name}` must be {kind}, not {array.dtype.name}; "
                f"convert it with `.astype('{kind}')`"
            )
    if info.has_rank and not fits(array.shape, info.shape, symbols):
        raise InputError(
            f"input `{info.name}` must have shape [{', '.join(map(str, info.shape))}], "
            f"not {list(array.shape)}"
        )
    return array


def _strings(info: TensorInfo, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "OUS":
        raise InputError(f"input `{info.name}` must be strings, not {array.dtype.name}")
    texts = np.empty(array.shape, object)
    for index, item in np.ndenumerate(array):
        if not isinstance(item, str | bytes):
            raise InputError(f"input `{info.name}` must be strings, not {type(item).__name__}")
        texts[index] = item.decode() if isinstance(item, bytes) else str(item)
    return texts


def _constant(entry: Mapping[str, Any], artifact: Artifact) -> np.ndarray:
    if "strings" in entry:
        texts = np.empty(len(entry["strings"]), object)
        texts[:] = entry["strings"]
        return texts.reshape(entry["shape"])
    array: np.ndarray = artifact.weights()[entry["weight"]]
    return array


def _prepare(graph: Mapping[str, Any], constants: list[np.ndarray]) -> None:
    """Put constants into attributes, and let every random step count its calls.

    Raises:
        ArtifactError: a step is of an operator that this relaxc does not know.
    """
    for step in graph["steps"]:
        if step["op"] not in FUNCTIONS and step["op"] not in ("piece", "If", "Loop", "Scan"):
            raise ArtifactError(
                f"the artifact uses `{step['op']}`, which this relaxc does not know; update relaxc"
            )
        attrs = step.get("attributes", {})
        for key, value in attrs.items():
            if isinstance(value, dict):
                attrs[key] = constants[value["constant"]]
        if "seed" in attrs:
            attrs["calls"] = itertools.count()
        for key in ("then_branch", "else_branch", "body"):
            if key in step:
                _prepare(step[key], constants)
