"""Image classification at the edge: an int8 network that takes camera images as they come.

    python examples/classify_image.py build/edge.rxc [PHOTO.jpg]

Without a photo, it looks at noise. Compile the network once, with ranges from images like yours:

    relaxc compile examples/models/mobilenet_v1_025/mobilenet_v1_025.onnx -o build/edge.rxc \\
        --preprocess "input:scale=1/127.5,mean=1" --postprocess topk=3
"""

from __future__ import annotations

import sys
import time

import numpy as np

import relaxc

SIDE = 128


def photo(path: str) -> np.ndarray:
    """The middle of a photo, [1, 128, 128, 3] bytes; what follows is a part of the artifact."""
    from PIL import Image

    image = Image.open(path).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    middle = image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE))
    return np.asarray(middle)[None]


def main(artifact: str, path: str | None = None) -> None:
    """Print the three best classes, and how long it takes."""
    model = relaxc.load(artifact)
    noise = np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)
    pixels = noise if path is None else photo(path)
    values, classes = model(pixels)
    for probability, number in zip(values[0], classes[0]):
        print(f"class {number}: {probability:.1%}")
    start = time.perf_counter()
    for _ in range(100):
        model(pixels)
    print(f"{(time.perf_counter() - start) * 10:.3f} ms per image on {model.threads} threads")


if __name__ == "__main__":
    main(*sys.argv[1:])
