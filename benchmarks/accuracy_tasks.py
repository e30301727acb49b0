"""Real models, real data, and what quantization may cost: the tasks of `quantize_accuracy.py`.

Samples for calibration carry no labels and are disjoint from what is tested.
"""

from __future__ import annotations

import base64
import functools
import gzip
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import detections
import numpy as np
import stories
from PIL import Image

from relaxc.options import Scheme

Feed = dict[str, np.ndarray]
# Runs a model: the outputs in the graph's order.
Run = Callable[[Feed], list[np.ndarray]]


@dataclass(frozen=True)
class Task:
    """A model and how to judge it.

    Attributes:
        name: of the model.
        path: its file.
        calibration: samples for calibration.
        tests: samples for the test.
        measure: what is measured, for the table.
        score: from the outputs of all tests, and those of float32, to a number.
        bar: the greatest loss that is allowed, by scheme; infinite where none was named.
        sign: 1 where more is better, else -1.
        is_relative: whether the loss is in per cent of float32's score.
    """

    name: str
    path: Path
    calibration: list[Feed]
    tests: list[Feed]
    measure: str
    score: Callable[[list[np.ndarray], list[np.ndarray]], float]
    bar: dict[Scheme, float]
    sign: int = 1
    is_relative: bool = False

    def predict(self, run: Run) -> list[np.ndarray]:
        """The first output of every test."""
        return [run(feed)[0] for feed in self.tests]

    def loss(self, score: float, base: float) -> float:
        """By how much a score is worse than float32's."""
        worse = self.sign * (base - score)
        return 100 * worse / abs(base) if self.is_relative else worse


def tasks(folder: Path) -> Iterator[Callable[[], Task]]:
    """All tasks whose files are there, each read when called."""
    yield lambda: cifar(folder, "resnet20", "resnet_cifar/resnet20_cifar10.onnx", 0.2)
    yield lambda: cifar(folder, "resnet56", "resnet_cifar/resnet56_cifar10.onnx", 0.2)
    yield lambda: cifar(folder, "mlperf_resnet8", "mlperf_tiny/pretrainedResnet.onnx", 0.3)
    for make in (imagenet, sentences, file_types, boxes, language):
        yield functools.partial(make, folder)


def cifar(folder: Path, name: str, file: str, bar: float) -> Task:
    """CIFAR-10: 256 images calibrate, the others are tested."""
    held = np.load(folder / "data/cifar10_test.npz")
    order = np.random.default_rng(0).permutation(len(held["y"]))
    images, labels = held["x"][order].transpose(0, 3, 1, 2).astype(np.float32), held["y"][order]
    if not name.startswith("mlperf"):
        mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
        images = (images / 255 - mean.reshape(3, 1, 1)) / std.reshape(3, 1, 1)
    return Task(
        name,
        folder / file,
        [{"input": image[None]} for image in images[:256]],
        [{"input": images[i : i + 100]} for i in range(256, len(images), 100)],
        "top-1",
        lambda outputs, _: top1(outputs, labels[256:]),
        {"int8": bar},
    )


def imagenet(folder: Path) -> Task:
    """One photo per class: every eighth calibrates, the others are tested."""
    known = json.loads((folder / "data/imagenet_labels.json").read_text())
    files = sorted(f for f in (folder / "data/imagenet1000").glob("*.JPEG") if f.name in known)
    images = [center_crop(file, 128) / 127.5 - 1 for file in files]
    # 1001 classes; the first is the background.
    labels = np.array([known[file.name] + 1 for file in files])
    is_test = np.arange(len(files)) % 8 > 0
    feeds = [{"input": image[None].astype(np.float32)} for image in images]
    return Task(
        "mobilenet_v1_025",
        folder / "mobilenet_v1_025/mobilenet_v1_025.onnx",
        [feed for feed, test in zip(feeds, is_test) if not test],
        [feed for feed, test in zip(feeds, is_test) if test],
        "top-1",
        lambda outputs, _: top1([o.reshape(1, -1) for o in outputs], labels[is_test]),
        {"int8": 0.5},
    )


def sentences(folder: Path) -> Task:
    """STS-B: the order of cosines between pairs; the last 128 pairs calibrate."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "minilm_l6/tokenizer.json"))
    tokenizer.enable_truncation(128)
    tokenizer.enable_padding()
    lines = (folder / "data/stsb/sts-dev.csv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    tested, held = rows[:-128], rows[-128:]

    def feeds(texts: list[str]) -> list[Feed]:
        result = []
        for i in range(0, len(texts), 16):
            encoded = tokenizer.encode_batch(texts[i : i + 16])
            names = {"input_ids": "ids", "attention_mask": "attention_mask"}
            names["token_type_ids"] = "type_ids"
            result.append(
                {n: np.array([getattr(e, a) for e in encoded], np.int64) for n, a in names.items()}
            )
        return result

    truth = np.array([float(row[4]) for row in tested])

    def spearman(outputs: list[np.ndarray], _base: list[np.ndarray]) -> float:
        whole = np.concatenate(outputs)
        cosines = (whole[: len(tested)] * whole[len(tested) :]).sum(1)
        return float(np.corrcoef(ranks(cosines), ranks(truth))[0, 1])

    return Task(
        "MiniLM-L6",
        folder / "minilm_l6/minilm_l6.onnx",
        feeds([row[5] for row in held] + [row[6] for row in held]),
        feeds([row[5] for row in tested] + [row[6] for row in tested]),
        "Spearman",
        spearman,
        {"int8": 0.002, "int8-dynamic": 0.002, "fp8-weights": math.inf},
    )


def file_types(folder: Path) -> Task:
    """Magika: sample files calibrate, the published examples are tested against float32."""
    config = json.loads((folder / "magika/config.min.json").read_text())
    tests = folder / "data/magika_tests/tests_data"

    def feed(content: bytes) -> Feed:
        size, pad = config["block_size"], config["padding_token"]
        head = list(content[:size].lstrip()[: config["beg_size"]])
        tail = list(content[-size:].rstrip()[-config["end_size"] :])
        head += [pad] * (config["beg_size"] - len(head))
        tail = [pad] * (config["end_size"] - len(tail)) + tail
        return {"bytes": np.array([head + tail], np.int32)}

    files = [f for f in sorted((tests / "basic").glob("*/*")) if f.stat().st_size >= 8]
    text = gzip.decompress(
        (tests / "reference/standard_v3_3-inference_examples_by_content.json.gz").read_bytes()
    )
    examples = [
        e
        for e in json.loads(text)
        if (e.get("prediction") or {}).get("dl", "undefined") != "undefined"
    ]
    known = [config["target_labels_space"].index(e["prediction"]["dl"]) for e in examples]
    return Task(
        "magika",
        folder / "magika/model.onnx",
        [feed(file.read_bytes()) for file in files],
        [feed(base64.b64decode(e["content_base64"])) for e in examples],
        f"of {len(examples)} decisions",
        lambda outputs, _: top1(outputs, np.array(known)) * len(known) / 100,
        {"int8": 0},
    )


def boxes(folder: Path) -> Task:
    """YOLOX: whether float32's boxes are found again; photos calibrate, others are tested."""
    photos = sorted((folder / "photos").glob("*.jpg"))
    others = sorted((folder / "data/imagenet1000").glob("*.JPEG"))
    feeds = [{"images": detections.letterboxed(file)} for file in [*photos, *others[3:100:5]]]
    return Task(
        "yolox_nano",
        folder / "yolox_nano/yolox_nano.onnx",
        [{"images": detections.letterboxed(file)} for file in others[::8]],
        feeds,
        "% of boxes",
        detections.share_kept,
        {"int8": 0},
    )


def language(folder: Path) -> Task:
    """A story teller: perplexity on a text and on stories of its own."""
    path = folder / "stories260k/stories260k.onnx"
    texts = [stories.encoded(folder / "stories260k/tok512.bin"), *stories.told(path, range(8))]
    return Task(
        "stories260k",
        path,
        [stories.feed(ids) for ids in stories.told(path, range(100, 132))],
        [stories.feed(ids) for ids in texts],
        "perplexity",
        lambda outputs, _: stories.perplexity(outputs, texts),
        {"int8-weights": 0.5, "fp8-weights": math.inf, "int4-weights": 3.0},
        sign=-1,
        is_relative=True,
    )


def top1(outputs: list[np.ndarray], labels: np.ndarray) -> float:
    """Per cent of right classes."""
    return 100 * float((np.concatenate(outputs).argmax(1) == labels).mean())


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks; equal values share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    mean: np.ndarray = np.cumsum(count) - (count - 1) / 2
    return mean[place]


def center_crop(file: Path, size: int) -> np.ndarray:
    """The middle of a photo whose shorter side is scaled to 8/7 of the size."""
    image = Image.open(file).convert("RGB")
    ratio = size / 0.875 / min(image.size)
    width, height = (max(size, round(side * ratio)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    array: np.ndarray = np.asarray(image.crop((left, top, left + size, top + size)), np.float32)
    return array.transpose(2, 0, 1)


def sqnr(outputs: list[np.ndarray], base: list[np.ndarray]) -> float:
    """How far outputs are from float32's, in dB."""
    noise = sum(float(((a - b) ** 2).sum(dtype=np.float64)) for a, b in zip(outputs, base))
    signal = sum(float((b**2).sum(dtype=np.float64)) for b in base)
    return 10 * float(np.log10(signal / max(noise, 1e-30)))
