"""Operators of the domain `com.microsoft`, which ONNX Runtime's tools write, by family."""

from __future__ import annotations

from relaxc.frontend.operators.base import Converter
from relaxc.frontend.operators.microsoft import (
    activations,
    attention,
    cached_attention,
    normalization,
    products,
    quantized,
    rotary,
)

DOMAIN = "com.microsoft"

CONVERTERS: dict[str, Converter] = {
    f"{DOMAIN}::{name}": converter
    for family in (
        activations,
        attention,
        cached_attention,
        normalization,
        products,
        quantized,
        rotary,
    )
    for name, converter in family.CONVERTERS.items()
}
