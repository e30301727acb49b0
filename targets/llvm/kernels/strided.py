"""Views of a buffer: what reshapes, transposes and slices do to strides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tvm import relax
from tvm.ir import GenericConst

from relaxc.targets.llvm.kernels.domain import as_int


@dataclass(frozen=True)
class Strided:
    """A tensor as an affine view of a contiguous buffer.

    Attributes:
        base: the buffer's variable.
        shape: static dimensions.
        strides: elements from one index to the next, per dimension.
        offset: elements before the first.
        scale: a number by which the values are multiplied.
    """

    base: relax.Expr
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    scale: float = 1.0

    @staticmethod
    def contiguous(base: relax.Expr, shape: Sequence[int]) -> Strided:
        """A whole buffer in row-major order."""
        return Strided(base, tuple(shape), row_major(shape))


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a contiguous tensor."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return tuple(strides)


def resolve(
    expr: relax.Expr, producers: Mapping[relax.Var, relax.Expr], joins: bool = False
) -> Strided | None:
    """Follow an expression back through views; None where a view would have to copy.

    Args:
        expr: where to begin.
        producers: what variables are bound to.
        joins: whether the result of a concatenation is a buffer as well.
    """
    shape = static_shape(expr)
    if shape is None:
        return None
    call = producers.get(expr) if isinstance(expr, relax.Var) else None
    if call is None:
        return Strided.contiguous(expr, shape)
    op = str(call.op.name)
    if op == "relax.concat" and joins:
        return Strided.contiguous(expr, shape)
    source = resolve(call.args[0], producers, joins)
    if source is None:
        return None
    if op == "relax.permute_dims":
        rank = len(source.shape)
        axes = call.attrs.axes
        order = [int(a) for a in axes] if axes is not None else list(range(rank))[::-1]
        strides = tuple(source.strides[a] for a in order)
        return Strided(source.base, shape, strides, source.offset, source.scale)
    if op in ("relax.reshape", "relax.squeeze", "relax.expand_dims"):
        split = _reshape(source, shape)
        if split is None:
            return None
        return Strided(source.base, shape, split, source.offset, source.scale)
    if op == "relax.strided_slice":
        return _slice(source, call, shape)
    if op in ("relax.multiply", "relax.divide"):
        if not isinstance(call.args[1], GenericConst) or call.args[1].value.numpy().size != 1:
            return None
        factor = float(call.args[1].value.numpy().reshape(-1)[0])
        scale = source.scale * factor if op == "relax.multiply" else source.scale / factor
        return Strided(source.base, shape, source.strides, source.offset, scale)
    return None


def static_shape(expr: relax.Expr) -> tuple[int, ...] | None:
    """The shape as numbers, when all are known."""
    shape = getattr(expr.ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr):
        return None
    dims = [as_int(d) for d in shape.values]
    return None if None in dims else tuple(d for d in dims if d is not None)


def _slice(source: Strided, call: relax.Call, shape: tuple[int, ...]) -> Strided | None:
    axes, begin, _, *steps = (_numbers(arg) for arg in call.args[1:])
    if axes is None or begin is None:
        return None
    step = steps[0] if steps else [1] * len(axes)  # they may be left out
    if step is None or any(s < 1 for s in step):
        return None
    offset, strides = source.offset, list(source.strides)
    for axis, first, by in zip(axes, begin, step):
        start = first + source.shape[axis] if first < 0 else first
        offset += start * source.strides[axis]
        strides[axis] *= by
    return Strided(source.base, shape, tuple(strides), offset, source.scale)


def _numbers(arg: relax.Expr) -> list[int] | None:
    values = [as_int(v) for v in arg.fields] if isinstance(arg, relax.Tuple) else None
    return None if values is None or None in values else [v for v in values if v is not None]


def _reshape(source: Strided, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Strides of a reshaped view; None where dimensions merge that are not contiguous."""
    old = [(n, s) for n, s in zip(source.shape, source.strides) if n != 1]
    strides: list[int] = []
    position = 0
    pending = [list(pair) for pair in old]
    for n in shape:
        if n == 1:
            strides.append(0)
            continue
        # Gather old dimensions until they cover this one; they must be contiguous to merge.
        size, stride = 1, 0
        taken: list[list[int]] = []
        while size < n and position < len(pending):
            taken.append(pending[position])
            size *= pending[position][0]
            position += 1
        if size % n:
            return None
        for outer, inner in zip(taken, taken[1:]):
            if outer[1] != inner[1] * inner[0]:
                return None
        stride = taken[-1][1]
        rest = size // n
        if rest > 1:  # the last old dimension is split: its inner part remains
            last = taken[-1]
            if last[0] % rest:
                return None
            strides.append(stride * rest)
            position -= 1
            pending[position] = [rest, stride]
        else:
            strides.append(stride)
    return tuple(strides)
