"""int8 models as the peers make them: ONNX Runtime's static quantizer, NNCF for OpenVINO.

Calibrated on noise: ranges do not change how long a model takes. Files are kept and reused.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from engines import Feed, make_feed
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

SAMPLES = 4


def samples(model: Path) -> list[Feed]:
    """Noise of several amplitudes; token ids as they are."""
    feed = make_feed(model)
    return [
        {k: v * (0.5 + 0.25 * i) if v.dtype == np.float32 else v for k, v in feed.items()}
        for i in range(SAMPLES)
    ]


def onnxruntime_int8(model: Path, folder: Path) -> Path:
    """`quantize_static` into QDQ: uint8 activations, int8 weights with a scale per channel."""
    path = folder / f"{model.stem}.qdq.onnx"
    if not path.exists():
        prepared = folder / f"{model.stem}.prepared.onnx"
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(path),
            _Reader(model),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        prepared.unlink()
    return path


def openvino_int8(model: Path, folder: Path) -> Path:
    """`nncf.quantize` with its defaults; transformers as such, which is what its manual says."""
    path = folder / f"{model.stem}.nncf.xml"
    if not path.exists():
        import nncf
        import openvino

        nncf.set_log_level(logging.ERROR)
        data = nncf.Dataset(samples(model))
        kind = nncf.ModelType.TRANSFORMER if is_transformer(model) else None
        whole = openvino.Core().read_model(str(model))
        openvino.save_model(nncf.quantize(whole, data, model_type=kind), str(path))
    return path


def is_transformer(model: Path) -> bool:
    """Whether a model of the collection is one."""
    return model.stem.startswith(("minilm", "bert", "vit", "swin"))


class _Reader(quantization.CalibrationDataReader):
    def __init__(self, model: Path) -> None:
        self.feeds: Iterator[Feed] = iter(samples(model))

    def get_next(self) -> Feed | None:
        return next(self.feeds, None)
