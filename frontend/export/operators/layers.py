"""Convolutions, products, pooling, normalization, and integers that stand for real numbers."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from relaxc.frontend.export.operators.reductions import reduced
from relaxc.frontend.export.site import CannotExport, Site, Translator, dtype_of, numbers

_INT32 = np.iinfo(np.int32)


def _geometry(site: Site) -> dict[str, Any]:
    attrs = site.attrs
    layouts = {str(attrs.data_layout), str(attrs.kernel_layout)}
    if not layouts <= {"NCW", "NCHW", "NCDHW", "OIW", "OIHW", "OIDHW", "IOW", "IOHW", "IODHW"}:
        raise CannotExport(f"its layouts are {', '.join(sorted(layouts))}")
    return {
        "strides": numbers(attrs.strides),
        "pads": numbers(attrs.padding),
        "dilations": numbers(attrs.dilation),
        "group": int(attrs.groups),
    }


def convolution(site: Site, bias: GenericConst | None = None) -> list[str]:
    """A convolution, with the bias that is added next if there is one."""
    inputs = [site.input(0), site.input(1, "weight")]
    if bias is not None:
        array = np.asarray(bias.value.numpy()).reshape(-1)
        inputs.append(_integer_bias(site, array) or site.graph.constant(array, f"{site.name}.bias"))
    return [site.emit("Conv", *inputs, **_geometry(site))]


def _integer_bias(site: Site, bias: np.ndarray) -> str | None:
    """The bias as int32 where both operands are dequantized: in units of an accumulator."""
    scales = []
    for arg in site.call.args:
        call = site.producers.get(arg)
        if not isinstance(call, relax.Call) or str(getattr(call.op, "name", "")) != (
            "relax.dequantize"
        ):
            return None
        scale = call.args[1]
        if not isinstance(scale, GenericConst):
            return None
        scales.append(np.asarray(scale.value.numpy(), np.float64).reshape(-1))
    if len(scales[0]) != 1:
        return None
    unit = np.broadcast_to(scales[0] * scales[1], bias.shape)
    rounded = np.rint(bias / unit)
    if np.abs(rounded).max(initial=0) > _INT32.max:
        return None
    named = {
        "bias": rounded.astype(np.int32),
        "bias_scale": unit.astype(np.float32),
        "bias_zero_point": np.zeros(bias.shape, np.int32),
    }
    inputs = [site.graph.constant(a, f"{site.name}.{role}") for role, a in named.items()]
    return site.graph.node("DequantizeLinear", inputs, f"{site.name}.dequantized_bias", axis=0)[0]


def _transposed(site: Site) -> list[str]:
    return [
        site.emit(
            "ConvTranspose",
            site.input(0),
            site.input(1, "weight"),
            output_padding=numbers(site.attrs.output_padding),
            **_geometry(site),
        )
    ]


def _matmul(site: Site) -> list[str]:
    return [site.emit("MatMul", site.input(0), site.input(1, "weight"))]


def _pool(op_type: str) -> Translator:
    def translate(site: Site) -> list[str]:
        attrs = site.attrs
        if str(attrs.layout) not in ("NCW", "NCHW", "NCDHW"):
            raise CannotExport(f"its layout is {attrs.layout}")
        more: dict[str, Any] = {"dilations": numbers(attrs.dilation)}
        if op_type == "AveragePool":
            # Dilated ones came with opset 19 only.
            if any(step != 1 for step in more.pop("dilations")):
                raise CannotExport("it is dilated")
            more["count_include_pad"] = int(attrs.count_include_pad)
        return [
            site.emit(
                op_type,
                site.input(0),
                kernel_shape=numbers(attrs.pool_size),
                strides=numbers(attrs.strides),
                pads=numbers(attrs.padding),
                ceil_mode=int(attrs.ceil_mode),
                **more,
            )
        ]

    return translate


def _global_average(site: Site) -> list[str]:
    if any(size != 1 for size in numbers(site.attrs.output_size or [0])):
        raise CannotExport("it pools to more than one pixel")
    return [site.emit("GlobalAveragePool", site.input(0))]


def _softmax(op_type: str) -> Translator:
    return lambda site: [site.emit(op_type, site.input(0), axis=int(site.attrs.axis))]


def _layer_norm(site: Site) -> list[str]:
    attrs, ndim = site.attrs, site.call.args[0].ty.ndim
    axes = sorted(axis % ndim for axis in numbers(attrs.axes))
    if axes != list(range(axes[0], ndim)):
        raise CannotExport("it normalizes other axes than the last ones")
    weights = [site.input(i, role) for i, role in ((1, "scale"), (2, "bias"))]
    epsilon = float(attrs.epsilon)
    inputs = [site.input(0), *weights]
    return [site.emit("LayerNormalization", *inputs, axis=axes[0] - ndim, epsilon=epsilon)]


def _rms_norm(site: Site) -> list[str]:
    x = site.input(0)
    mean = reduced(site, "ReduceMean", site.emit("Mul", x, x), numbers(site.attrs.axes), 1)
    epsilon = site.scalar(float(site.attrs.epsilon), dtype_of(site.call), "epsilon")
    root = site.emit("Sqrt", site.emit("Add", mean, epsilon))
    return [site.emit("Mul", site.emit("Div", x, root), site.input(1, "scale"))]


def _linear(op_type: str) -> Translator:
    """`QuantizeLinear` and its inverse: the same three operands."""

    def translate(site: Site) -> list[str]:
        inputs = _nibbles(site) or [site.input(0, "weight")]
        # Floats have no zero point but zero, of their own type.
        if len(inputs) == 1 and not str(dtype_of(site.call.args[0])).startswith("float8"):
            inputs.append(site.input(2, "zero_point"))
        inputs.insert(1, site.input(1, "scale"))
        axis = int(site.attrs.axis)
        is_per_tensor = site.call.args[1].ty.ndim == 0
        return [site.emit(op_type, *inputs, **({} if is_per_tensor else {"axis": axis}))]

    return translate


def _nibbles(site: Site) -> list[str] | None:
    """Constant integers and their zero points, if they have four bits and ONNX can say so."""
    integers, _, zero = site.call.args
    if site.graph.opset < site.graph.FOUR_BITS or not isinstance(integers, GenericConst):
        return None
    arrays = [np.asarray(constant.value.numpy()) for constant in (integers, zero)]
    signed = arrays[0].dtype == np.int8
    low, high = (-8, 7) if signed else (0, 15)
    if arrays[0].dtype.itemsize > 1 or not all(((a >= low) & (a <= high)).all() for a in arrays):
        return None
    kind = ml_dtypes.int4 if signed else ml_dtypes.uint4
    return [
        site.graph.constant(array.astype(kind), f"{site.name}.{role}")
        for array, role in zip(arrays, ("weight", "zero_point"), strict=True)
    ]


TRANSLATORS: dict[str, Translator] = {
    **{f"nn.conv{n}d": convolution for n in (1, 2, 3)},
    **{f"nn.conv{n}d_transpose": _transposed for n in (1, 2, 3)},
    **{f"nn.max_pool{n}d": _pool("MaxPool") for n in (1, 2, 3)},
    **{f"nn.avg_pool{n}d": _pool("AveragePool") for n in (1, 2, 3)},
    **{f"nn.adaptive_avg_pool{n}d": _global_average for n in (1, 2, 3)},
    "matmul": _matmul,
    "nn.softmax": _softmax("Softmax"),
    "nn.log_softmax": _softmax("LogSoftmax"),
    "nn.layer_norm": _layer_norm,
    "nn.rms_norm": _rms_norm,
    "quantize": _linear("QuantizeLinear"),
    "dequantize": _linear("DequantizeLinear"),
}
