"""How operators carry on divided tensors: which axis of a result is divided, given its operands'.

Each GPU has an equal, contiguous part of a divided tensor. A rule says along which axis the result
is divided if the operator works on the parts alone, and which other operands must be divided, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from tvm import relax

from relaxc.passes.shard.reshaped_axis import reshaped_axis


class Stuck(Exception):
    """An operator cannot work on parts alone; the text says why."""


class Divided(Protocol):
    """What a rule asks, and asks for."""

    @property
    def ranks(self) -> int:
        """The number of parts."""

    def axis(self, expr: relax.Expr) -> int | None:
        """Along which axis an operand is divided."""

    def want(self, expr: relax.Expr, axis: int, position: int) -> None:
        """Have an operand divided; `position` is its place among the arguments."""


Rule = Callable[[Divided, relax.Call], int | None]


def _dims(expr: relax.Expr) -> list[int]:
    return [int(d) for d in expr.ty.shape.values]


def _only(divided: Divided, call: relax.Call) -> int:
    """The axis of the first operand, which alone may be divided."""
    axis = divided.axis(call.args[0])
    if axis is None:
        raise Stuck(f"`{_name(call)}` has an operand that must be whole")
    return axis


def _name(call: relax.Call) -> str:
    return str(call.op.name).removeprefix("relax.")


def _broadcast(divided: Divided, call: relax.Call) -> int:
    """Elementwise operators of any number of operands, by NumPy's rules."""
    rank = int(call.ty.ndim)
    tensors = [
        (position, arg, rank - int(arg.ty.ndim))
        for position, arg in enumerate(call.args)
        if isinstance(arg.ty, relax.TensorType)
    ]
    found = {shift + axis for _, a, shift in tensors if (axis := divided.axis(a)) is not None}
    if len(found) != 1:
        raise Stuck(f"operands of `{_name(call)}` are divided along different axes")
    (axis,) = found
    for position, arg, shift in tensors:
        if divided.axis(arg) is None and axis >= shift and _dims(arg)[axis - shift] != 1:
            divided.want(arg, axis - shift, position)
    return axis


def _matmul(divided: Divided, call: relax.Call) -> int:
    """Products of two tensors: along axes of the batch, of rows or of columns."""
    rank = int(call.ty.ndim)
    shapes = [_dims(arg) for arg in call.args]
    if min(map(len, shapes)) < 2:
        raise Stuck("a product with a vector")
    found: set[int] = set()
    for arg, shape, summed in zip(call.args, shapes, (-1, -2)):
        axis = divided.axis(arg)
        if axis is None:
            continue
        if axis == len(shape) + summed:
            raise Stuck("a product of two tensors would have to sum over several GPUs")
        found.add(rank - len(shape) + axis)
    if len(found) != 1:
        raise Stuck("the factors of a product are divided along different axes")
    (axis,) = found
    if axis < rank - 2:
        for position, (arg, shape) in enumerate(zip(call.args, shapes)):
            own = axis - (rank - len(shape))
            if divided.axis(arg) is None and own >= 0 and shape[own] != 1:
                divided.want(arg, own, position)
    return axis


def _reshape(divided: Divided, call: relax.Call) -> int:
    old, new = _dims(call.args[0]), _dims(call)
    axis = reshaped_axis(old, new, _only(divided, call))
    if axis is None:
        raise Stuck(f"a reshape of {old} to {new} would scatter the parts")
    if new[axis] % divided.ranks:
        what = f"{new[axis]} heads are" if len(new) > len(old) else f"{new[axis]} is"
        raise Stuck(f"{what} no multiple of {divided.ranks}")
    return axis


def _permute(divided: Divided, call: relax.Call) -> int:
    rank = int(call.ty.ndim)
    order = call.attrs.axes
    axes = [int(a) % rank for a in order] if order is not None else list(reversed(range(rank)))
    return axes.index(_only(divided, call))


def _broadcast_to(divided: Divided, call: relax.Call) -> int:
    return int(call.ty.ndim) - int(call.args[0].ty.ndim) + _only(divided, call)


def _normalization(divided: Divided, call: relax.Call) -> int:
    """Softmax and norms, over other axes than the one that is divided."""
    axis, rank = _only(divided, call), int(call.ty.ndim)
    attrs = call.attrs
    axes = list(attrs.axes) if hasattr(attrs, "axes") else [attrs.axis]
    if axis in [int(a) % rank for a in axes]:
        raise Stuck(f"`{_name(call)}` works along the divided axis")
    return axis


def _reduction(divided: Divided, call: relax.Call) -> int:
    axis, rank = _only(divided, call), int(call.args[0].ty.ndim)
    listed = call.attrs.axis
    axes = range(rank) if listed is None else [int(a) % rank for a in listed]
    if axis in axes:
        raise Stuck(f"`{_name(call)}` works along the divided axis")
    return axis if call.attrs.keepdims else axis - sum(a < axis for a in axes)


def _concat(divided: Divided, call: relax.Call) -> int:
    fields = list(call.args[0].fields)
    found = {axis for field in fields if (axis := divided.axis(field)) is not None}
    if len(found) != 1:
        raise Stuck("what is concatenated is divided along different axes")
    (axis,) = found
    if int(call.attrs.axis) % int(call.ty.ndim) == axis:
        raise Stuck("`concat` works along the divided axis")
    for position, field in enumerate(fields):
        if divided.axis(field) is None:
            divided.want(field, axis, position)
    return axis


def _split(divided: Divided, call: relax.Call) -> int:
    axis = _only(divided, call)
    if int(call.attrs.axis) % int(call.args[0].ty.ndim) == axis:
        raise Stuck("`split` works along the divided axis")
    return axis


def _strided_slice(divided: Divided, call: relax.Call) -> int:
    axis, rank = _only(divided, call), int(call.ty.ndim)
    if not isinstance(call.args[1], relax.Tuple):
        raise Stuck("a slice along axes that are computed")
    if axis in [int(getattr(a, "value", a)) % rank for a in call.args[1].fields]:
        raise Stuck("`strided_slice` works along the divided axis")
    return axis


def _take(divided: Divided, call: relax.Call) -> int:
    """Along another axis of the table than the one that is divided."""
    axis = _only(divided, call)
    if call.attrs.axis is None or divided.axis(call.args[1]) is not None:
        raise Stuck("`take` works along the divided axis")
    taken = int(call.attrs.axis) % int(call.args[0].ty.ndim)
    if taken == axis:
        raise Stuck("`take` works along the divided axis")
    return axis if axis < taken else axis - 1 + int(call.args[1].ty.ndim)


_ELEMENTWISE = (
    *("abs", "ceil", "clip", "cos", "erf", "exp", "floor", "log", "negative", "round", "rsqrt"),
    *("sigmoid", "sign", "sin", "sqrt", "square", "tanh", "astype", "where", "nn.gelu"),
    *("nn.gelu_tanh", "nn.silu", "nn.relu", "nn.leakyrelu", "nn.softplus", "add", "subtract"),
    *("multiply", "divide", "power", "maximum", "minimum", "equal", "not_equal", "greater"),
    *("greater_equal", "less", "less_equal", "logical_and", "logical_or", "logical_not"),
)
RULES: dict[str, Rule] = {
    **{f"relax.{name}": _broadcast for name in _ELEMENTWISE},
    **dict.fromkeys(("relax.reshape", "relax.expand_dims", "relax.squeeze"), _reshape),
    **{f"relax.nn.{n}": _normalization for n in ("softmax", "log_softmax")},
    **{f"relax.nn.{n}": _normalization for n in ("layer_norm", "rms_norm")},
    **{f"relax.{n}": _reduction for n in ("max", "mean", "min", "sum")},
    "relax.broadcast_to": _broadcast_to,
    "relax.concat": _concat,
    "relax.matmul": _matmul,
    "relax.permute_dims": _permute,
    "relax.split": _split,
    "relax.strided_slice": _strided_slice,
    "relax.take": _take,
}
