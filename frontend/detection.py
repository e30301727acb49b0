"""Detections on the way out of a model: rows of a YOLO head to boxes, scores and classes.

    nms=0.45                    of two boxes of a class that share more, the better one stays
    score=0.25                  boxes below are none (0.25 by default)
    keep=100                    at most so many per image (100 by default)
    boxes=yolov5|yolov8|yolox   what the rows hold (yolov5 by default)

`yolov5`: rows of center x, center y, width, height, objectness, a score per class; `yolov8`:
columns of the same without objectness; `yolox`: rows whose first four are relative to cells of a
grid, as the head gives them without decoding. A box has its best class only, as in the networks'
own code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from relaxc.errors import OptionError, near_matches
from relaxc.frontend.rewire import rename_result

_LAYOUTS = ("yolov5", "yolov8", "yolox")
_WORDS = ("nms", "score", "keep", "boxes")
# Of the cells of YOLOX's three grids, in pixels.
_STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class Detection:
    """How rows become boxes.

    Attributes:
        overlap: the largest intersection over union of two boxes of a class.
        score: the least score of a box.
        keep: boxes per image at most.
        layout: what rows hold.
    """

    overlap: float
    score: float = 0.25
    keep: int = 100
    layout: str = "yolov5"


def parse_detection(words: list[str]) -> Detection:
    """Read `nms=0.45,score=0.25,keep=100,boxes=yolox`.

    Raises:
        OptionError: a word is unknown, or its value makes no sense.
    """
    given: dict[str, str] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in _WORDS or name in given or not value:
            raise OptionError(
                f"cannot use `{word}` in postprocessing{near_matches(name, _WORDS)}; with `nms`, "
                "words are `nms=0.45`, `score=0.25`, `keep=100` and `boxes=yolov5`, each once"
            )
        given[name] = value
    found = Detection(_share(given["nms"], "nms"))
    if "score" in given:
        found = replace(found, score=_share(given["score"], "score"))
    if "keep" in given:
        if not re.fullmatch(r"[1-9]\d*", given["keep"]):
            raise OptionError(f"`keep={given['keep']}` in postprocessing: give a number of boxes")
        found = replace(found, keep=int(given["keep"]))
    if "boxes" in given:
        layout = given["boxes"]
        if layout not in _LAYOUTS:
            raise OptionError(
                f"`boxes={layout}` in postprocessing{near_matches(layout, _LAYOUTS)}; rows may be "
                "those of `yolov5`, `yolov8` or `yolox`"
            )
        found = replace(found, layout=layout)
    return found


def _share(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1:
        raise OptionError(f"`{name}={text}` in postprocessing: give a number from 0 to 1")
    return value


def add_detection(graph: onnx.GraphProto, value: onnx.ValueInfoProto, wanted: Detection) -> None:
    """Put decoding and non-maximum suppression behind an output, in place.

    It becomes `NAME.boxes` [batch, keep, 4] (left, top, right, bottom, in pixels of the network's
    image), `NAME.scores` [batch, keep], `NAME.classes` [batch, keep] and `NAME.count` [batch]; the
    best come first, rows behind the count are zero.

    Raises:
        OptionError: the output has no such rows.
    """
    name = value.name
    tensor = value.type.tensor_type
    sizes = [dim.dim_value for dim in tensor.shape.dim]
    # A batch, boxes, and at least one class.
    rows, fields = (2, 1) if wanted.layout == "yolov8" else (1, 2)
    first = 4 if wanted.layout == "yolov8" else 5
    if len(sizes) != 3 or not sizes[rows] or sizes[fields] <= first:
        shape = ", ".join(str(d.dim_value or d.dim_param or "?") for d in tensor.shape.dim)
        raise OptionError(
            f"output `{name}` of shape [{shape}] has no rows of `{wanted.layout}`: [batch, "
            + ("4 + classes, boxes]" if wanted.layout == "yolov8" else "boxes, 5 + classes]")
            + "; sizes must be fixed"
        )
    if tensor.elem_type != TensorProto.FLOAT:
        raise OptionError(f"output `{name}` must be float32 for `nms`")
    if wanted.keep > sizes[rows]:
        wanted = replace(wanted, keep=sizes[rows])
    inner = f"{name}.rows"
    rename_result(graph, name, inner)
    step = _Steps(graph, name)
    if wanted.layout == "yolov8":
        inner = step("Transpose", inner, perm=[0, 2, 1])
    image = _image_size(graph, sizes[rows]) if wanted.layout == "yolox" else None
    _suppressed(step, inner, first, wanted, image)
    batch = tensor.shape.dim[0]
    outputs = []
    for field, kind, dims in (
        ("boxes", TensorProto.FLOAT, [wanted.keep, 4]),
        ("scores", TensorProto.FLOAT, [wanted.keep]),
        ("classes", TensorProto.INT64, [wanted.keep]),
        ("count", TensorProto.INT64, []),
    ):
        entry = helper.make_tensor_value_info(f"{name}.{field}", kind, [1, *dims])
        entry.type.tensor_type.shape.dim[0].CopyFrom(batch)
        outputs.append(entry)
    position = [output.name for output in graph.output].index(name)
    whole = [*graph.output[:position], *outputs, *graph.output[position + 1 :]]
    del graph.output[:]
    graph.output.extend(whole)


class _Steps:
    """Adds nodes: called with an operator, what it reads, and its attributes."""

    def __init__(self, graph: onnx.GraphProto, name: str) -> None:
        self._graph = graph
        self._name = name
        self._count = 0

    def __call__(self, op: str, *reads: str | np.ndarray, result: str = "", **attrs: Any) -> str:
        """Add a node; `result` names an output of the model."""
        (output,) = self.all(op, *reads, results=1, result=result, **attrs)
        return output

    def all(
        self, op: str, *reads: str | np.ndarray, results: int, result: str = "", **attrs: Any
    ) -> list[str]:
        """Add a node of several results."""
        self._count += 1
        label = f"{self._name}.nms{self._count}"
        inputs = [
            read if isinstance(read, str) else self._constant(read, f"{label}.constant{index}")
            for index, read in enumerate(reads)
        ]
        outputs = [f"{label}.{index}" for index in range(results)]
        if result:
            outputs = [f"{self._name}.{result}"]
        node = helper.make_node(op, inputs, outputs, name=f"{label}.{op}", **attrs)
        self._graph.node.append(node)
        return outputs

    def _constant(self, array: np.ndarray, name: str) -> str:
        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name


def _suppressed(
    step: _Steps, rows: str, first: int, wanted: Detection, image: tuple[int, int] | None
) -> None:
    """From rows [batch, n, first + classes] to the four outputs."""

    def columns(start: int, end: int) -> str:
        bounds = (np.array([v], np.int64) for v in (start, end, 2, 1))
        return step("Slice", rows, *bounds)

    center, size = columns(0, 2), columns(2, 4)
    if image is not None:
        center, size = _decoded(step, center, size, image)
    half = step("Mul", size, np.array(0.5, np.float32))
    corners = step("Concat", step("Sub", center, half), step("Add", center, half), axis=2)
    classes = columns(first, np.iinfo(np.int64).max)
    kind = step("ArgMax", classes, axis=2, keepdims=1)
    score = step("GatherElements", classes, kind, axis=2)
    if first == 5:
        score = step("Mul", score, columns(4, 5))
    # Boxes of different classes never meet: every class has scores of its own.
    per_class = step(
        "ScatterElements", step("Mul", classes, np.array(0, np.float32)), kind, score, axis=2
    )
    chosen = step(
        "NonMaxSuppression",
        corners,
        step("Transpose", per_class, perm=[0, 2, 1]),
        np.array([wanted.keep], np.int64),
        np.array([wanted.overlap], np.float32),
        np.array([wanted.score], np.float32),
    )
    places = step("Gather", chosen, np.array([0, 2], np.int64), axis=1)
    flat = step("Squeeze", score, np.array([2], np.int64))
    kept = step(
        "ScatterND",
        step("Mul", flat, np.array(0, np.float32)),
        places,
        step("GatherND", flat, places),
    )
    scores, order = step.all("TopK", kept, np.array([wanted.keep], np.int64), results=2, axis=1)
    is_box = step("Greater", scores, np.array(0, np.float32))
    ones = step("Cast", is_box, to=TensorProto.INT64)
    last = np.array([2], np.int64)
    of_boxes = step("Expand", step("Unsqueeze", order, last), np.array([1, 1, 4], np.int64))
    boxes = step("GatherElements", corners, of_boxes, axis=1)
    nothing = np.array(0, np.float32)
    step("Where", step("Unsqueeze", is_box, last), boxes, nothing, result="boxes")
    step("Identity", scores, result="scores")
    kinds = step("GatherElements", step("Squeeze", kind, last), order, axis=1)
    step("Mul", kinds, ones, result="classes")
    step("ReduceSum", ones, np.array([1], np.int64), keepdims=0, result="count")


def _decoded(step: _Steps, center: str, size: str, image: tuple[int, int]) -> tuple[str, str]:
    """YOLOX's rows: offsets from cells, and logarithms, in units of the cells' sizes."""
    height, width = image
    cells, strides = [], []
    for stride in _STRIDES:
        y, x = np.mgrid[: height // stride, : width // stride]
        cells.append(np.stack([x, y], -1).reshape(-1, 2))
        strides.append(np.full((cells[-1].shape[0], 1), stride))
    corner = np.concatenate(cells).astype(np.float32)[None]
    unit = np.concatenate(strides).astype(np.float32)[None]
    return step("Mul", step("Add", center, corner), unit), step("Mul", step("Exp", size), unit)


def _image_size(graph: onnx.GraphProto, count: int) -> tuple[int, int]:
    """Height and width of the network's image, of whose grids YOLOX's rows are.

    Raises:
        OptionError: no input is an image with so many cells.
    """
    stored = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if value.name not in stored and len(sizes) == 4:
            height, width = sizes[2:]
            if count == sum((height // s) * (width // s) for s in _STRIDES):
                return height, width
    raise OptionError(
        f"{count} rows are not those of `yolox` for any input [batch, channels, height, width] of "
        "the model; fix its height and width with `--input-shapes`"
    )
