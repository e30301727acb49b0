"""Detection: a photo in, boxes out; decoding and non-maximum suppression are in the artifact.

pip install pillow
relaxc compile yolox_nano.onnx -o build/detect.rxc --postprocess nms=0.45,score=0.4,boxes=yolox
python examples/detect_objects.py build/detect.rxc PHOTO.jpg
"""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image

import relaxc

GREY = 114


def letterboxed(path: str, side: int) -> tuple[np.ndarray, float]:
    """A photo in the upper left corner of a grey square, blue first, and how it was scaled."""
    image = Image.open(path).convert("RGB")
    scale = min(side / image.width, side / image.height)
    size = int(image.width * scale), int(image.height * scale)
    square = np.full((side, side, 3), GREY, np.float32)
    square[: size[1], : size[0]] = np.asarray(image.resize(size))[..., ::-1]
    return square.transpose(2, 0, 1)[None].copy(), scale


def main(artifact: str, path: str) -> None:
    """Print class, score and corners of every object, in pixels of the photo."""
    model = relaxc.load(artifact)
    side = model.inputs[0].shape[-1]
    assert isinstance(side, int)
    pixels, scale = letterboxed(path, side)
    boxes, scores, classes, count = model(pixels)
    for number in range(count[0]):
        left, top, right, bottom = (boxes[0, number] / scale).round().astype(int)
        kind, score = classes[0, number], scores[0, number]
        print(f"class {kind:2}  {score:.2f}  {left},{top} to {right},{bottom}")


if __name__ == "__main__":
    main(*sys.argv[1:])
