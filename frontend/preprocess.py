"""Image preprocessing as a part of the model: from camera bytes to what the network takes.

`image:dtype=uint8,layout=NHWC,size=480x640,resize=256,crop,scale=1/255,mean=.485:.456:.406,std=.229:.224:.225`

Nodes are put before the graph's input, in this order whatever the order of the words:
    Cast            to the network's type
    Transpose       NHWC to NCHW
    Gather          BGR to RGB
    Resize          the shorter side to `resize`, or both to `resize=HxW`
    Slice           the middle: `crop=HxW`, or as large as the network takes
    Mul, Add        (x * scale - mean) / std, as one multiplication and one addition
The graph's input keeps its name and takes images as they are; later passes fuse what is left of
this into the first convolution's read of its input.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from relaxc.errors import OptionError, near_matches
from relaxc.frontend.rewire import rename_uses

_TYPES = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
_FLOATS = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16}
_INTERPOLATIONS = {"linear": "linear", "nearest": "nearest", "cubic": "cubic"}
# Means of images in [0, 1] are below this, those of images in [0, 255] above.
_UNIT_RANGE = 1.5
_ANTIALIAS_OPSET = 18


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """What is done to an image.

    Attributes:
        name: of the input; `image` stands for the only one of rank 4.
        dtype: of the images that are given.
        layout: of the images that are given; the network's is NCHW.
        channels: order of the colours that are given; the network's is RGB.
        size: height and width of the images that are given; None leaves them open.
        resize: the shorter side's new length, or height and width.
        interpolation: how to resize; pixel centres are at half integers.
        antialias: whether shrinking filters as widely as it shrinks.
        crop: height and width of the middle to cut out; (0, 0) is what the network takes.
        scale: factor before the mean; None where it is not given.
        mean, std: per channel, or one for all.
    """

    name: str = "image"
    dtype: str = "uint8"
    layout: str = "NHWC"
    channels: str = "RGB"
    size: tuple[int, int] | None = None
    resize: tuple[int, ...] | None = None
    interpolation: str = "linear"
    antialias: bool = False
    crop: tuple[int, int] | None = None
    scale: float | None = None
    mean: tuple[float, ...] = field(default=(0.0,))
    std: tuple[float, ...] = field(default=(1.0,))


def parse_preprocess(text: str) -> Preprocess:
    """Read the words of `--preprocess`.

    Raises:
        OptionError: a word is unknown, or its value makes no sense.
    """
    name, colon, rest = text.partition(":")
    if not colon or "=" in name:
        name, rest = "image", text
    values: dict[str, Any] = {"name": name}
    for word in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = word.partition("=")
        if key not in _PARSERS:
            raise OptionError(
                f"unknown word `{word}` in preprocessing{near_matches(key, _PARSERS)}; words are "
                + ", ".join(f"`{known}`" for known in _PARSERS)
            )
        if not equals and key not in _BARE:
            raise OptionError(f"`{key}` in preprocessing needs a value, as `{key}=...`")
        try:
            values[key] = _PARSERS[key](value) if equals else _BARE[key]
        except (ValueError, ZeroDivisionError) as err:
            raise OptionError(f"cannot read `{word}` in preprocessing: {err}") from err
    found = Preprocess(**values)
    is_for_bytes = found.dtype == "uint8" and found.scale is None
    if is_for_bytes and found.mean != (0.0,) and max(found.mean) < _UNIT_RANGE:
        raise OptionError(
            "the mean in preprocessing is that of images in [0, 1], but bytes reach 255; add "
            "`scale=1/255`, or `scale=1` if it is meant so"
        )
    return found


def _one_of(*known: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in known:
            raise ValueError(f"it is none of {', '.join(known)}")
        return text

    return parse


def _sizes(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)?", text):
        raise ValueError("write `256` or `256x320` (height, width)")
    return tuple(map(int, text.split("x")))


def _pair(text: str) -> tuple[int, int]:
    sizes = _sizes(text)
    return sizes[0], sizes[-1]


def _numbers(text: str) -> tuple[float, ...]:
    found = []
    for part in text.split(":"):
        above, _, below = part.partition("/")
        found.append(float(above) / float(below or 1))
    if not all(map(math.isfinite, found)):
        raise ValueError("it must be finite")
    return tuple(found)


def _positive(text: str) -> tuple[float, ...]:
    found = _numbers(text)
    if min(found) <= 0:
        raise ValueError("it must be positive")
    return found


_PARSERS: dict[str, Callable[[str], Any]] = {
    "dtype": _one_of(*_TYPES),
    "layout": _one_of("NHWC", "NCHW"),
    "channels": _one_of("RGB", "BGR"),
    "size": _pair,
    "resize": _sizes,
    "interpolation": _one_of(*_INTERPOLATIONS),
    "antialias": lambda text: _one_of("true", "false")(text) == "true",
    "crop": _pair,
    "scale": lambda text: _positive(text)[0],
    "mean": _numbers,
    "std": _positive,
}
_BARE = {"crop": (0, 0), "antialias": True}


def add_preprocess(proto: onnx.ModelProto, names: list[str], wanted: Preprocess) -> None:
    """Put preprocessing before an input of a model, in place.

    Args:
        proto: the model, of opset 15 or newer.
        names: the inputs that users feed.
        wanted: what to do.

    Raises:
        OptionError: there is no such input, it is no image, or sizes are missing.
    """
    value = _image(proto, names, wanted)
    name = value.name
    tensor = value.type.tensor_type
    dims = [d.dim_value or d.dim_param or None for d in tensor.shape.dim]
    batch, channels, height, width = dims
    if not isinstance(channels, int):
        raise OptionError(f"input `{name}` leaves its number of channels open; fix it first")
    builder = _Builder(proto, name, tensor.elem_type)
    if wanted.dtype != {v: k for k, v in _TYPES.items()}.get(tensor.elem_type):
        builder.add("Cast", to=tensor.elem_type)
    if wanted.layout == "NHWC":
        builder.add("Transpose", perm=[0, 3, 1, 2])
    if wanted.channels == "BGR":
        order = np.arange(channels, dtype=np.int64)[::-1].copy()
        builder.add("Gather", builder.constant(order), axis=1)
    size = _resize(builder, wanted, (height, width))
    _crop(builder, wanted, size, (height, width))
    _normalize(builder, wanted, channels)
    builder.finish()
    given: list[Any] = [batch, channels, *(wanted.size or _open_size(wanted, (height, width)))]
    if wanted.layout == "NHWC":
        given = [given[0], given[2], given[3], given[1]]
    tensor.elem_type = _TYPES[wanted.dtype]
    for dim, new in zip(tensor.shape.dim, given):
        dim.Clear()
        if isinstance(new, int):
            dim.dim_value = new
        elif new is not None:
            dim.dim_param = new


def _image(proto: onnx.ModelProto, names: list[str], wanted: Preprocess) -> onnx.ValueInfoProto:
    values = {value.name: value for value in proto.graph.input if value.name in names}
    images = [n for n, v in values.items() if len(v.type.tensor_type.shape.dim) == 4]
    name = wanted.name
    if name not in values and name == "image" and len(images) == 1:
        (name,) = images
    if name not in values:
        listed = ", ".join(f"`{known}`" for known in values)
        raise OptionError(
            f"preprocessing is given for `{name}`, but the model's inputs are {listed}"
            f"{near_matches(name, values)}"
        )
    tensor = values[name].type.tensor_type
    if name not in images or tensor.elem_type not in _FLOATS:
        raise OptionError(
            f"input `{name}` is no image of floating-point numbers [n, channels, height, width]"
        )
    return values[name]


class _Builder:
    """A chain of nodes between an input and those who read it."""

    def __init__(self, proto: onnx.ModelProto, name: str, elem_type: int) -> None:
        self._graph = proto.graph
        self.opset = max(entry.version for entry in proto.opset_import if not entry.domain)
        self._name = name
        self.dtype = _FLOATS[elem_type]
        self._nodes: list[onnx.NodeProto] = []
        self._at = name

    def constant(self, array: np.ndarray) -> str:
        count = len(self._graph.initializer)
        name = f"{self._name}.preprocess.constant{count}"
        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def add(self, op: str, *others: str, **attributes: Any) -> None:
        result = f"{self._name}.preprocess.{op}{len(self._nodes)}"
        node = helper.make_node(op, [self._at, *others], [result], name=result, **attributes)
        self._nodes.append(node)
        self._at = result

    def with_size(self, size: tuple[int, int]) -> str:
        """The shape of the image so far, with another height and width, as a tensor."""
        name = f"{self._name}.preprocess.sizes"
        wanted = self.constant(np.array(size, np.int64))
        batch, shape = f"{name}.batch", f"{name}.shape"
        self._nodes += [
            helper.make_node("Shape", [self._at], [batch], name=batch, start=0, end=2),
            helper.make_node("Concat", [batch, wanted], [shape], name=shape, axis=0),
        ]
        return shape

    def finish(self) -> None:
        rename_uses(self._graph, self._name, self._at)
        rest = list(self._graph.node)
        del self._graph.node[:]
        self._graph.node.extend([*self._nodes, *rest])


def _resize(builder: _Builder, wanted: Preprocess, network: tuple[Any, Any]) -> tuple[Any, Any]:
    """Resize, and return the size of the image then."""
    size: tuple[Any, Any] = wanted.size or _open_size(wanted, network)
    if wanted.resize is None:
        return size
    if len(wanted.resize) == 2:
        new = (wanted.resize[0], wanted.resize[1])
    elif wanted.size is None:
        raise OptionError(
            "`resize` to a shorter side needs the size of the images in preprocessing; add "
            "`size=480x640`, or resize both sides with `resize=256x256`"
        )
    else:
        shorter = wanted.resize[0]
        least = min(wanted.size)
        new = (wanted.size[0] * shorter // least, wanted.size[1] * shorter // least)
    if wanted.antialias and builder.opset < _ANTIALIAS_OPSET:
        raise OptionError(
            f"`antialias` in preprocessing needs opset {_ANTIALIAS_OPSET}, the model has "
            f"{builder.opset}; export it with a newer one"
        )
    attributes: dict[str, Any] = {"antialias": 1} if wanted.antialias else {}
    builder.add(
        "Resize",
        "",
        "",
        builder.with_size(new),
        mode=_INTERPOLATIONS[wanted.interpolation],
        coordinate_transformation_mode="half_pixel",
        **attributes,
    )
    return new


def _open_size(wanted: Preprocess, network: tuple[Any, Any]) -> tuple[Any, Any]:
    """Without a size, images are as large as the network wants, unless something is done to it."""
    if wanted.resize is None and wanted.crop is None:
        return network
    return "image_height", "image_width"


def _crop(
    builder: _Builder, wanted: Preprocess, size: tuple[Any, Any], network: tuple[Any, Any]
) -> None:
    if wanted.crop is None:
        return
    target = network if wanted.crop == (0, 0) else wanted.crop
    if not all(isinstance(length, int) for length in (*target, *size)):
        raise OptionError(
            "`crop` in preprocessing needs to know the sizes: of the images (`size=480x640` or "
            "`resize=256x256`), and of the network's input (or `crop=224x224`)"
        )
    if any(small > large for small, large in zip(target, size)):
        raise OptionError(
            f"cannot crop {target[0]}x{target[1]} out of {size[0]}x{size[1]} in preprocessing"
        )
    starts = [round((large - small) / 2) for small, large in zip(target, size)]
    ends = [start + small for start, small in zip(starts, target)]
    arrays = (starts, ends, [2, 3])
    builder.add("Slice", *(builder.constant(np.array(a, np.int64)) for a in arrays))


def _normalize(builder: _Builder, wanted: Preprocess, channels: int) -> None:
    mean, std = np.array(wanted.mean), np.array(wanted.std)
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            raise OptionError(
                f"`{name}` in preprocessing has {len(values)} values, the input has "
                f"{channels} channels; give one, or one per channel"
            )
    shape = (1, -1, 1, 1)
    factor = (1.0 if wanted.scale is None else wanted.scale) / std
    offset = -mean / std
    if (factor != 1).any():
        builder.add("Mul", builder.constant(factor.astype(builder.dtype).reshape(shape)))
    if offset.any():
        builder.add("Add", builder.constant(offset.astype(builder.dtype).reshape(shape)))
