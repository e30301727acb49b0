"""YOLOX's boxes, and which of them a quantized model finds again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

_SIZE = 416
_STRIDES = (8, 16, 32)
# Boxes of float32 that count, and how well they must be met.
SCORE, OVERLAP = 0.5, 0.9


def letterboxed(file: Path) -> np.ndarray:
    """A photo in the upper left corner of a grey square, blue first, from 0 to 255."""
    image = Image.open(file).convert("RGB")
    ratio = min(_SIZE / image.width, _SIZE / image.height)
    width, height = int(image.width * ratio), int(image.height * ratio)
    square = np.full((_SIZE, _SIZE, 3), 114, np.float32)
    pixels = image.resize((width, height), Image.Resampling.BILINEAR)
    square[:height, :width] = np.asarray(pixels, np.float32)[..., ::-1]
    return np.ascontiguousarray(square.transpose(2, 0, 1)[None])


def found(output: np.ndarray, threshold: float) -> list[tuple[int, float, np.ndarray]]:
    """Class, score and corners of every box that no better one covers."""
    rows = output[0].astype(np.float64)
    cells, sizes = [], []
    for stride in _STRIDES:
        count = _SIZE // stride
        y, x = np.mgrid[:count, :count]
        cells.append(np.stack([x, y], -1).reshape(-1, 2))
        sizes.append(np.full((count * count, 1), stride))
    size = np.concatenate(sizes)
    center = (rows[:, :2] + np.concatenate(cells)) * size
    half = np.exp(rows[:, 2:4]) * size / 2
    scores = rows[:, 4:5] * rows[:, 5:]
    corners = np.concatenate([center - half, center + half], 1)
    result: list[tuple[int, float, np.ndarray]] = []
    for index in np.argsort(-scores.max(1)):
        kind, score = int(scores[index].argmax()), float(scores[index].max())
        if score <= threshold:
            break
        box = corners[index]
        if all(k != kind or overlap(box, other) < 0.45 for k, _, other in result):
            result.append((kind, score, box))
    return result


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = float(np.prod(np.maximum(high - low, 0)))
    return shared / float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)


def share_kept(outputs: list[np.ndarray], base: list[np.ndarray]) -> float:
    """Per cent of float32's boxes that have a like one among those of the outputs."""
    kept = total = 0
    for ours, theirs in zip(outputs, base):
        candidates = found(ours, SCORE / 2)
        for kind, _score, box in found(theirs, SCORE):
            total += 1
            kept += any(k == kind and overlap(box, b) >= OVERLAP for k, _, b in candidates)
    return 100 * kept / total
