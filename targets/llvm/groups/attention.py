"""Attention groups: what the products read and write, and what happens to the scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from relaxc.layout import ATTENTION, PLAIN, Demand, Element, Layout
from relaxc.targets.llvm.groups.base import Group, GroupKernel
from relaxc.targets.llvm.kernels import attention
from relaxc.targets.llvm.kernels.arithmetic import BFLOAT16, FLOAT32
from relaxc.targets.llvm.kernels.attention_operands import AttentionSpec, Heads, has_groups
from relaxc.targets.llvm.kernels.builder import Buffer, Expr, Index, KernelBuilder
from relaxc.targets.llvm.kernels.domain import Domain, RowDomain
from relaxc.targets.llvm.kernels.elementwise import OPERATORS, apply_operator, scalar_value
from relaxc.targets.llvm.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.strided import Strided, resolve, row_major, static_shape
from relaxc.targets.llvm.machine import Machine
from relaxc.targets.tuning.task import Choice


@dataclass(frozen=True)
class AttentionGroup:
    """An attention group, taken apart.

    Attributes:
        spec: the sizes.
        q, k, v: views of the group's parameters, as (batch, head, position, depth).
        scores: variable of the first product.
        chain: what happens to the scores, in order; reshapes included.
        out_strides: of the result, per batch, head, query and element.
    """

    spec: AttentionSpec
    q: Strided
    k: Strided
    v: Strided
    scores: relax.Var
    chain: tuple[tuple[relax.Var, relax.Call], ...]
    out_strides: tuple[int, int, int, int]

    @property
    def has_pairs(self) -> bool:
        """Whether queries and keys can be multiplied in pairs along the depth."""
        views = (self.q, self.k)
        return self.spec.depth % 2 == 0 and all(has_groups(v.strides, v.offset, 2) for v in views)

    @staticmethod
    def of(func: relax.Function, joins: bool = False) -> AttentionGroup | None:
        """Take a group apart; None if a view would have to copy or a size is not known.

        Args:
            func: the group.
            joins: whether keys and values may be views of a concatenation in the group.
        """
        bindings = [(b.var, b.value) for block in func.body.blocks for b in block.bindings]
        producers = dict(bindings)
        products = [i for i, (_, c) in enumerate(bindings) if str(c.op.name) == "relax.matmul"]
        soft = next(i for i, (_, c) in enumerate(bindings) if str(c.op.name) == "relax.nn.softmax")
        if len(products) != 2:
            return None
        first, second = products
        product, output = bindings[first][1], bindings[second][1]
        q, kt, v = (resolve(e, producers, joins) for e in (*product.args, output.args[1]))
        strides = _out_strides([c for _, c in bindings[second + 1 :]], output)
        if q is None or kt is None or v is None or strides is None:
            return None
        k = Strided(kt.base, _swap(kt.shape), _swap(kt.strides), kt.offset, kt.scale)
        heads = {q.shape[:2], k.shape[:2], v.shape[:2]}
        if len(heads) != 1 or v.strides[3] not in (0, 1) or strides[3] != 1 or v.scale != 1.0:
            return None
        chain = _score_chain(bindings, first, soft)
        (batch, head) = heads.pop()
        spec = AttentionSpec(batch, head, q.shape[2], k.shape[2], q.shape[3], v.shape[3])
        return AttentionGroup(spec, q, k, v, bindings[first][0], chain, strides)


def _swap(values: tuple[int, ...]) -> tuple[int, ...]:
    return (*values[:2], values[3], values[2])


def _score_chain(
    bindings: list[tuple[relax.Var, relax.Call]], first: int, soft: int
) -> tuple[tuple[relax.Var, relax.Call], ...]:
    """The bindings between product and softmax that depend on the product."""
    known = {bindings[first][0]}
    chain = []
    for var, call in bindings[first + 1 : soft]:
        if any(arg in known for arg in call.args if isinstance(arg, relax.Var)):
            known.add(var)
            chain.append((var, call))
    return tuple(chain)


def _out_strides(after: list[relax.Call], output: relax.Call) -> tuple[int, int, int, int] | None:
    """Where element (batch, head, query, depth) of the product lies in the group's result."""
    shape = static_shape(output)
    if shape is None:
        return None
    order = list(range(4))
    for call in after:
        axes = call.attrs.axes
        order = [order[int(a)] for a in axes] if axes is not None else order[::-1]
    strides = row_major([shape[a] for a in order])
    placed = [strides[order.index(axis)] for axis in range(4)]
    return placed[0], placed[1], placed[2], placed[3]


def is_score_operator(call: relax.Call) -> bool:
    """Whether an operator can be computed on the scores in registers."""
    op = str(call.op.name)
    shape = static_shape(call)
    if op not in OPERATORS or shape is None or len(shape) not in (4, 5):
        return False
    return all(
        str(a.ty.dtype.dtype) == "float32" and static_shape(a) is not None
        for a in call.args
        if isinstance(a.ty, relax.TensorType)
    )


def has_attention(func: relax.Function) -> bool:
    """Whether a group has a kernel."""
    return AttentionGroup.of(func) is not None


def demands(func: relax.Function) -> list[Demand]:
    """Attention reads plain tensors."""
    return [Demand(("plain",)) for _ in func.params]


def elements(func: relax.Function) -> list[Element | None]:
    """Queries, keys and values as bfloat16, where they can be multiplied in pairs."""
    group = AttentionGroup.of(func)
    if group is None or not group.has_pairs:
        return [None] * len(func.params)
    bases = (group.q.base, group.k.base, group.v.base)
    return ["bfloat16" if any(p.same_as(b) for b in bases) else None for p in func.params]


class Attention(GroupKernel):
    """What tuning has a say in; grouping and layouts of attention are matters of their own."""

    name = ATTENTION
    is_product = True
    # Bumped whenever a field of a tile comes to mean other code.
    space_version = 1

    def anchors(self, call: relax.Call, machine: Machine) -> bool:
        """No single operator is attention."""
        return False

    def domain(self, shape: Sequence[Any]) -> Domain:
        """The result is plain."""
        return RowDomain(tuple(shape))

    def demands(self, group: Group, data: Layout, machine: Machine) -> list[Demand]:
        """Attention reads plain tensors."""
        return demands(group.func)

    def workload(self, group: Group, machine: Machine) -> dict[str, Any] | None:
        """The sizes, and what happens to the scores."""
        parts = _of(group.func)
        chain = [str(call.op.name).removeprefix("relax.") for _, call in parts.chain]
        stored = {group.element(param) for param in group.func.params[:1]}
        fields = {**asdict(parts.spec), "element": stored.pop()}
        return {"kernel": self.name, **fields, "epilogue": chain}

    def space(self, group: Group, machine: Machine) -> list[Choice]:
        """Tiles that spill nothing."""
        parts, lanes = _of(group.func), machine.lanes
        bases = (parts.q.base, parts.k.base, parts.v.base)
        is_paired = parts.has_pairs and all(
            group.element(p) == "bfloat16" for p in group.func.params if any(map(p.same_as, bases))
        )
        arithmetic = BFLOAT16 if is_paired else FLOAT32
        first = attention.choose_tile(parts.spec, lanes)
        tiles = attention.tiles(parts.spec, lanes, machine.registers, arithmetic)
        return [asdict(tile) for tile in dict.fromkeys([first, *tiles])]

    def lower(self, group: Group, layouts: Sequence[Layout], machine: Machine) -> Kernel:
        """Write the kernel."""
        tile = attention.choose_tile(_of(group.func).spec, machine.lanes)
        if group.choice is not None:
            tile = attention.AttentionTile(**group.choice)  # type: ignore[arg-type]
        return _lower(group.func, tile, layouts, machine)


def _of(func: relax.Function) -> AttentionGroup:
    group = AttentionGroup.of(func)
    assert group is not None, "has_attention() admits no other groups"
    return group


def _lower(
    func: relax.Function,
    tile: attention.AttentionTile,
    layouts: Sequence[Layout],
    machine: Machine,
) -> Kernel:
    group = _of(func)
    assert all(layout.same_memory(PLAIN) for layout in layouts)
    b = KernelBuilder("attention", machine.lanes)
    buffers: dict[relax.Expr, Buffer] = {}
    for i, (param, layout) in enumerate(zip(func.params, layouts)):
        buffers[param] = b.param(f"x{i}", list(param.ty.shape.values), layout.element)
    constants: list[np.ndarray] = []

    def buffer_of(expr: relax.Expr) -> Buffer:
        for known, buffer in buffers.items():
            if known.same_as(expr):
                return buffer
        assert isinstance(expr, GenericConst), "operands are parameters or constants"
        array = np.ascontiguousarray(expr.value.numpy(), np.float32)
        constants.append(array)
        buffers[expr] = b.param(f"c{len(constants)}", array.shape)
        return buffers[expr]

    operands = [
        arg
        for _, call in group.chain
        for arg in call.args
        if isinstance(arg.ty, relax.TensorType) and scalar_value(arg) is None
    ]
    inner = {group.scores, *(var for var, _ in group.chain)}
    for expr in (
        group.q.base,
        group.k.base,
        group.v.base,
        *(o for o in operands if o not in inner),
    ):
        buffer_of(expr)
    y = b.param("y", list(func.ret_ty.shape.values), layouts[-1].element)

    def heads(view: Strided) -> Heads:
        s = view.strides
        return Heads(buffer_of(view.base), (s[0], s[1], s[2], s[3]), view.offset)

    epilogue = _ScoreEpilogue(b, group, buffer_of)
    out = Heads(y, group.out_strides, 0)
    q, k, v = heads(group.q), heads(group.k), heads(group.v)
    paired = group.has_pairs and all(view.buffer.is_bfloat16 for view in (q, k, v))
    arithmetic = BFLOAT16 if paired else FLOAT32
    attention.emit(b, group.spec, tile, q, k, v, out, epilogue, arithmetic)
    return Kernel("attention", b.finish(), constants)


class _ScoreEpilogue:
    """Computes the chain on a vector of scores of one query."""

    def __init__(self, b: KernelBuilder, group: AttentionGroup, buffer_of: object) -> None:
        self.b, self.group, self.buffer_of = b, group, buffer_of

    def __call__(
        self, value: Expr, batch: Index, head: Index, query: Index, key: Index, count: int
    ) -> Expr:
        b, group, spec = self.b, self.group, self.group.spec
        scale = group.q.scale * group.k.scale
        if scale != 1.0:
            value = b.let(value * b.splat(scale))
        known: dict[relax.Expr, Expr] = {group.scores: value}
        result = value
        for var, call in group.chain:
            if str(call.op.name) == "relax.reshape":
                known[var] = result = known[call.args[0]]
                continue
            shape = static_shape(call)
            assert shape is not None

            def read(arg: relax.Expr, shape: tuple[int, ...] = shape) -> Expr:
                if arg in known:
                    return known[arg]
                scalar = scalar_value(arg)
                if scalar is not None:
                    return b.splat(scalar)
                return self._load(arg, shape, batch * spec.heads + head, query, key, count)

            known[var] = result = b.let(apply_operator(call, read))
        return result

    def _load(
        self,
        arg: relax.Expr,
        shape: tuple[int, ...],
        problem: Index,
        query: Index,
        key: Index,
        count: int,
    ) -> Expr:
        """A mask or bias, broadcast to `shape`, whose last two dimensions are query and key."""
        b = self.b
        own = static_shape(arg)
        assert own is not None
        padded = (1,) * (len(shape) - len(own)) + own
        strides = [s if n > 1 else 0 for n, s in zip(padded, row_major(padded))]
        at: Index = query * strides[-2] + key * strides[-1]
        rest = problem
        for axis in range(len(shape) - 3, -1, -1):
            if strides[axis]:
                position = rest % shape[axis] if axis else rest
                at = at + position * strides[axis]
            rest = rest // shape[axis]
        buffer = self.buffer_of(arg)  # type: ignore[operator]
        if strides[-1] == 0:
            return b.broadcast(buffer, at)
        return b.load_partial(buffer, at, count)
