"""How a logical tensor lies in memory. Imports nothing of ours; passes choose, targets obey.

Three kinds, for a logical tensor (n, c, h, w):

    plain      (n, c, h, w)                        as ONNX has it; the only kind for other ranks
    blocked    (n, ceil(c / b), h, w, b)           b channels together, one vector wide
    last       (n, h, w, c)                        channels last

Each spatial axis may have a border of zeros around it (a convolution's padding, laid down by
whoever writes the tensor), so that kernels need no bounds checks. The elements of a float32 tensor
may be stored as bfloat16 or float16: half the bytes, rounded to eight or eleven bits; or as uint8
with a scale and a zero point, then `uint8*0.05-128` means 0.05 * (integer - 128). As `e4m3`, rows
of a plain tensor are floats of eight bits; behind all of them, a float32 for each row says what to
multiply it by.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

Kind = Literal["plain", "blocked", "last"]
# "float32", "bfloat16", "float16", or what `Quantization.element` writes.
Element = str
# Floats of eight bits with a scale per row.
ROWS_E4M3: Element = "e4m3"
# How a model computes between inputs and outputs. `tf32`: stored as float32, of which products read
# eleven bits. `float8`: stored as float16, of which products with weights read four bits.
Precision = Literal["float32", "tf32", "float16", "bfloat16", "float8"]
# Float type of inputs and outputs; `model`: as the file has it.
Io = Literal["model", "float32", "float16", "bfloat16"]
IO: tuple[Io, ...] = get_args(Io)
Border = tuple[int, int, int, int]

_TEXT = re.compile(
    r"(plain|last|blocked(?P<block>\d+))(:(?P<element>[^+@%]+))?(\+(?P<border>\d+,\d+,\d+,\d+))?"
    r"(@(?P<buffer>\d+):(?P<offset>\d+)/(?P<total>\d+))?(%(?P<pitch>\d+))?"
)


_QUANTIZED = re.compile(r"uint8\*(?P<scale>[\d.e-]+?)-(?P<zero_point>\d+)")


@dataclass(frozen=True)
class Quantization:
    """How integers stand for float32 numbers: scale * (integer - zero_point).

    Attributes:
        scale: float32, above zero.
        zero_point: in [0, 255].
    """

    scale: float
    zero_point: int

    @property
    def element(self) -> Element:
        """The element of tensors that are stored like this."""
        # Nine digits are all of a float32; a plus sign would begin a border.
        scale = f"{self.scale:.9g}".replace("e+", "e")
        return f"uint8*{scale}-{self.zero_point}"

    @staticmethod
    def of(element: Element) -> Quantization | None:
        """Read an element; None for one that is not quantized."""
        match = _QUANTIZED.fullmatch(element)
        return Quantization(float(match["scale"]), int(match["zero_point"])) if match else None


@dataclass(frozen=True)
class Slice:
    """A tensor's place in a larger buffer, which concatenation along channels makes of several.

    Attributes:
        buffer: which buffer of the function.
        offset: the first channel.
        total: channels of the whole buffer.
    """

    buffer: int
    offset: int
    total: int


@dataclass(frozen=True)
class Layout:
    """A memory layout.

    Attributes:
        kind: which order the axes have.
        block: channels per block; 0 unless `kind` is blocked.
        border: zeros around the spatial axes: top, left, bottom, right.
        slice: where in a larger buffer the channels lie, if they share one.
        element: how a float32 element is stored.
        pitch: elements from one image to the next; 0: the next begins where one ends.
    """

    kind: Kind = "plain"
    block: int = 0
    border: Border = (0, 0, 0, 0)
    slice: Slice | None = None
    element: Element = "float32"
    pitch: int = 0

    def __str__(self) -> str:
        text = f"{self.kind}{self.block or ''}"
        if self.element != "float32":
            text += f":{self.element}"
        if any(self.border):
            text += "+" + ",".join(map(str, self.border))
        if self.slice is not None:
            text += f"@{self.slice.buffer}:{self.slice.offset}/{self.slice.total}"
        if self.pitch:
            text += f"%{self.pitch}"
        return text

    @staticmethod
    def parse(text: str) -> Layout:
        """Read what `str()` wrote."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"`{text}` is not a layout")
        border = tuple(int(b) for b in (match["border"] or "0,0,0,0").split(","))
        kind: Any = "blocked" if match["block"] else match[1]
        place = (
            Slice(int(match["buffer"]), int(match["offset"]), int(match["total"]))
            if match["buffer"]
            else None
        )
        whole = (border[0], border[1], border[2], border[3])
        element: Any = match["element"] or "float32"
        block, pitch = int(match["block"] or 0), int(match["pitch"] or 0)
        return Layout(kind, block, whole, place, element, pitch)

    def with_border(self, border: Border) -> Layout:
        """This layout with another border."""
        return replace(self, border=border)

    def without_slice(self) -> Layout:
        """This layout in a buffer of its own."""
        return replace(self, slice=None)

    def with_element(self, element: Element) -> Layout:
        """This layout with elements stored otherwise."""
        return replace(self, element=element)

    def same_memory(self, other: Layout) -> bool:
        """Whether both lay the same elements out alike, however each of them is stored."""
        return self.with_element(other.element) == other

    @property
    def storage(self) -> str:
        """The dtype of the buffer: bfloat16 travels as its bits, which every operator can move."""
        if Quantization.of(self.element) or self.element == ROWS_E4M3:
            return "uint8"
        return "uint16" if self.element == "bfloat16" else self.element

    def stored_bytes(self, dims: Sequence[int]) -> int:
        """Bytes of a tensor's elements, without what lies between and around them."""
        width = {"uint8": 1, "uint16": 2, "float16": 2}.get(self.storage, 4)
        return math.prod(dims) * width

    def physical_shape(self, dims: Sequence[Any]) -> list[Any]:
        """The shape in memory of a logical (n, c, h, w), or of any shape when plain.

        Leading dimensions that are missing, of what is broadcast, are 1. For a slice it is the
        shape of the whole buffer.
        """
        if self.same_memory(PLAIN):
            # Behind the last row, four bytes for each of them.
            return [*dims[:-1], dims[-1] + 4] if self.element == ROWS_E4M3 else list(dims)
        n, c, h, w = [1] * (4 - len(dims)) + list(dims)
        if self.pitch:
            return [n, self.pitch]
        if self.slice is not None:
            c = self.slice.total
        top, left, bottom, right = self.border
        h, w = h + (top + bottom), w + (left + right)
        if self.kind == "blocked":
            return [n, -(-c // self.block), h, w, self.block]
        return [n, h, w, c] if self.kind == "last" else [n, c, h, w]


PLAIN = Layout()

# Attributes of a group: the kernel that computes it, how its parameters and its result are stored,
# and a layout for each of them.
KERNEL = "kernel"
ELEMENTS = "elements"
LAYOUTS = "layouts"
# Attribute of a loop nest that checks indices: the message where one is out of range.
CHECKS_INDICES = "relaxc.checks_indices"
# Attribute of a product whose kernel rounds its float data to int8 before it multiplies.
ROUNDS_ROWS = "rounds_rows"
# Attribute of a finished kernel: the key of the tuning task that it is.
TASK = "relaxc.task"
# Attribute of a finished kernel: the type of its multiplications, where buffers do not tell.
ARITHMETIC = "relaxc.arithmetic"
# Attribute of a finished kernel: bytes that it reads and writes, where its tensors have gaps.
TRAFFIC = "relaxc.traffic"
# Attribute of a finished kernel whose weights have many zeros: how many, and whether it uses them.
SPARSITY = "relaxc.sparsity"
# A copy into another layout.
RELAYOUT = "relayout"
# The kernel that joins tensors along channels.
CONCAT = "concat"
# Which axis a loop nest of the importer resizes: the data come first, then tables, of which the
# last are the positions, one row per element of the result; others are weights of the same shape.
RESIZED_AXIS = "relaxc.resized_axis"
# A transpose between (n, c, h, w) and (n, h, w, c): another name for the same memory.
VIEW = "view"
# Some images of a batch, from `FIRST_IMAGE` on; and a batch made of parts.
TAKE_IMAGES = "take_images"
JOIN_IMAGES = "join_images"
FIRST_IMAGE = "first_image"
# What the results of a part of a batch are called: `name.image0` for the first.
IMAGE = "image"
# Planes of a volume, stacked as channels of maps.
PLANES = "planes"
# Two products around a softmax.
ATTENTION = "attention"
# The same of rotary position embeddings.
ROTATE = "rotate"
# Operators that move elements without looking at them: their result is stored as the argument is.
MOVES = frozenset(
    f"relax.{name}"
    for name in ("expand_dims", "flatten", "permute_dims", "reshape", "squeeze", "strided_slice")
)


@dataclass(frozen=True)
class Demand:
    """What a group asks of one of its parameters.

    Attributes:
        accepts: kinds of layout that it can read; the first is preferred.
        border: zeros that it needs around the spatial axes.
        exact: whether it can read neither a wider border nor a slice.
    """

    accepts: tuple[Kind, ...]
    border: Border = (0, 0, 0, 0)
    exact: bool = False

    def met_by(self, layout: Layout) -> bool:
        """Whether a tensor of this layout can be read as it is."""
        if self.exact and (layout.border != self.border or layout.slice is not None):
            return False
        wide = all(have >= need for have, need in zip(layout.border, self.border))
        return layout.kind in self.accepts and wide
