"""Run ONNX's backend suite, and write the table of what passes beside ONNX Runtime and TVM.

    python benchmarks/conformance.py run relaxc relaxc.jsonl [--jobs N] [--only REGEX]
    python benchmarks/conformance.py run onnxruntime onnxruntime.jsonl
    python benchmarks/conformance.py run tvm tvm.jsonl
    python benchmarks/conformance.py table relaxc.jsonl onnxruntime.jsonl tvm.jsonl \\
        > docs/conformance.md

A run goes on where its log ends. Every case has a process of its own, forked from one that has
loaded the engine: what crashes or takes longer than `--limit` seconds costs its case only.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from conformance_page import KINDS, Result, read, table
from onnx import helper, numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

Engine = Callable[[onnx.ModelProto, Sequence[Any]], list[Any]]
# Results depend on a generator of random numbers; only their distribution could be compared.
_RANDOM = frozenset(("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike")) | {
    "RandomUniform",
    "RandomUniformLike",
}
_TRAINING = "ai.onnx.preview.training"
_ONNXRUNTIME_OPSET = 26
# Numbers with fewer bits than this say nothing at the tolerances of the suite.
_BFLOAT16_RTOL = 2.0**-6


def suite() -> list[tuple[str, TestCase]]:
    """Kind and case, but for those that are random or of training."""
    found = []
    for kind in KINDS:
        cases = load_model_tests(kind=kind)
        found += [(kind, c) for c in cases if kind == "node" or _is_judged(_model(c), c.name)]
    return [(k, c) for k, c in found if k != "node" or _is_judged(c.model, c.name)]


def _is_judged(model: onnx.ModelProto, name: str) -> bool:
    nodes = list(_nodes(model.graph))
    if any(n.op_type in _RANDOM or n.domain == _TRAINING for n in nodes):
        return False
    if name.startswith("test_training_dropout") and "zero_ratio" not in name:
        return False
    border = [*model.graph.input, *model.graph.output]
    return not any(
        v.type.sequence_type.elem_type.tensor_type.elem_type == onnx.TensorProto.STRING
        for v in border
    )


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attr in node.attribute:
            if attr.HasField("g"):
                yield from _nodes(attr.g)


def _model(case: TestCase) -> onnx.ModelProto:
    return case.model or onnx.load(Path(case.model_dir, "model.onnx"))


def _data(case: TestCase, model: onnx.ModelProto) -> Iterator[tuple[list[Any], list[Any]]]:
    """Inputs and expected outputs of every data set."""
    if case.model is not None:
        for inputs, outputs in case.data_sets:
            yield [_value(i) for i in inputs], [_value(o) for o in outputs]
        return
    constants = {tensor.name for tensor in model.graph.initializer}
    fed = [value.type for value in model.graph.input if value.name not in constants]
    for folder in sorted(Path(case.model_dir).glob("test_data_set_*")):
        inputs = [_stored(folder / f"input_{i}.pb", kind) for i, kind in enumerate(fed)]
        kinds = [value.type for value in model.graph.output]
        outputs = [_stored(folder / f"output_{i}.pb", kind) for i, kind in enumerate(kinds)]
        yield inputs, outputs


def _stored(path: Path, kind: onnx.TypeProto) -> Any:
    data = path.read_bytes()
    if kind.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(data))
    if kind.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(data))
    return numpy_helper.to_array(onnx.TensorProto.FromString(data))


def _value(item: Any) -> Any:
    if isinstance(item, list | tuple):
        return [_value(part) for part in item]
    return numpy_helper.to_array(item) if isinstance(item, onnx.TensorProto) else item


def engine(name: str) -> Engine:
    """The engine of that name."""
    if name == "relaxc":
        from relaxc.measure.conformance import run

        # Every case has a process of its own: what is made once per process is made here.
        relu = helper.make_node("Relu", ["x"], ["y"])
        values = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy"]
        graph = helper.make_graph([relu], "warm", values[:1], values[1:])
        opset = helper.make_opsetid("", 18)
        run(helper.make_model(graph, opset_imports=[opset], ir_version=9), [np.ones(1, np.float32)])
        return run
    # Here, not in every child.
    if name == "tvm":
        importlib.import_module("tvm.relax.frontend.onnx")
        return _tvm
    importlib.import_module("onnxruntime")
    return _onnxruntime


def _tvm(model: onnx.ModelProto, inputs: Sequence[Any]) -> list[Any]:
    """TVM as it is: its importer, given the shapes of the inputs, and its own pipeline."""
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    def held(value: Any) -> Any:
        if isinstance(value, list):
            return tuple(held(part) for part in value)
        return value if value is None else tvm.runtime.tensor(np.array(value, order="C"))

    constants = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in constants]
    shapes = {n: list(a.shape) for n, a in zip(names, inputs) if isinstance(a, np.ndarray)}
    mod = from_onnx(model, shape_dict=shapes, keep_params_in_input=False)
    mod = relax.transform.DecomposeOpsForInference()(mod)
    executable = tvm.compile(relax.transform.LegalizeOps()(mod), target="llvm")
    result = relax.VirtualMachine(executable, tvm.cpu())["main"](*map(held, inputs))
    kinds = list(model.graph.output)
    parts = [result] if len(kinds) == 1 else list(result)
    return [_of_tvm(part, kind.type.tensor_type.elem_type) for part, kind in zip(parts, kinds)]


def _of_tvm(value: Any, element: int) -> Any:
    """A result of TVM, which has values of their own kinds for shapes and for single numbers."""
    if hasattr(value, "numpy"):
        return value.numpy()
    if isinstance(value, bool | int | float):
        return np.array(value, helper.tensor_dtype_to_np_dtype(element))
    if type(value).__name__ == "Shape":
        return np.array([int(n) for n in value], np.int64)
    return [_of_tvm(part, element) for part in value]


def _onnxruntime(model: onnx.ModelProto, inputs: Sequence[Any]) -> list[Any]:
    """ONNX Runtime, of the newest operator set that it knows.

    Its Python interface takes no arrays of types that NumPy lacks: those are made initializers,
    and results of them are cast to float32 in the model.
    """
    import onnxruntime

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = min(copy.ir_version, 13)
    constants = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in constants]
    feed = {}
    for name, given in zip(names, inputs):
        if isinstance(given, np.ndarray) and _is_foreign(given.dtype):
            copy.graph.initializer.append(numpy_helper.from_array(given, name))
        else:
            feed[name] = np.asarray(given) if np.isscalar(given) else given
    kept = [value for value in copy.graph.input if value.name in feed or value.name in constants]
    _replace(copy.graph.input, kept)
    foreign: dict[int, np.dtype[Any]] = {}
    for index, value in enumerate(copy.graph.output):
        element = value.type.tensor_type.elem_type
        if element and _is_foreign(helper.tensor_dtype_to_np_dtype(element)):
            foreign[index] = helper.tensor_dtype_to_np_dtype(element)
            cast = f"{value.name}.float"
            copy.graph.node.append(helper.make_node("Cast", [value.name], [cast], to=1))
            value.name, value.type.tensor_type.elem_type = cast, onnx.TensorProto.FLOAT
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    last: Exception | None = None
    for newest in (None, _ONNXRUNTIME_OPSET):
        for entry in copy.opset_import:
            if newest and entry.domain in ("", "ai.onnx"):
                entry.version = min(entry.version, newest)
        try:
            session = onnxruntime.InferenceSession(copy.SerializeToString(), options)
            results: list[Any] = session.run(None, feed)
        except Exception as err:  # its exceptions have no common base
            last = err
            continue
        return [r.astype(foreign[i]) if i in foreign else r for i, r in enumerate(results)]
    raise NotImplementedError(str(last)) from last


def _is_foreign(dtype: np.dtype[Any]) -> bool:
    return dtype.kind not in "biufcOUS"


def _replace(field: Any, kept: list[Any]) -> None:
    """Make `kept` the entries of a repeated field."""
    copies = [type(item).FromString(item.SerializeToString()) for item in kept]
    del field[:]
    field.extend(copies)


def judge(run: Engine, case: TestCase) -> tuple[str, str]:
    """Status and message of a case."""
    model = _model(case)
    for inputs, expected in _data(case, model):
        try:
            results = run(model, inputs)
        except NotImplementedError as err:
            return "refused", str(err)
        except Exception as err:  # whatever it is, it is not clean
            return "error", f"{type(err).__name__}: {err}"
        complaint = _difference(results, expected, case.rtol, case.atol)
        if complaint:
            return "mismatch", complaint
    return "pass", ""


def _difference(actual: Any, expected: Any, rtol: float, atol: float) -> str:
    """How a result differs; empty if it does not."""
    if isinstance(expected, list | tuple):
        if not isinstance(actual, list | tuple) or len(actual) != len(expected):
            return "another number of values"
        found = (_difference(a, e, rtol, atol) for a, e in zip(actual, expected))
        return next(filter(None, found), "")
    if expected is None or actual is None:
        return "" if actual is expected else "a value instead of none, or none instead of one"
    got, want = np.asarray(actual), np.asarray(expected)
    if got.shape != want.shape:
        return f"shape {got.shape} instead of {want.shape}"
    if want.dtype.kind in "OUS":
        return "" if _texts(got) == _texts(want) else "other strings"
    if got.dtype != want.dtype:
        return f"type {got.dtype} instead of {want.dtype}"
    if want.dtype.name == "bfloat16":
        rtol = max(rtol, _BFLOAT16_RTOL)
    if want.dtype.kind == "V" or not np.issubdtype(want.dtype, np.number):
        got, want = got.astype(np.float32), want.astype(np.float32)
    if np.allclose(got, want, rtol=rtol, atol=atol, equal_nan=True):
        return ""
    return f"other numbers; the largest difference is {np.nanmax(np.abs(got - want)):g}"


def _texts(array: np.ndarray) -> list[str]:
    return [t.decode() if isinstance(t, bytes) else str(t) for t in array.flat]


def describe(kind: str, case: TestCase, of: dict[str, str]) -> tuple[str, bool]:
    """The operator that a case is about, and whether it is a function body."""
    base, separator, _ = case.name.partition("_expanded")
    if kind != "node":
        return kind, False
    return of.get(base, case.name), bool(separator)


def run_all(name: str, log: Path, jobs: int, limit_s: float, only: str) -> None:
    """Run what the log does not hold yet."""
    done = {r.name for r in read(log)} if log.exists() else set()
    cases = suite()
    of = {
        c.name: (f"{n.domain}::" if n.domain not in ("", "ai.onnx") else "") + n.op_type
        for kind, c in cases
        if kind == "node" and "_expanded" not in c.name
        for n in [c.model.graph.node[0]]
    }
    todo = [(k, c) for k, c in cases if c.name not in done and re.search(only, c.name)]
    run = engine(name)
    context = multiprocessing.get_context("fork")
    running: list[tuple[BaseProcess, Connection, float, str, TestCase]] = []
    with log.open("a", encoding="utf-8") as file:
        while todo or running:
            while todo and len(running) < jobs:
                kind, case = todo.pop(0)
                mine, theirs = context.Pipe(False)
                process: BaseProcess = context.Process(target=_child, args=(run, case, theirs))
                process.start()
                theirs.close()
                running.append((process, mine, time.monotonic() + limit_s, kind, case))
            for entry in list(running):
                process, mine, end, kind, case = entry
                answer = _answer(process, mine, end)
                if answer is not None:
                    running.remove(entry)
                    op, is_expanded = describe(kind, case, of)
                    result = Result(case.name, kind, op, is_expanded, answer[0], answer[1][:400])
                    print(json.dumps(asdict(result)), file=file, flush=True)


def _child(run: Engine, case: TestCase, pipe: Connection) -> None:
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    pipe.send(judge(run, case))


def _answer(process: BaseProcess, pipe: Connection, end: float) -> tuple[str, str] | None:
    """What a process found, or None while it works."""
    if pipe.poll(0.02):
        try:
            found: tuple[str, str] = pipe.recv()
        except EOFError:
            process.join()
            found = "crash", f"exit code {process.exitcode}"
        process.join()
        return found
    if time.monotonic() < end:
        return None
    process.kill()
    process.join()
    return "timeout", ""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("engine", choices=("relaxc", "onnxruntime", "tvm"))
    running.add_argument("log", type=Path)
    running.add_argument("--jobs", type=int, default=2)
    running.add_argument("--limit", type=float, default=120.0)
    running.add_argument("--only", default="", help="regular expression on names")
    writing = commands.add_parser("table")
    writing.add_argument("relaxc", type=Path)
    writing.add_argument("onnxruntime", type=Path)
    writing.add_argument("tvm", type=Path)
    args = parser.parse_args()
    if args.command == "run":
        run_all(args.engine, args.log, args.jobs, args.limit, args.only)
    else:
        sys.stdout.write(table(*map(read, (args.relaxc, args.onnxruntime, args.tvm))))


if __name__ == "__main__":
    main()
