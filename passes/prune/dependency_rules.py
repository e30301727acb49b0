"""How each operator ties the axes of what it takes to the axes of what it gives.

A rule gets a `Site` and returns the axes of the result. What has no rule keeps all of its
operands as they are, and gives a result that nothing can be removed from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from relaxc.passes.prune.channels import Axes, Axis, Channels
from relaxc.passes.prune.operands import prims, shape_of, static_dim
from relaxc.passes.prune.reshape_links import link


@dataclass(frozen=True)
class Site:
    """One call, while its rule looks at it.

    Attributes:
        channels: where indices are paired.
        call: the operator.
        operands: its tensors.
        axes: the axes of each of them.
        prefer: whether each axis of the result was free in an earlier round; None in the first.
        contractions: gets (operand, axis) for every constant that is summed over its channels.
    """

    channels: Channels
    call: relax.Call
    operands: list[relax.Expr]
    axes: list[Axes]
    prefer: tuple[bool, ...] | None
    contractions: list[tuple[int, int]]

    def shape(self, operand: int) -> list[Any]:
        """The dimensions of an operand."""
        return shape_of(self.operands[operand])

    def is_constant(self, operand: int) -> bool:
        """Whether an operand is a weight."""
        return isinstance(self.operands[operand], GenericConst)

    @property
    def attrs(self) -> Any:
        """The operator's attributes."""
        return self.call.attrs

    def fix_rest(self, operand: int, *, but: Sequence[int]) -> None:
        """Keep all axes of an operand but some."""
        axes = self.axes[operand]
        self.channels.fix_all(a for i, a in enumerate(axes) if i not in but)


Rule = Callable[[Site], Axes]


def refuse(site: Site) -> Axes:
    """Keep everything that the call touches."""
    for axes in site.axes:
        site.channels.fix_all(axes)
    return _none(site.call)


def _none(expr: relax.Expr) -> Axes:
    return (None,) * max(0, getattr(expr.ty, "ndim", 0))


def elementwise(site: Site) -> Axes:
    """Indices meet as in broadcasting."""
    values = [(axes, site.shape(i)) for i, axes in enumerate(site.axes)]
    return _broadcast(site, values, len(shape_of(site.call)))


def _broadcast(site: Site, values: list[tuple[Axes, list[Any]]], ndim: int) -> Axes:
    """Axes of what several shapes broadcast to; ones stretch."""
    result: list[Axis] = []
    for position in range(-ndim, 0):
        present = [
            (axes[position], dims[position]) for axes, dims in values if len(dims) >= -position
        ]
        wide = [axis for axis, dim in present if static_dim(dim) != 1]
        site.channels.fix_all(axis for axis, dim in present if static_dim(dim) == 1)
        joined = wide[0] if wide else None
        for other in wide[1:]:
            joined = site.channels.unite(joined, other)
        result.append(joined)
    return tuple(result)


def convolution(site: Site) -> Axes:
    """Channels of the data meet input channels of the weight; whole groups go or stay."""
    attrs = site.attrs
    data, weight = site.axes
    if not str(attrs.data_layout).startswith("NC") or not str(attrs.kernel_layout).startswith("OI"):
        return refuse(site)
    if attrs.out_layout and attrs.out_layout != attrs.data_layout:
        return refuse(site)
    site.fix_rest(0, but=[0, 1])
    site.fix_rest(1, but=[0, 1])
    groups = int(attrs.groups)
    result: Axes = (data[0], weight[0], *[None] * (len(data) - 2))
    if groups == 1:
        _contract(site, 0, 1, 1, 1)
        return result
    site.channels.fix(weight[1])
    if data[1] is None or weight[0] is None:
        site.channels.fix_all((data[1], weight[0]))
        return result
    members = np.concatenate([data[1].reshape(groups, -1), weight[0].reshape(groups, -1)], axis=1)
    for column in range(1, members.shape[1]):
        site.channels.unite(members[:, 0], members[:, column])
    return result


def transposed_convolution(site: Site) -> Axes:
    """As convolution, with input channels first in the weight; groups stay."""
    attrs = site.attrs
    data, weight = site.axes
    first = str(attrs.kernel_layout).startswith("IO") and str(attrs.data_layout).startswith("NC")
    if int(attrs.groups) != 1 or not first:
        return refuse(site)
    site.fix_rest(0, but=[0, 1])
    site.fix_rest(1, but=[0, 1])
    _contract(site, 0, 1, 1, 0)
    return (data[0], weight[1], *[None] * (len(data) - 2))


def _contract(site: Site, left: int, left_axis: int, right: int, right_axis: int) -> None:
    """Pair two axes that are summed over: a removed index must meet a weight of ours."""
    a, b = site.axes[left][left_axis], site.axes[right][right_axis]
    if not (site.is_constant(left) or site.is_constant(right)):
        site.channels.fix_all((a, b))
        return
    site.channels.unite(a, b)
    for operand, axis in ((left, left_axis), (right, right_axis)):
        if site.is_constant(operand):
            site.contractions.append((operand, axis))


def matmul(site: Site) -> Axes:
    """Columns of the left side meet rows of the right one; batches broadcast."""
    left, right = site.axes
    if min(len(left), len(right)) < 2:
        return refuse(site)
    _contract(site, 0, len(left) - 1, 1, len(right) - 2)
    batches = [(left[:-2], site.shape(0)[:-2]), (right[:-2], site.shape(1)[:-2])]
    batch = _broadcast(site, batches, max(len(left), len(right)) - 2)
    return (*batch, left[-2], right[-1])


def reduction(site: Site) -> Axes:
    """What is reduced must stay: a mean over fewer numbers is another mean."""
    axes, (data,) = site.attrs.axis, site.axes
    reduced = {int(a) % len(data) for a in (range(len(data)) if axes is None else axes)}
    site.channels.fix_all(data[a] for a in reduced)
    if site.attrs.keepdims:
        return tuple(None if a in reduced else axis for a, axis in enumerate(data))
    return tuple(axis for a, axis in enumerate(data) if a not in reduced)


def along_axis(site: Site) -> Axes:
    """One axis is looked at as a whole, the others are not."""
    (data,) = site.axes
    if site.attrs.axis is None:
        return refuse(site)
    site.channels.fix(data[int(site.attrs.axis)])
    return _without(data, int(site.attrs.axis))


def _without(axes: Axes, axis: int) -> Axes:
    axis %= len(axes)
    return tuple(None if a == axis else value for a, value in enumerate(axes))


def normalization(site: Site) -> Axes:
    """Layer and RMS norm: what is normalized over stays."""
    data, *parameters = site.axes
    over = {int(a) % len(data) for a in site.attrs.axes}
    site.channels.fix_all(data[a] for a in over)
    for axes in parameters:
        site.channels.fix_all(axes)
    return tuple(None if a in over else axis for a, axis in enumerate(data))


def instance_normalization(site: Site) -> Axes:
    """Every channel is normalized by itself."""
    data, gamma, beta = site.axes
    channel = int(site.attrs.channel_axis) % len(data)
    if channel in {int(a) % len(data) for a in site.attrs.axes}:
        return refuse(site)
    site.fix_rest(0, but=[0, channel])
    joined = site.channels.unite(data[channel], site.channels.unite(gamma[0], beta[0]))
    return tuple(
        joined if a == channel else axis if a == 0 else None for a, axis in enumerate(data)
    )


def spatial(site: Site) -> Axes:
    """Pooling and resizing: every channel by itself."""
    (data, *rest) = site.axes
    if not str(site.attrs.layout).startswith("NC") or rest:
        return refuse(site)
    site.fix_rest(0, but=[0, 1])
    return (data[0], data[1], *[None] * (len(data) - 2))


def permute(site: Site) -> Axes:
    """Axes change places."""
    (data,) = site.axes
    order = site.attrs.axes
    order = reversed(range(len(data))) if order is None else [int(a) % len(data) for a in order]
    return tuple(data[a] for a in order)


def reshape(site: Site) -> Axes:
    """Axes are split and merged."""
    after = shape_of(site.call)
    if not after and site.axes[0]:
        return refuse(site)
    if site.prefer is None:  # The first round asks what either side would allow by itself.
        ones = [static_dim(dim) == 1 for dim in site.shape(0)]
        site.channels.fix_all(a for a, is_one in zip(site.axes[0], ones) if is_one)
        return full(site)
    return link(site.channels, site.shape(0), site.axes[0], after, site.prefer)


def full(site: Site) -> Axes:
    """One number everywhere, along any number of indices."""
    dims = map(static_dim, shape_of(site.call))
    return tuple(site.channels.new(n) if n is not None and n > 1 else None for n in dims)


def concat(site: Site) -> Axes:
    """Channels follow one another along one axis, and meet along the others."""
    axis = int(site.attrs.axis or 0) % len(site.axes[0])
    dims = [static_dim(site.shape(i)[axis]) for i in range(len(site.axes))]
    result: list[Axis] = []
    for a in range(len(site.axes[0])):
        parts = [axes[a] for axes in site.axes]
        if a != axis:
            joined = parts[0]
            for part in parts[1:]:
                joined = site.channels.unite(joined, part)
            result.append(joined)
        elif None in dims or all(part is None for part in parts):
            site.channels.fix_all(parts)
            result.append(None)
        else:
            result.append(np.concatenate([_known(site, p, d) for p, d in zip(parts, dims)]))
    return tuple(result)


def _known(site: Site, axis: Axis, count: int | None) -> np.ndarray:
    """An axis with numbers, also where nothing can be removed."""
    if axis is not None:
        return axis
    assert count is not None
    fixed = site.channels.new(count)
    site.channels.fix(fixed)
    return fixed


def strided_slice(site: Site) -> Axes:
    """A range of one axis; others pass."""
    numbers = [prims(arg) for arg in site.call.args[1:]]
    (data,) = site.axes
    if any(n is None for n in numbers):
        return refuse(site)
    result: list[Axis] = list(data)
    which, begins, ends, *steps = (n or [] for n in numbers)
    for axis, begin, end, step in zip(which, begins, ends, steps[0] if steps else [1] * len(which)):
        ids = result[axis]
        if ids is None:
            continue
        if step != 1:
            site.channels.fix(ids)
            result[axis] = None
        else:
            result[axis] = ids[slice(*slice(begin, end).indices(len(ids)))]
    return tuple(result)


def take(site: Site) -> Axes:
    """Rows of a table: the axis that is looked up stays."""
    data, indices = site.axes
    site.channels.fix_all(indices)
    if site.attrs.axis is None:
        return refuse(site)
    axis = int(site.attrs.axis) % len(data)
    site.channels.fix(data[axis])
    return (*data[:axis], *[None] * len(indices), *data[axis + 1 :])


def pad(site: Site) -> Axes:
    """Padding along an axis of channels adds channels that hold a constant."""
    (data,) = site.axes
    widths = [int(w) for w in site.attrs.pad_width]
    result: list[Axis] = []
    for axis, before, after in zip(data, widths[::2], widths[1::2]):
        if axis is None or (before == after == 0):
            result.append(axis)
        elif str(site.attrs.pad_mode) != "constant" or min(before, after) < 0:
            site.channels.fix(axis)
            result.append(None)
        else:
            new = site.channels.new
            result.append(np.concatenate([new(before), axis, new(after)]))
    return tuple(result)


def broadcast_to(site: Site) -> Axes:
    """Axes that are stretched are new and stay."""
    dims = shape_of(site.call)
    (data,) = site.axes
    result: list[Axis] = [None] * (len(dims) - len(data))
    for axis, before, after in zip(data, site.shape(0), dims[len(dims) - len(data) :]):
        same = static_dim(before) is not None and static_dim(before) == static_dim(after)
        if not same:
            site.channels.fix(axis)
        result.append(axis if same else None)
    return tuple(result)


_ELEMENTWISE = (
    "abs", "acos", "acosh", "add", "asin", "asinh", "astype", "atan", "atanh", "ceil", "clip",
    "cos", "cosh", "divide", "equal", "erf", "exp", "floor", "floor_divide", "floor_mod", "greater",
    "greater_equal", "isfinite", "isinf", "isnan", "less", "less_equal", "log", "log_add_exp",
    "logical_and", "logical_not", "logical_or", "logical_xor", "maximum", "minimum", "mod",
    "multiply", "negative", "nn.gelu", "nn.gelu_tanh", "nn.leakyrelu", "nn.relu", "nn.selu",
    "nn.silu", "nn.softplus", "not_equal", "power", "round", "rsqrt", "sigmoid", "sign", "sin",
    "sinh", "sqrt", "square", "subtract", "tan", "tanh", "trunc", "where",
)  # fmt: skip
_REDUCTIONS = ("max", "mean", "min", "prod", "std", "sum", "variance")
_POOLS = [f"nn.{kind}_pool{n}d" for kind in ("avg", "max", "adaptive_avg") for n in (1, 2, 3)]

RULES: dict[str, Rule] = {
    f"relax.{name}": rule
    for names, rule in (
        (_ELEMENTWISE, elementwise),
        (_REDUCTIONS, reduction),
        ([f"nn.conv{n}d" for n in (1, 2, 3)], convolution),
        ([f"nn.conv{n}d_transpose" for n in (1, 2, 3)], transposed_convolution),
        (["matmul"], matmul),
        (["nn.softmax", "nn.log_softmax", "cumsum"], along_axis),
        (["nn.layer_norm", "nn.rms_norm"], normalization),
        (["nn.instance_norm"], instance_normalization),
        (_POOLS, spatial),
        (["permute_dims"], permute),
        (["reshape", "flatten", "expand_dims", "squeeze", "nn.batch_flatten"], reshape),
        (["full"], full),
        (["concat"], concat),
        (["strided_slice"], strided_slice),
        (["take"], take),
        (["nn.pad"], pad),
        (["broadcast_to"], broadcast_to),
    )
    for name in names
}
