"""From a trained ONNX model to a checked and measured artifact: what `make demo` shows.

The model is a convolutional network for handwritten digits, bundled under examples/models. Each
step is a command that you can run yourself.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np

import relaxc

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "examples" / "digit.txt"
MODEL = "examples/models/mnist_cnn/mnist.onnx"
ARTIFACT = "build/mnist.rxc"


def heading(text: str) -> None:
    """Begin a step."""
    print(f"\n\033[1m{text}\033[0m\n" if sys.stdout.isatty() else f"\n{text}\n")


def command(*words: str) -> None:
    """Show a command, and run it."""
    print(f"$ relaxc {shlex.join(words)}\n", flush=True)
    subprocess.run([sys.executable, "-m", "relaxc", *words], cwd=ROOT, check=True)


def read_digit() -> np.ndarray:
    """The picture in digit.txt, in the form that the model takes: [1, 1, 28, 28], 0 to 255."""
    rows = PICTURE.read_text().split()
    pixels = [[255.0 * (mark == "#") for mark in row] for row in rows]
    return np.array(pixels, np.float32).reshape(1, 1, 28, 28)


def main() -> None:
    """Compile, check, measure, use."""
    (ROOT / ARTIFACT).parent.mkdir(exist_ok=True)
    heading("1. Compile a trained model for this CPU")
    command("compile", MODEL, "-o", ARTIFACT)
    heading("2. Compare it with ONNX Runtime")
    command("check", ARTIFACT, "--model", MODEL)
    heading("3. Measure it")
    command("bench", ARTIFACT, "--duration", "1")
    heading("4. Use it from Python; this needs neither TVM nor ONNX")
    print(f'>>> model = relaxc.load("{ARTIFACT}")\n>>> model(picture).argmax()\n')
    print("\n".join(PICTURE.read_text().split()[4:24]))
    model = relaxc.load(ROOT / ARTIFACT)
    print(f"\nThe model sees a {model(read_digit()).argmax()}.")


if __name__ == "__main__":
    main()
