"""Postprocessing as a part of the model: from scores to what the user wants to know.

    softmax         scores to probabilities
    argmax          to the number of the best class (int64)
    topk=5          to the best five: outputs `NAME.values` and `NAME.indices`
    nms=0.45        rows of a YOLO head to boxes, see detection.py

Classes lie along axis 1 of images and maps (rank 4), along the last axis otherwise; `argmax@1`,
`softmax@-1` and `topk@1=5` say it outright.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from relaxc.errors import OptionError, near_matches
from relaxc.frontend.detection import Detection, add_detection, parse_detection
from relaxc.frontend.rewire import rename_result

_STEPS = ("softmax", "argmax", "topk")


@dataclass(frozen=True)
class Step:
    """One operation on an output.

    Attributes:
        op: `softmax`, `argmax` or `topk`.
        axis: of the classes; None is the usual one.
        count: of the best classes, for `topk`.
    """

    op: str
    axis: int | None = None
    count: int = 1


@dataclass(frozen=True)
class Postprocess:
    """What is done to an output, in order; the only one where `name` is None."""

    name: str | None
    steps: tuple[Step, ...] = ()
    detection: Detection | None = None


def parse_postprocess(text: str) -> Postprocess:
    """Read the words of `--postprocess`: `softmax,topk=5` or `scores:argmax`.

    Raises:
        OptionError: a word is unknown, or its value makes no sense.
    """
    name, colon, rest = text.rpartition(":")
    words = [word.strip() for word in rest.split(",") if word.strip()]
    if any(word.partition("=")[0] == "nms" for word in words):
        return Postprocess(name if colon else None, detection=parse_detection(words))
    steps = tuple(_step(word) for word in words)
    if not steps:
        raise OptionError(f"`{text}` is no postprocessing; write for example `softmax,topk=5`")
    for step in steps[:-1]:
        if step.op != "softmax":
            raise OptionError(f"`{step.op}` must be the last word of postprocessing")
    return Postprocess(name if colon else None, steps)


def _step(word: str) -> Step:
    found = re.fullmatch(r"(?P<op>[a-z]+)(@(?P<axis>-?\d+))?(=(?P<count>[1-9]\d*))?", word)
    if found is None or found["op"] not in _STEPS:
        raise OptionError(
            f"unknown word `{word}` in postprocessing{near_matches(word, _STEPS)}; words are "
            "`softmax`, `argmax` and `topk=N`, each with `@AXIS` where it is not the usual one, "
            "and `nms=OVERLAP`"
        )
    if (found["op"] == "topk") != (found["count"] is not None):
        raise OptionError(f"`{word}` in postprocessing: `topk` takes a number, as `topk=5`")
    axis = None if found["axis"] is None else int(found["axis"])
    return Step(found["op"], axis, int(found["count"] or 1))


def add_postprocess(proto: onnx.ModelProto, wanted: Postprocess) -> None:
    """Put postprocessing behind an output of a model, in place.

    Raises:
        OptionError: there is no such output, or it has no such axis.
    """
    graph = proto.graph
    outputs = {value.name: value for value in graph.output}
    name = wanted.name
    if name is None and len(outputs) == 1:
        (name,) = outputs
    if name is None or name not in outputs:
        listed = ", ".join(f"`{known}`" for known in outputs)
        raise OptionError(
            f"postprocessing must say which output: `NAME:softmax`; the model's are {listed}"
            if name is None
            else f"postprocessing is given for `{name}`, but the model's outputs are {listed}"
            f"{near_matches(name, outputs)}"
        )
    if all(name not in node.output for node in graph.node):
        raise OptionError(f"output `{name}` is computed by no node; there is nothing to process")
    value = outputs[name]
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        raise OptionError(f"output `{name}` has no known rank, which postprocessing needs")
    if wanted.detection is not None:
        add_detection(graph, value, wanted.detection)
        return
    rank = len(tensor.shape.dim)
    inner = f"{name}.scores"
    rename_result(graph, name, inner)
    for number, step in enumerate(wanted.steps):
        axis = _axis(step, rank, name)
        is_last = number == len(wanted.steps) - 1
        result = name if is_last else f"{name}.{step.op}{number}"
        node_name = f"{name}.postprocess.{step.op}"
        if step.op == "softmax":
            node = helper.make_node("Softmax", [inner], [result], name=node_name, axis=axis)
        elif step.op == "argmax":
            node = helper.make_node(
                "ArgMax", [inner], [result], name=node_name, axis=axis, keepdims=0
            )
            del tensor.shape.dim[axis]
            tensor.elem_type = TensorProto.INT64
        else:
            count = f"{name}.postprocess.count"
            graph.initializer.append(
                numpy_helper.from_array(np.array([step.count], np.int64), count)
            )
            best = [f"{name}.values", f"{name}.indices"]
            node = helper.make_node("TopK", [inner, count], best, name=node_name, axis=axis)
            _replace_output(graph, value, best, axis, step.count)
        graph.node.append(node)
        inner = result


def _axis(step: Step, rank: int, name: str) -> int:
    axis = (1 if rank == 4 else rank - 1) if step.axis is None else step.axis
    if not -rank <= axis < rank:
        raise OptionError(
            f"output `{name}` has {rank} axes; `{step.op}@{axis}` in postprocessing is none of them"
        )
    return axis % rank


def _replace_output(
    graph: onnx.GraphProto, value: onnx.ValueInfoProto, names: list[str], axis: int, count: int
) -> None:
    """Two outputs in place of one."""
    fixed = value.type.tensor_type.shape.dim[axis].dim_value
    if fixed and fixed < count:
        raise OptionError(f"output `{value.name}` has {fixed} classes, fewer than {count}")
    new = []
    for name, elem_type in zip(names, (value.type.tensor_type.elem_type, TensorProto.INT64)):
        entry = onnx.ValueInfoProto()
        entry.CopyFrom(value)
        entry.name = name
        entry.type.tensor_type.elem_type = elem_type
        entry.type.tensor_type.shape.dim[axis].Clear()
        entry.type.tensor_type.shape.dim[axis].dim_value = count
        new.append(entry)
    position = [output.name for output in graph.output].index(value.name)
    outputs = [*graph.output[:position], *new, *graph.output[position + 1 :]]
    del graph.output[:]
    graph.output.extend(outputs)
