"""How the operands of products lie in memory, by precision."""

from __future__ import annotations

from relaxc.layout import Element, Precision

MODES: tuple[Precision, ...] = ("float16", "bfloat16", "tf32", "float32")


def element_of(mode: Precision) -> Element:
    """How operands lie in memory."""
    return mode if mode in ("float16", "bfloat16") else "float32"  # type: ignore[return-value]


def element_bytes(mode: Precision) -> int:
    """Bytes of an operand's element."""
    return 2 if mode in ("float16", "bfloat16") else 4
