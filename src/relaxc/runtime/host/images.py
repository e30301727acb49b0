"""Encoded images."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from relaxc.errors import TargetError
from relaxc.runtime.host.base import Attributes, Function, Inputs


def decode(inputs: Inputs, attrs: Attributes) -> list[Any]:
    """ImageDecoder, by Pillow: [height, width, channels] of bytes.

    Raises:
        TargetError: Pillow is not installed.
        ValueError: the bytes are no image that Pillow reads.
    """
    try:
        from PIL import Image
    except ImportError as err:
        raise TargetError(
            'decoding images needs Pillow; run `pip install "relaxc[images]"`'
        ) from err
    try:
        image = Image.open(io.BytesIO(inputs[0].tobytes()))
        pixels = np.asarray(image.convert("RGB"))
        if attrs.get("pixel_format", "RGB") == "Grayscale":
            return [np.asarray(image.convert("L"))[:, :, None].copy()]
    except (OSError, SyntaxError) as err:
        raise ValueError(f"the image cannot be decoded: {err}") from err
    return [pixels[:, :, ::-1].copy() if attrs.get("pixel_format") == "BGR" else pixels.copy()]


FUNCTIONS: dict[str, Function] = {"ImageDecoder": decode}
