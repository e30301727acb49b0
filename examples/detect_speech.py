"""Voice activity in a stream of sound: a recurrent network whose state is kept from call to call.

    relaxc compile silero_vad_16k_op15.onnx -o build/vad.rxc \\
        --input-shapes "input:[1,576],state:[2,1,128]"
    python examples/detect_speech.py build/vad.rxc SPEECH.wav

Takes 16 kHz mono WAV files, 32 ms at a time, as a microphone would give them.
"""

from __future__ import annotations

import sys
import time
import wave
from collections.abc import Iterator

import numpy as np

import relaxc

RATE, STEP, CONTEXT = 16000, 512, 64


def sound(path: str) -> np.ndarray:
    """Samples from -1 to 1."""
    with wave.open(path) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (RATE, 1, 2):
            raise SystemExit(f"{path} must be {RATE} Hz, mono, 16 bits")
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    return samples.astype(np.float32) / 32768


def probabilities(model: relaxc.Model, samples: np.ndarray) -> Iterator[float]:
    """How likely each step holds speech."""
    state = np.zeros((2, 1, 128), np.float32)
    context = np.zeros(CONTEXT, np.float32)
    rate = np.array(RATE, np.int64)
    for start in range(0, len(samples) - STEP + 1, STEP):
        window = np.concatenate([context, samples[start : start + STEP]])
        probability, state = model(window[None], state, rate)
        context = window[-CONTEXT:]
        yield float(probability[0, 0])


def main(artifact: str, path: str) -> None:
    """Print when speech begins and ends, and how long a step takes."""
    model, samples = relaxc.load(artifact, threads=1), sound(path)
    speaks, begun = False, time.perf_counter()
    steps = 0
    for steps, probability in enumerate(probabilities(model, samples), 1):
        if (probability > 0.5) != speaks:
            speaks = not speaks
            print(f"{(steps - 1) * STEP / RATE:7.2f} s: {'speech' if speaks else 'silence'}")
    took = (time.perf_counter() - begun) / max(1, steps)
    print(f"{took * 1e6:.0f} us per step of {STEP / RATE * 1e3:.0f} ms")


if __name__ == "__main__":
    main(*sys.argv[1:])
