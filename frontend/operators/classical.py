"""ai.onnx.ml: encoders, scalers and linear models."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import numpy_helper
from tvm import relax, te, tirx

from relaxc.frontend.operators.base import Converter, NodeContext, constant, dims, dtype
from relaxc.frontend.operators.trees import transformed


def array_feature_extractor(ctx: NodeContext) -> relax.Expr:
    """ArrayFeatureExtractor: columns picked from the last axis."""
    x, index = ctx.input(0), ctx.input(1)
    shape = dims(x)
    if len(shape) == 1:
        x = ctx.bb.emit(relax.op.expand_dims(x, [0]))
    flat = ctx.bb.emit(relax.op.reshape(index, [-1]))
    return relax.op.take(x, flat, -1)


def binarizer(ctx: NodeContext) -> relax.Expr:
    """Binarizer: 1 above the threshold, else 0."""
    x = ctx.input(0)
    threshold = constant(np.array(ctx.attrs.get("threshold", 0.0), dtype(x)))
    return relax.op.astype(ctx.bb.emit(relax.op.greater(x, threshold)), dtype(x))


def _floats(ctx: NodeContext) -> relax.Expr:
    x = ctx.input(0)
    return x if dtype(x) == "float32" else ctx.bb.emit(relax.op.astype(x, "float32"))


def scaler(ctx: NodeContext) -> relax.Expr:
    """Scaler: (x - offset) * scale."""
    x = _floats(ctx)
    offset, scale = (constant(np.array(ctx.attrs[n], np.float32)) for n in ("offset", "scale"))
    return relax.op.multiply(ctx.bb.emit(relax.op.subtract(x, offset)), scale)


def normalizer(ctx: NodeContext) -> relax.Expr:
    """Normalizer of rows, by their largest element, sum or length."""
    x, norm = _floats(ctx), ctx.text("norm", "MAX")
    size = ctx.bb.emit(relax.op.abs(x))
    if norm == "MAX":
        total = ctx.bb.emit(relax.op.max(size, [-1], True))
    elif norm == "L1":
        total = ctx.bb.emit(relax.op.sum(size, [-1], True))
    elif norm == "L2":
        squares = ctx.bb.emit(relax.op.multiply(x, x))
        total = ctx.bb.emit(relax.op.sqrt(ctx.bb.emit(relax.op.sum(squares, [-1], True))))
    else:
        raise ValueError(f"norm `{norm}` is not supported")
    return relax.op.divide(x, total)


def one_hot_encoder(ctx: NodeContext) -> relax.Expr:
    """OneHotEncoder of numbers; unknown categories give zeros."""
    listed = ctx.attrs.get("cats_int64s")
    if not listed:
        raise ValueError("categories that are strings are not supported")
    if not ctx.attrs.get("zeros", 1):
        raise ValueError("`zeros` = 0 is not supported: unknown categories would be errors")
    categories = constant(np.array(listed, np.int64))

    def compute(x: te.Tensor, categories: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> Any:
            is_hit = x(*i[:-1]).astype("int64") == categories(i[-1])
            return tirx.Select(is_hit, tirx.const(1.0, "float32"), tirx.const(0.0, "float32"))

        return te.compute((*x.shape, len(listed)), element, name="one_hot")

    return ctx.emit_te(compute, ctx.input(0), categories)


def linear_regressor(ctx: NodeContext) -> relax.Expr:
    """LinearRegressor: a matrix product with the coefficients."""
    x = _floats(ctx)
    targets = int(ctx.attrs.get("targets", 1))
    weights = np.array(ctx.attrs["coefficients"], np.float32).reshape(targets, -1)
    scores = ctx.bb.emit(relax.op.matmul(x, constant(np.ascontiguousarray(weights.T))))
    if ctx.attrs.get("intercepts"):
        offset = constant(np.array(ctx.attrs["intercepts"], np.float32))
        scores = ctx.bb.emit(relax.op.add(scores, offset))
    return transformed(ctx, scores, ctx.text("post_transform", "NONE"))


def label_encoder(ctx: NodeContext) -> relax.Expr:
    """LabelEncoder: a table of keys and values; of what is missing, the default."""
    keys, values, default = _table(ctx.attrs)
    if keys.dtype.kind in "OUS" or values.dtype.kind in "OUS":
        raise ValueError("strings are not supported")
    size = len(keys)

    def compute(x: te.Tensor, keys: te.Tensor, values: te.Tensor, rest: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, size), name="k")

        def position(*i: Any) -> Any:
            same = x(*i) == keys(k.var)
            if "float" in str(x.dtype):  # NaN is a key like any other
                same = tirx.any(same, tirx.all(tirx.isnan(x(*i)), tirx.isnan(keys(k.var))))
            return te.min(tirx.Select(same, k.var, tirx.IntImm(k.var.ty.dtype, size)), axis=k)

        found = te.compute(x.shape, position, name="found")

        def element(*i: Any) -> Any:
            at = tirx.min(found(*i), size - 1)
            return tirx.Select(found(*i) < size, values(at), rest(0))

        return te.compute(x.shape, element, name="label")

    x = ctx.input(0)
    arrays = [keys.astype(dtype(x)), values, default]
    return ctx.emit_te(compute, x, *(constant(a) for a in arrays))


def _table(attrs: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys, values and the default, as one-dimensional arrays."""
    found: dict[str, np.ndarray] = {}
    defaults: dict[str, Any] = {"float": -0.0, "int64": -1, "string": "_Unused"}
    kinds: dict[str, Any] = {"float": np.float32, "int64": np.int64, "string": object}
    for side in ("keys", "values"):
        tensor = attrs.get(f"{side}_tensor")
        if tensor is not None:
            found[side] = numpy_helper.to_array(tensor).reshape(-1)
            continue
        for kind, numpy_kind in kinds.items():
            if attrs.get(f"{side}_{kind}s"):
                found[side] = np.array(attrs[f"{side}_{kind}s"], numpy_kind)
                if side == "values":
                    value = attrs.get(f"default_{kind}", defaults[kind])
                    found["default"] = np.array([value], numpy_kind)
    if attrs.get("default_tensor") is not None:
        found["default"] = numpy_helper.to_array(attrs["default_tensor"]).reshape(-1)
    if "default" not in found:
        values = found["values"]
        fill: Any = {"f": -0.0, "i": -1}.get(values.dtype.kind, "_Unused")
        found["default"] = np.array([fill], values.dtype)
    return found["keys"], found["values"], found["default"]


CONVERTERS: dict[str, Converter] = {
    "ai.onnx.ml::ArrayFeatureExtractor": array_feature_extractor,
    "ai.onnx.ml::Binarizer": binarizer,
    "ai.onnx.ml::LabelEncoder": label_encoder,
    "ai.onnx.ml::LinearRegressor": linear_regressor,
    "ai.onnx.ml::Normalizer": normalizer,
    "ai.onnx.ml::OneHotEncoder": one_hot_encoder,
    "ai.onnx.ml::Scaler": scaler,
}
