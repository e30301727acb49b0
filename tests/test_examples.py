"""The examples do what their first lines say.

Those that need models and data that are not bundled look for them in the folder RELAXC_MODELS.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"


def models() -> Path:
    folder = os.environ.get("RELAXC_MODELS")
    if not folder:
        pytest.skip("RELAXC_MODELS names no folder of models")
    return Path(folder)


def run(*words: object) -> str:
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def compiled(artifact: Path, model: Path, *words: str) -> Path:
    run("-m", "relaxc", "compile", model, "-o", artifact, *words)
    return artifact


@pytest.mark.long
def test_images_at_the_edge(tmp_path: Path) -> None:
    model = EXAMPLES / "models" / "mobilenet_v1_025" / "mobilenet_v1_025.onnx"
    words = ("--preprocess", "input:scale=1/127.5,mean=1", "--postprocess", "topk=3")
    said = run(EXAMPLES / "classify_image.py", compiled(tmp_path / "m.rxc", model, *words))
    assert said.count("class ") == 3
    assert "ms per image" in said


@pytest.mark.long
def test_a_stream_of_speech(tmp_path: Path) -> None:
    folder = models() / "silero_vad"
    words = ("--input-shapes", "input:[1,576],state:[2,1,128]")
    artifact = compiled(tmp_path / "m.rxc", folder / "silero_vad_16k_op15.onnx", *words)
    said = run(EXAMPLES / "detect_speech.py", artifact, folder / "test.wav")
    assert "s: speech" in said
    assert "us per step" in said


@pytest.mark.long
def test_texts(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    folder = models() / "minilm_l6"
    if not (folder / "minilm_l6.onnx").is_file():
        pytest.skip("there is no minilm_l6.onnx")
    artifact = compiled(tmp_path / "m.rxc", folder / "minilm_l6.onnx")
    texts = ("a cat sleeps", "a kitten naps", "the stock market fell")
    said = run(EXAMPLES / "embed_text.py", artifact, folder / "tokenizer.json", *texts)
    near, far = (float(line.split()[0]) for line in said.splitlines())
    assert near > far + 0.3


@pytest.mark.long
def test_objects(tmp_path: Path) -> None:
    folder = models()
    words = ("--postprocess", "nms=0.45,score=0.4,boxes=yolox")
    artifact = compiled(tmp_path / "m.rxc", folder / "yolox_nano" / "yolox_nano.onnx", *words)
    said = run(EXAMPLES / "detect_objects.py", artifact, folder / "photos" / "dog.jpg")
    assert sorted(line.split()[1] for line in said.splitlines()) == ["1", "16", "2"]
