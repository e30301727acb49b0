"""int8 models as the peers make them: ONNX Runtime's static quantizer, NNCF for OpenVINO.

For speed they are calibrated on noise, because ranges do not change how long a model takes, and
files are kept and reused.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from engines import Feed, make_feed
from onnx import version_converter
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from relaxc.options import Scheme

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
        _quantize_static(prepared, path, samples(model))
        prepared.unlink()
    return path


def onnxruntime_as(scheme: Scheme, model: Path, feeds: list[Feed], folder: Path) -> Path:
    """A model quantized like one of ours, calibrated on samples of real inputs."""
    prepared, path = folder / "prepared.onnx", folder / "quantized.onnx"
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    held = onnx.load(str(prepared))
    if held.opset_import[0].version < 13:  # scales per channel came with 13
        onnx.save(version_converter.convert_version(held, 13), str(prepared))
    if scheme == "int8":
        try:
            _quantize_static(prepared, path, feeds)
        except ValueError:  # it stumbles over biases of products with a scale per channel
            _quantize_static(prepared, path, feeds, per_channel=False)
    elif scheme == "int8-dynamic":
        quantization.quantize_dynamic(str(prepared), str(path), per_channel=True)
    else:
        # It needs onnx_ir, which not every installation has.
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantizer = MatMulNBitsQuantizer(
            str(model), bits=4 if scheme == "int4-weights" else 8, block_size=32, is_symmetric=True
        )
        quantizer.process()
        quantizer.model.save_model_to_file(str(path))
    return path


def _quantize_static(model: Path, path: Path, feeds: list[Feed], per_channel: bool = True) -> None:
    quantization.quantize_static(
        str(model),
        str(path),
        _Reader(feeds),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=per_channel,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )


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
    def __init__(self, feeds: list[Feed]) -> None:
        self.feeds: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self.feeds, None)
