"""Decide which tensors of a model are divided among GPUs, and along which axis.

Products with constant matrices begin and end the divided parts. One of whole rows may be divided by
columns; what follows is divided likewise, operator by operator; one whose data are divided along
the axis that it sums is divided by rows, and its partial sums are added up. Heads of attention are
no notion of their own: a reshape of divided columns into heads divides the heads.

Where an operator cannot work on a part alone, the products that its operands come from stay whole,
and everything is decided again without them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import tvm
from tvm import relax
from tvm.ir import GenericConst

from relaxc.errors import OptionError
from relaxc.passes.shard.operator_axes import RULES, Stuck

_NO_REASON = "no product with constant weights leads there"


@dataclass
class Placement:
    """What is divided.

    Attributes:
        ranks: among how many GPUs.
        axes: variables, also parameters, that are divided, and along which axis.
        constants: a binding's variable and the position of an argument (of a field, where the
            argument is a tuple) -> the axis along which that constant is divided.
        rows: products whose results are partial sums.
    """

    ranks: int
    axes: dict[relax.Var, int] = field(default_factory=dict)
    constants: dict[tuple[relax.Var, int], int] = field(default_factory=dict)
    rows: set[relax.Var] = field(default_factory=set)


def place(main: relax.Function, ranks: int) -> Placement:
    """Divide as much of a function as can be.

    Raises:
        OptionError: nothing can be divided, or an attention cannot.
    """
    refused: dict[relax.Var, str] = {}
    inputs: dict[relax.Var, tuple[int, frozenset[relax.Var]]] = {}
    while True:
        trial = _Trial(main, ranks, refused, inputs)
        trial.run()
        if not trial.is_to_be_repeated:
            break
        inputs = {p: (a, s) for p, (a, s) in inputs.items() if not s & set(refused)}
    _require_attention(main, trial.placement, refused)
    if not trial.placement.rows:
        reason = next(iter(refused.values()), "no product with constant weights follows another")
        raise OptionError(
            f"nothing in this model can be divided among {ranks} GPUs as the layers of "
            f"transformers can: {reason}; compile it for one GPU"
        )
    return trial.placement


class _Trial:
    """One walk through a function, with what is known of what must stay whole."""

    def __init__(
        self,
        main: relax.Function,
        ranks: int,
        refused: dict[relax.Var, str],
        inputs: dict[relax.Var, tuple[int, frozenset[relax.Var]]],
    ) -> None:
        self.is_to_be_repeated = False
        self.placement = Placement(ranks)
        self._main = main
        self._refused = refused
        self._inputs = inputs
        self._sources: dict[relax.Var, frozenset[relax.Var]] = {}
        self._producers = {b.var: b.value for b in bindings(main)}
        self._params = set(main.params)
        self._binding: relax.Var
        self._wanting: frozenset[relax.Var] = frozenset()
        for param, (axis, sources) in inputs.items():
            self.placement.axes[param] = axis
            self._sources[param] = sources

    @property
    def ranks(self) -> int:
        return self.placement.ranks

    def run(self) -> None:
        for binding in bindings(self._main):
            self._binding, value = binding.var, binding.value
            used = [v for v in _variables(value) if v in self.placement.axes]
            self._wanting = frozenset().union(*(self._sources[v] for v in used))
            try:
                axis = self._result(binding, bool(used))
            except Stuck as err:
                self.is_to_be_repeated = True
                for source in self._wanting:
                    self._refused.setdefault(source, str(err))
                continue
            if axis is not None:
                self.placement.axes[binding.var] = axis
                self._sources[binding.var] = self._wanting

    def _result(self, binding: relax.Binding, is_divided: bool) -> int | None:
        value = binding.value
        if isinstance(value, relax.Var):
            return self.axis(value)
        if isinstance(value, relax.TupleGetItem):
            return self.axis(value.tuple_value)
        if isinstance(value, relax.Tuple):
            # The function's results may each be divided, or not.
            if is_divided and not binding.var.same_as(self._main.body.body):
                raise Stuck("a tuple of several values")
            return None
        if not isinstance(value, relax.Call) or not isinstance(value.op, tvm.ir.Op):
            if is_divided:
                raise Stuck("a value that is no operator's")
            return None
        name = str(value.op.name)
        if name == "relax.matmul" and is_weight(value.args[1]):
            return self._product(value)
        if not is_divided:
            return None
        if isinstance(binding, relax.MatchCast) or name not in RULES:
            raise Stuck(f"`{name.removeprefix('relax.')}` works on whole tensors only")
        return RULES[name](self, value)

    def _product(self, call: relax.Call) -> int | None:
        data, (depth, columns) = call.args[0], map(int, call.args[1].ty.shape.values)
        axis = self.axis(data)
        rank = int(data.ty.ndim)
        if axis is None:
            if rank < 2 or self._binding in self._refused:
                return None
            if columns % self.ranks:
                self._refused[self._binding] = f"{columns} columns are no multiple of {self.ranks}"
                return None
            self._wanting = frozenset({self._binding})
            self.placement.constants[self._binding, 1] = 1
            return int(call.ty.ndim) - 1
        if axis != rank - 1:
            return axis
        assert depth % self.ranks == 0, "divided axes are multiples"
        self.placement.constants[self._binding, 1] = 0
        self.placement.rows.add(self._binding)
        return None

    def axis(self, expr: relax.Expr) -> int | None:
        return self.placement.axes.get(expr) if isinstance(expr, relax.Var) else None

    def want(self, expr: relax.Expr, axis: int, position: int) -> None:
        """Have an operand divided that is whole as yet."""
        if isinstance(expr, GenericConst):
            self.placement.constants[self._binding, position] = axis
        elif isinstance(expr, relax.Var):
            self._want_variable(expr, axis)
        else:
            raise Stuck("an operand is neither a tensor nor a constant")

    def _want_variable(self, var: relax.Var, axis: int) -> None:
        if var in self._params:
            if self._inputs.setdefault(var, (axis, self._wanting))[0] != axis:
                raise Stuck(f"input `{var.name}` would have to be divided along two axes")
            self.is_to_be_repeated = True
            return
        value = self._producers[var]
        name = str(getattr(getattr(value, "op", None), "name", ""))
        if name not in RULES or len(_variables(value)) != 1:
            raise Stuck(f"`{var.name}`, which all GPUs compute, would have to be divided")
        source = value.args[0]
        rank = int(source.ty.ndim)
        # The axis of the operand for which the operator would give the one wanted.
        for before in range(rank):
            probe = _Probe(self.ranks, source, before)
            try:
                found = RULES[name](probe, value)
            except Stuck:
                continue
            if found == axis and _divides(source, before, self.ranks):
                self._want_variable(source, before)
                return
        raise Stuck(f"`{var.name}`, which all GPUs compute, would have to be divided")


@dataclass
class _Probe:
    """What an operator makes of one divided operand."""

    ranks: int
    operand: relax.Expr
    its_axis: int

    def axis(self, expr: relax.Expr) -> int | None:
        return self.its_axis if expr.same_as(self.operand) else None

    def want(self, expr: relax.Expr, axis: int, position: int) -> None:
        raise Stuck("another operand would have to be divided")


def _divides(expr: relax.Expr, axis: int, ranks: int) -> bool:
    return int(expr.ty.shape.values[axis]) % ranks == 0


def bindings(main: relax.Function) -> Iterator[relax.Binding]:
    """All of a function's, in order."""
    for block in main.body.blocks:
        yield from block.bindings


def is_weight(expr: relax.Expr) -> bool:
    """Whether an operand is a constant matrix."""
    return isinstance(expr, GenericConst) and int(expr.ty.ndim) == 2


def _variables(value: relax.Expr) -> list[relax.Var]:
    return list(relax.analysis.free_vars(value))


def _require_attention(
    main: relax.Function, placement: Placement, refused: dict[relax.Var, str]
) -> None:
    """Refuse to leave an attention whole: it is most of what was to be divided.

    Raises:
        OptionError: one is.
    """
    producers = {b.var: b.value for b in bindings(main)}
    for binding in bindings(main):
        call = binding.value
        if str(getattr(getattr(call, "op", None), "name", "")) != "relax.nn.softmax":
            continue
        if binding.var in placement.axes or not _follows_scores(call.args[0], producers):
            continue
        reason = next(
            (refused[v] for v in _ancestors(binding.var, producers) if v in refused), _NO_REASON
        )
        raise OptionError(
            f"the attention of `{binding.var.name}` cannot be divided among {placement.ranks} "
            f"GPUs: {reason}; use another number of GPUs, or compile for one"
        )


def _follows_scores(expr: relax.Expr, producers: dict[relax.Var, relax.Expr]) -> bool:
    """Whether a value is the product of two tensors, scaled and masked."""
    for _ in range(8):
        call = producers.get(expr) if isinstance(expr, relax.Var) else None
        if not isinstance(call, relax.Call) or not call.args:
            return False
        if str(getattr(call.op, "name", "")) == "relax.matmul":
            return all(isinstance(arg, relax.Var) for arg in call.args)
        wide = [a for a in call.args if isinstance(a, relax.Var) and _size(a) == _size(call)]
        if not wide:
            return False
        expr = next((a for a in wide if isinstance(producers.get(a), relax.Call)), wide[0])
    return False


def _size(expr: relax.Expr) -> int:
    ty = expr.ty
    return math.prod(map(int, ty.shape.values)) if isinstance(ty, relax.TensorType) else 0


def _ancestors(var: relax.Var, producers: dict[relax.Var, relax.Expr]) -> Iterator[relax.Var]:
    """What a value is computed from, the nearest first."""
    seen, queue = {var}, [var]
    for item in queue:
        if item in producers:
            yield item
            fresh = [v for v in _variables(producers[item]) if v not in seen]
            seen.update(fresh)
            queue += fresh
