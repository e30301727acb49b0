"""How tensors lie in memory: the operands of products, and types in C++."""

from __future__ import annotations

from typing import Literal

import numpy as np

from relaxc.layout import ROWS_E4M3, Element, Precision, Quantization

# `int8`: bytes times int8, both exact.
Mode = Precision | Literal["int8"]
MODES: tuple[Mode, ...] = ("float16", "bfloat16", "tf32", "float32", "int8", "float8")
_TYPES: dict[str, str] = {
    "float32": "float",
    "float16": "__half",
    "bfloat16": "__nv_bfloat16",
    "int8": "signed char",
    ROWS_E4M3: "Float8",
}


def element_of(mode: Mode) -> Element:
    """How operands lie in memory; of `int8`, the weights."""
    if mode == "float8":
        return ROWS_E4M3
    return mode if mode in ("float16", "bfloat16", "int8") else "float32"


def element_bytes(mode: Mode) -> int:
    """Bytes of an operand's element."""
    return {"float16": 2, "bfloat16": 2, "int8": 1, "float8": 1}.get(mode, 4)


def type_of(element: Element) -> str:
    """The type of an element in C++."""
    stored = Quantization.of(element)
    if stored is None:
        return _TYPES[element]
    return f"Bytes_{np.float32(stored.scale).view(np.uint32):08x}_{stored.zero_point}"


def declaration(element: Element) -> str:
    """What C++ must know of an element's type: of bytes, which numbers they stand for."""
    stored = Quantization.of(element)
    if stored is None:
        return ""
    scale, inverse = np.float32(stored.scale), np.float32(1.0) / np.float32(stored.scale)
    return (
        f"struct {type_of(element)} {{ unsigned char bits; static constexpr float "
        f"SCALE = {float(scale)!r}f, INVERSE = {float(inverse)!r}f, "
        f"ZERO = {stored.zero_point}.0f; }};"
    )


def element_width(element: Element) -> int:
    """Bytes of an element."""
    if Quantization.of(element):
        return 1
    return {"float16": 2, "bfloat16": 2, "int8": 1, ROWS_E4M3: 1}.get(element, 4)
