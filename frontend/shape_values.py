"""Shape arithmetic, evaluated symbolically while the graph is converted.

Exporters compute shapes with tensors: `Shape -> Gather -> Mul -> Concat -> Reshape`. Relax wants
the shape itself. So every small integer tensor whose elements are known as expressions of the
symbolic dimensions is carried along as a `ShapeValue`, and becomes a real tensor only where an
operator computes with it as data.

Reference: the idea is ONNX shape inference's data propagation, with symbols instead of integers.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
from tvm import relax, tirx
from tvm.sym import Analyzer, ConstIntBound

# Larger integer tensors are data (indices, token ids), not shapes.
MAX_ELEMENTS = 64

Element: TypeAlias = "tirx.Expr"


@dataclass(frozen=True)
class ShapeValue:
    """An integer tensor of known elements: an object array of int64 expressions, any rank <= 2."""

    elements: np.ndarray
    dtype: str = "int64"

    @property
    def is_static(self) -> bool:
        """Whether every element is a number."""
        return all(isinstance(e, tirx.IntImm) for e in self.elements.flat)

    def numpy(self) -> np.ndarray:
        """The elements as a NumPy array; only when `is_static`."""
        flat = [int(e) for e in self.elements.flat]
        return np.array(flat, self.dtype).reshape(self.elements.shape)

    def as_shape(self) -> relax.ShapeExpr:
        """The elements, flattened, as a Relax shape."""
        return relax.ShapeExpr(list(self.elements.flat))

    def as_tensor(self) -> relax.Expr:
        """The elements as a tensor computed at run time (or a constant when `is_static`)."""
        if self.is_static:
            return relax.const(self.numpy(), self.dtype)
        tensor = relax.op.shape_to_tensor(self.as_shape())
        if self.elements.ndim != 1:
            tensor = relax.op.reshape(tensor, self.elements.shape)
        return tensor if self.dtype == "int64" else relax.op.astype(tensor, self.dtype)

    @staticmethod
    def of(array: np.ndarray) -> ShapeValue | None:
        """The value of a constant, or None when it is not a small integer tensor."""
        if array.dtype.name not in ("int64", "int32", "bool") or array.size > MAX_ELEMENTS:
            return None
        if array.ndim > 2:
            return None
        return ShapeValue(
            _objects([_int(int(v)) for v in array.flat], array.shape), array.dtype.name
        )


def shape_of(dims: Sequence[Element]) -> ShapeValue:
    """The value of `Shape` for a tensor of these dimensions."""
    return ShapeValue(_objects([_simplify(d) for d in dims], (len(dims),)))


def size_of(dims: Sequence[Element]) -> ShapeValue:
    """The value of `Size` for a tensor of these dimensions."""
    total = functools.reduce(operator.mul, dims, _int(1))
    return ShapeValue(_objects([_simplify(total)], ()))


def evaluate(node: onnx.NodeProto, inputs: list[ShapeValue | None]) -> ShapeValue | None:
    """The value of a node whose inputs are known, or None when it is not expressible."""
    rule = _RULES.get(node.op_type)
    if rule is None or any(v is None for v, name in zip(inputs, node.input) if name):
        return None
    attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    try:
        return rule(inputs, attrs)
    except (_NotExpressible, IndexError, ValueError, TypeError):
        return None


class _NotExpressible(Exception):
    """The elements depend on more than integer arithmetic over the dimensions."""


def _int(value: int) -> Element:
    return tirx.IntImm("int64", value)


def _simplify(expr: Element | int) -> Element:
    return _int(expr) if isinstance(expr, int) else Analyzer().simplify(expr)


def _objects(items: Sequence[Element], shape: Sequence[int]) -> np.ndarray:
    array = np.empty(len(items), object)
    for i, item in enumerate(items):
        array[i] = item
    return array.reshape(tuple(shape))


def _static(value: ShapeValue | None) -> np.ndarray:
    if value is None or not value.is_static:
        raise _NotExpressible
    return value.numpy()


def _elementwise(
    op: Callable[[Element, Element], Element],
) -> Callable[[list[Any], dict[str, Any]], ShapeValue]:
    def rule(inputs: list[ShapeValue], attrs: dict[str, Any]) -> ShapeValue:
        a, b = np.broadcast_arrays(inputs[0].elements, inputs[1].elements)
        items = [_simplify(op(x, y)) for x, y in zip(a.flat, b.flat)]
        return ShapeValue(_objects(items, a.shape), inputs[0].dtype)

    return rule


def _divide(a: Element, b: Element) -> Element:
    if not isinstance(b, tirx.IntImm) or int(b) <= 0:
        raise _NotExpressible
    # ONNX truncates toward zero.
    if is_never_negative(a):
        return tirx.floordiv(a, b)
    negated = _simplify(_int(0) - a)
    return 0 - tirx.floordiv(negated, b) if is_never_negative(negated) else tirx.truncdiv(a, b)


def _modulo(inputs: list[ShapeValue], attrs: dict[str, Any]) -> ShapeValue:
    def rest(a: Element, b: Element) -> Element:
        if not isinstance(b, tirx.IntImm) or int(b) <= 0:
            raise _NotExpressible
        truncates = attrs.get("fmod", 0) and not is_never_negative(a)
        return tirx.truncmod(a, b) if truncates else tirx.floormod(a, b)

    return _elementwise(rest)(inputs, attrs)


def is_never_negative(value: Element) -> bool:
    """Whether a value is at least 0 for all sizes that symbols may have."""
    analyzer = Analyzer()
    for var in tirx.analysis.undefined_vars(value):
        analyzer.update(var, ConstIntBound(0, ConstIntBound.POS_INF))
    return bool(analyzer.can_prove(value >= 0))


def _compare(op: Callable[[int, int], bool]) -> Callable[[list[Any], dict[str, Any]], ShapeValue]:
    def rule(inputs: list[ShapeValue], attrs: dict[str, Any]) -> ShapeValue:
        a, b = np.broadcast_arrays(inputs[0].elements, inputs[1].elements)
        items = [_int(int(_decide(op, x, y))) for x, y in zip(a.flat, b.flat)]
        return ShapeValue(_objects(items, a.shape), "bool")

    return rule


def _decide(op: Callable[[Any, Any], Any], a: Element, b: Element) -> bool:
    if isinstance(a, tirx.IntImm) and isinstance(b, tirx.IntImm):
        return bool(op(int(a), int(b)))
    # A dimension is at least 0: a comparison with a negative number (often -1) is decided.
    for this, other, flip in ((a, b, False), (b, a, True)):
        if isinstance(this, tirx.IntImm) and int(this) < 0 and isinstance(other, tirx.Var):
            return bool(op(0, int(this)) if flip else op(int(this), 0))
    raise _NotExpressible


def _gather(inputs: list[ShapeValue], attrs: dict[str, Any]) -> ShapeValue:
    data, index = inputs[0], _static(inputs[1])
    axis = attrs.get("axis", 0)
    taken = np.take(data.elements, index, axis=axis)
    return ShapeValue(_as_array(taken), data.dtype)


def _as_array(taken: Any) -> np.ndarray:
    return taken if isinstance(taken, np.ndarray) else _objects([taken], ())


def _slice(inputs: list[ShapeValue], attrs: dict[str, Any]) -> ShapeValue:
    data = inputs[0].elements
    starts, ends = _static(inputs[1]), _static(inputs[2])
    has_axes = len(inputs) > 3 and inputs[3] is not None
    axes = _static(inputs[3]) if has_axes else np.arange(len(starts))
    steps = (
        _static(inputs[4]) if len(inputs) > 4 and inputs[4] is not None else np.ones_like(starts)
    )
    index = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps):
        low = None if step < 0 and end < -data.shape[axis] else int(end)
        index[axis] = slice(int(start), low, int(step))
    return ShapeValue(data[tuple(index)], inputs[0].dtype)


def _concat(inputs: list[ShapeValue], attrs: dict[str, Any]) -> ShapeValue:
    return ShapeValue(
        np.concatenate([v.elements for v in inputs], axis=attrs["axis"]), inputs[0].dtype
    )


def _axes(inputs: list[ShapeValue], attrs: dict[str, Any]) -> list[int] | None:
    if len(inputs) > 1 and inputs[1] is not None:
        return [int(a) for a in _static(inputs[1]).flat]
    return attrs.get("axes")


def _unsqueeze(inputs: list[ShapeValue], attrs: dict[str, Any]) -> ShapeValue:
    axes = _axes(inputs, attrs) or []
    return ShapeValue(np.expand_dims(inputs[0].elements, tuple(axes)), inputs[0].dtype)


def _squeeze(inputs: list[ShapeValue], attrs: dict[str, Any]) -> ShapeValue:
    axes = _axes(inputs, attrs)
    squeezed = np.squeeze(inputs[0].elements, tuple(axes) if axes else None)
    return ShapeValue(_as_array(squeezed), inputs[0].dtype)


def _cast(inputs: list[ShapeValue], attrs: dict[str, Any]) -> ShapeValue:
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(attrs["to"])).name
    if dtype == "bool" and inputs[0].dtype != "bool":
        return _compare(lambda a, b: a != b)(
            [inputs[0], ShapeValue(_objects([_int(0)], ()))], attrs
        )
    if dtype not in ("int64", "int32", "bool"):
        raise _NotExpressible
    return ShapeValue(inputs[0].elements, dtype)


def _not(inputs: list[ShapeValue], attrs: dict[str, Any]) -> ShapeValue:
    return ShapeValue(1 - inputs[0].elements, "bool")


def _reshape(inputs: list[ShapeValue], attrs: dict[str, Any]) -> ShapeValue:
    shape = [int(d) for d in _static(inputs[1])]
    return ShapeValue(inputs[0].elements.reshape(shape), inputs[0].dtype)


def _reduce_prod(inputs: list[ShapeValue], attrs: dict[str, Any]) -> ShapeValue:
    if inputs[0].elements.ndim != 1:
        raise _NotExpressible
    total: Element = _int(1)
    for element in inputs[0].elements:
        total = total * element
    shape = (1,) if attrs.get("keepdims", 1) else ()
    return ShapeValue(_objects([_simplify(total)], shape), inputs[0].dtype)


def _where(inputs: list[ShapeValue], attrs: dict[str, Any]) -> ShapeValue:
    condition = _static(inputs[0])
    chosen = np.where(condition, inputs[1].elements, inputs[2].elements)
    return ShapeValue(_as_array(chosen), inputs[1].dtype)


def _constant_of_shape(inputs: list[ShapeValue], attrs: dict[str, Any]) -> ShapeValue:
    shape = [int(d) for d in _static(inputs[0])]
    fill = onnx.numpy_helper.to_array(attrs["value"]).reshape(-1)[0] if "value" in attrs else None
    if fill is None or fill.dtype.kind not in "ib" or np.prod(shape) > MAX_ELEMENTS:
        raise _NotExpressible
    count = int(np.prod(shape))
    return ShapeValue(_objects([_int(int(fill))] * count, shape), fill.dtype.name)


def _identity(inputs: list[ShapeValue], attrs: dict[str, Any]) -> ShapeValue:
    return inputs[0]


def _negate(inputs: list[ShapeValue], attrs: dict[str, Any]) -> ShapeValue:
    items = [_simplify(_int(0) - e) for e in inputs[0].elements.flat]
    return ShapeValue(_objects(items, inputs[0].elements.shape), inputs[0].dtype)


_RULES: dict[str, Callable[[list[Any], dict[str, Any]], ShapeValue]] = {
    "Add": _elementwise(lambda a, b: a + b),
    "Sub": _elementwise(lambda a, b: a - b),
    "Mul": _elementwise(lambda a, b: a * b),
    "Div": _elementwise(_divide),
    "Mod": _modulo,
    "Min": _elementwise(tirx.min),
    "Max": _elementwise(tirx.max),
    "Equal": _compare(lambda a, b: a == b),
    "Greater": _compare(lambda a, b: a > b),
    "Less": _compare(lambda a, b: a < b),
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Gather": _gather,
    "Identity": _identity,
    "Neg": _negate,
    "Not": _not,
    "ReduceProd": _reduce_prod,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
