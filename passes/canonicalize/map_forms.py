"""Maps with one or three spatial axes in the form of maps with two.

line      (n, c, w)        ->  (n, c, 1, w)
volume    (n, c, d, h, w)  ->  (n * d, c, h, w)     one image per plane

A convolution over planes becomes one over images: the planes that a kernel reaches are stacked as
channels, kernel plane by kernel plane, so that one 2-D convolution sums over all of them. Grouped
ones are summed plane by plane instead, because stacking would interleave the groups.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from tvm import relax, tirx
from tvm.ir import GenericConst

op = relax.op


@dataclass
class Emitter:
    """Collects bindings in front of the one that is being rewritten.

    Attributes:
        builder: infers types.
        bindings: what has been emitted.
        names: of products of a symbolic batch and a depth.
    """

    builder: relax.BlockBuilder
    bindings: list[relax.Binding] = field(default_factory=list)
    names: dict[tuple[Any, int], Any] = field(default_factory=dict)

    def emit(self, value: relax.Expr, name: str = "") -> relax.Var:
        """Bind a call to a new variable, of a name of its own: quantization finds data by names."""
        call = self.builder.normalize(value)
        var = relax.DataflowVar(name or f"map.{len(self.bindings)}", call.ty)
        self.bindings.append(relax.VarBinding(var, call))
        return var

    def images(self, value: relax.Expr, batch: Any, depth: int) -> relax.Expr:
        """(n, d, c, h, w) as (n * d, c, h, w).

        Kernels take dimensions that are numbers or names: a batch with a name gives a new name.
        """
        _, _, *rest = value.ty.shape.values
        var = self.emit(op.reshape(value, [batch * depth, *rest]))
        if isinstance(batch, tirx.IntImm):
            return var
        name = self.names.setdefault((batch, depth), tirx.Var(f"{batch.name}_{depth}", "int64"))
        ty = relax.TensorType([name, *rest], str(value.ty.dtype.dtype))
        named = relax.DataflowVar(f"map.{len(self.bindings)}", ty)
        self.bindings.append(relax.MatchCast(named, var, ty))
        return named


class Form(abc.ABC):
    """One way to see a map as a 2-D one; equal forms have equal shapes in front of channels."""

    rank: ClassVar[int]

    @abc.abstractmethod
    def flatten(self, b: Emitter, value: relax.Expr) -> relax.Expr:
        """The 2-D form of a tensor."""

    @abc.abstractmethod
    def restore(self, value: relax.Var, shape: Sequence[Any], b: Emitter) -> relax.Expr:
        """The tensor of `shape` whose 2-D form is `value`, as a call."""

    @abc.abstractmethod
    def constant(self, array: np.ndarray) -> np.ndarray | None:
        """The 2-D form of a constant of full rank that is broadcast; None if there is none."""

    @abc.abstractmethod
    def convolve(self, b: Emitter, x: relax.Expr, call: relax.Call) -> tuple[relax.Expr, Form]:
        """A convolution of the 2-D form `x`, as a call or bound, and the form of its result."""


@dataclass(frozen=True)
class Line(Form):
    """(n, c, w) as (n, c, 1, w)."""

    rank: ClassVar[int] = 3

    def flatten(self, b: Emitter, value: relax.Expr) -> relax.Expr:
        """An axis of one row."""
        return b.emit(op.expand_dims(value, 2))

    def restore(self, value: relax.Var, shape: Sequence[Any], b: Emitter) -> relax.Expr:
        """Without the row."""
        return op.squeeze(value, [2])

    def constant(self, array: np.ndarray) -> np.ndarray:
        """An axis of one row."""
        return np.expand_dims(array, 2)

    def convolve(self, b: Emitter, x: relax.Expr, call: relax.Call) -> tuple[relax.Expr, Form]:
        """The kernel has one row, too."""
        attrs = call.attrs
        weight = _const(np.expand_dims(call.args[1].value.numpy(), 2))
        before, after = (int(p) for p in attrs.padding)
        common = {
            "strides": [1, int(attrs.strides[0])],
            "padding": [0, before, 0, after],
            "dilation": [1, int(attrs.dilation[0])],
            "groups": int(attrs.groups),
        }
        if call.op.name == "relax.nn.conv1d":
            return op.nn.conv2d(x, weight, **common), self
        extra = [0, int(attrs.output_padding[0])]
        return op.nn.conv2d_transpose(x, weight, output_padding=extra, **common), self

    def pool(self, x: relax.Expr, call: relax.Call) -> relax.Expr:
        """A pooling of the 2-D form `x`."""
        attrs = call.attrs
        before, after = (int(p) for p in attrs.padding)
        kind = op.nn.max_pool2d if call.op.name == "relax.nn.max_pool1d" else op.nn.avg_pool2d
        return kind(
            x,
            [1, int(attrs.pool_size[0])],
            [1, int(attrs.strides[0])],
            [0, before, 0, after],
            [1, int(attrs.dilation[0])],
            bool(attrs.ceil_mode),
            bool(attrs.count_include_pad),
        )


@dataclass(frozen=True)
class Volume(Form):
    """(n, c, d, h, w) as (n * d, c, h, w).

    Attributes:
        depth: d.
    """

    depth: int

    rank: ClassVar[int] = 5

    def flatten(self, b: Emitter, value: relax.Expr) -> relax.Expr:
        """Planes in front of channels."""
        planes = b.emit(op.permute_dims(value, [0, 2, 1, 3, 4]))
        return b.images(planes, value.ty.shape.values[0], self.depth)

    def restore(self, value: relax.Var, shape: Sequence[Any], b: Emitter) -> relax.Expr:
        """Planes behind channels."""
        n, c, d, h, w = shape
        planes = b.emit(op.reshape(value, [n, d, c, h, w]))
        return op.permute_dims(planes, [0, 2, 1, 3, 4])

    def constant(self, array: np.ndarray) -> np.ndarray | None:
        """Where it is the same for all images and planes."""
        return (
            array.reshape(1, *array.shape[1:2], *array.shape[3:])
            if (array.shape[0] == array.shape[2] == 1)
            else None
        )

    def convolve(self, b: Emitter, x: relax.Expr, call: relax.Call) -> tuple[relax.Expr, Form]:
        """Stack the planes that each output plane reads, or sum over them."""
        batch, _, depth = call.ty.shape.values[:3]
        result = Volume(int(depth))
        source = _Planes(b, x, self.depth, batch)
        if call.op.name == "relax.nn.conv3d":
            return _convolve(b, source, call, result.depth), result
        return _transpose(b, source, call, result.depth), result


@dataclass
class _Planes:
    """A volume's planes, to be gathered by number; those outside of it are zero."""

    b: Emitter
    x: relax.Expr
    depth: int
    batch: Any

    def gather(self, rows: Sequence[Sequence[int]]) -> relax.Expr:
        """(n * outputs, planes * c, h, w) of the planes that each of the outputs reads."""
        b, (_, c, h, w) = self.b, self.x.ty.shape.values
        if [list(r) for r in rows] == [[i] for i in range(self.depth)]:
            return self.x
        inside = [[p if 0 <= p < self.depth else self.depth for p in r] for r in rows]
        planes = b.emit(op.reshape(self.x, [self.batch, self.depth, c, h, w]))
        if any(self.depth in r for r in inside):
            planes = b.emit(op.nn.pad(planes, [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]))
        order = relax.const(np.array(inside, np.int64).reshape(-1), "int64")
        taken = b.emit(op.take(planes, order, axis=1))
        stacked = [self.batch, len(rows), c * len(rows[0]), h, w]
        return b.images(b.emit(op.reshape(taken, stacked)), self.batch, len(rows))


def _convolve(b: Emitter, planes: _Planes, call: relax.Call, depth: int) -> relax.Expr:
    attrs, weight = call.attrs, call.args[1].value.numpy()
    stride, *strides = (int(s) for s in attrs.strides)
    dilation, *dilations = (int(d) for d in attrs.dilation)
    front, top, left, _, bottom, right = (int(p) for p in attrs.padding)
    common = {
        "strides": strides,
        "padding": [top, left, bottom, right],
        "dilation": dilations,
        "groups": int(attrs.groups),
    }
    out, share, taps = weight.shape[:3]
    reads = [[d * stride - front + k * dilation for k in range(taps)] for d in range(depth)]
    if attrs.groups == 1:
        stacked = weight.transpose(0, 2, 1, 3, 4).reshape(out, taps * share, *weight.shape[3:])
        return op.nn.conv2d(planes.gather(reads), _const(stacked), **common)
    terms = [
        op.nn.conv2d(planes.gather([[r[k]] for r in reads]), _const(weight[:, :, k]), **common)
        for k in range(taps)
    ]
    return _sum(b, terms)


def _transpose(b: Emitter, planes: _Planes, call: relax.Call, depth: int) -> relax.Expr:
    """Output planes of one remainder modulo the stride read the same planes of the kernel."""
    attrs, weight = call.attrs, call.args[1].value.numpy()
    stride, *strides = (int(s) for s in attrs.strides)
    dilation, *dilations = (int(d) for d in attrs.dilation)
    front, top, left, _, bottom, right = (int(p) for p in attrs.padding)
    common = {
        "strides": strides,
        "padding": [top, left, bottom, right],
        "output_padding": [int(p) for p in attrs.output_padding][1:],
        "dilation": dilations,
        "groups": int(attrs.groups),
    }
    parts, order = [], np.zeros(depth, np.int64)
    done = 0
    for remainder in range(min(stride, depth)):
        count = -(-(depth - remainder) // stride)
        reached = [
            (k, (remainder + front - k * dilation) // stride)
            for k in range(weight.shape[2])
            if (remainder + front - k * dilation) % stride == 0
        ] or [(0, -depth - planes.depth)]  # a plane that no tap reaches: all zeros
        taps = [k for k, _ in reached]
        reads = [[i + offset for _, offset in reached] for i in range(count)]
        if attrs.groups == 1:
            used = weight[:, :, taps].transpose(2, 0, 1, 3, 4)
            stacked = used.reshape(-1, weight.shape[1], *weight.shape[3:])
            part = op.nn.conv2d_transpose(planes.gather(reads), _const(stacked), **common)
        else:
            terms = [
                op.nn.conv2d_transpose(
                    planes.gather([[r[i]] for r in reads]), _const(weight[:, :, k]), **common
                )
                for i, k in enumerate(taps)
            ]
            part = _sum(b, terms)
        parts.append((b.emit(part), count))
        order[remainder::stride] = done + np.arange(count)
        done += count
    if len(parts) == 1:
        return parts[0][0]
    _, c, _, h, w = call.ty.shape.values
    each = [b.emit(op.reshape(p, [planes.batch, count, c, h, w])) for p, count in parts]
    joined = b.emit(op.concat(each, 1))
    sorted_ = b.emit(op.take(joined, relax.const(order, "int64"), axis=1))
    return b.images(sorted_, planes.batch, depth)


def _sum(b: Emitter, terms: Sequence[relax.Expr]) -> relax.Expr:
    total = terms[0]
    for term in terms[1:]:
        total = op.add(b.emit(total), b.emit(term))
    return total


def _const(array: np.ndarray) -> GenericConst:
    return relax.const(np.ascontiguousarray(array), array.dtype.name)
