"""Decide which values are quantized, and mark them.

Before:                                  After:
    lv = R.nn.conv2d(x, w)                   q = marker(x, "activation", 0)
    gv = R.nn.relu(lv)                       q1 = marker(w, "weight", 0)
                                             lv = R.nn.conv2d(q, q1)
                                             gv = R.nn.relu(lv)

Marks: 1. both operands of every convolution (transposed or not) and product with a constant weight;
       2. what operators that only move numbers take, if what they give is marked: both then
          share one range (pooling by maximum, concatenation, reshapes);
       3. what averages of maps take, if what they give is marked and nothing else reads it as it
          was: each has a range of its own, because that of averages is narrower;
       4. the operands of a residual add of maps, but for one that the add can take straight from
          the accumulators of a convolution.
Leaves alone: nodes that the options exclude, products of two activations, everything else: it
reads the values as they were.
Must run after: canonicalization (batch norms change weights). Must run before: calibrate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tvm import IRModule, relax
from tvm.ir import GenericConst

from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_main
from relaxc.passes.fuse.outline import BindingGraph, operator_call
from relaxc.passes.quantize.exclusion import Exclusion, node_of, without_float_nodes
from relaxc.passes.quantize.marker import Marker

# Operator -> the axis of the weight's output channels.
ANCHORS = {
    "relax.nn.conv1d": 0,
    "relax.nn.conv2d": 0,
    "relax.nn.conv3d": 0,
    "relax.nn.conv2d_transpose": 1,
    "relax.matmul": 1,
}
_MOVES = frozenset(
    f"relax.{name}"
    for name in (
        *("concat", "expand_dims", "flatten", "permute_dims", "reshape", "squeeze"),
        *("nn.max_pool1d", "nn.max_pool2d", "nn.max_pool3d"),
    )
)
_AVERAGES = frozenset(("relax.mean", "relax.nn.avg_pool2d"))
# What a convolution's kernel computes on its accumulators anyhow.
_EPILOGUES = frozenset(f"relax.{name}" for name in ("add", "multiply", "clip", "nn.relu"))


@dataclass(frozen=True)
class AnnotateQuantization(Pass):
    """Mark the values that are to be quantized.

    Attributes:
        per_channel: whether weights get a scale per output channel.
        exclude: nodes that stay float: names, or regular expressions that match whole names.
        keep: told the float module, with which later passes compare, or which they quantize again.
    """

    per_channel: bool = True
    exclude: tuple[str, ...] = ()
    keep: Callable[[IRModule], None] = lambda _mod: None

    name: ClassVar[str] = "annotate-quantization"

    def apply(self, mod: IRModule) -> IRModule:
        """Annotate `main`.

        Raises:
            OptionError: what is excluded matches no node.
        """
        exclusion = Exclusion.of(mod, self.exclude)
        exclusion.check(mod)
        self.keep(mod)
        observers: dict[relax.Var, int] = {}

        def annotate(block: relax.BindingBlock) -> Sequence[relax.Binding]:
            if not isinstance(block, relax.DataflowBlock):
                return list(block.bindings)
            return _Annotator(self, exclusion, list(block.bindings), observers).rewrite()

        return rewrite_main(relax.BlockBuilder(without_float_nodes(mod)), annotate)

    def nodes(self, mod: IRModule) -> list[str]:
        """Nodes that are quantized: convolutions and products, not what moves their operands."""
        exclusion, blocks = Exclusion.of(mod, self.exclude), mod["main"].body.blocks
        return [
            node_of(binding)
            for block in blocks
            if isinstance(block, relax.DataflowBlock)
            for binding in block.bindings
            if _is_anchor(binding, exclusion)
        ]


class _Annotator:
    """Annotates one dataflow block."""

    def __init__(
        self,
        options: AnnotateQuantization,
        exclusion: Exclusion,
        bindings: list[relax.Binding],
        observers: dict[relax.Var, int],
    ) -> None:
        self.options = options
        self.bindings = bindings
        self.observers = observers
        self.graph = BindingGraph(bindings)
        self.anchors = {b.var for b in bindings if _is_anchor(b, exclusion)}
        # Those that stay float as well.
        self.products = {b.var for b in bindings if _is_anchor(b, Exclusion(()))}
        # Marked value -> the value whose observer it shares.
        self.marked: dict[relax.Var, relax.Var] = {}

    def rewrite(self) -> list[relax.Binding]:
        for binding in self.bindings:
            if binding.var in self.anchors:
                self._mark(binding.value.args[0])
        for binding in reversed(self.bindings):
            self._propagate(binding)
        return self._emit()

    def _mark(self, value: relax.Expr, like: relax.Var | None = None) -> None:
        if isinstance(value, relax.Var) and str(value.ty.dtype.dtype) == "float32":
            self.marked.setdefault(value, value)
            if like is not None:
                self.marked[self._root(value)] = self._root(like)

    def _root(self, var: relax.Var) -> relax.Var:
        while self.marked[var] is not var:
            var = self.marked[var]
        return var

    def _propagate(self, binding: relax.Binding) -> None:
        call = operator_call(binding)
        if call is None:
            return
        if call.op.name in _MOVES and binding.var in self.marked:  # 2.
            for value in _tensors(call):
                self._mark(value, like=binding.var)
        if self._is_average(binding, call):  # 3.
            self._mark(call.args[0])
        if self._is_residual(call):  # 4.
            waiting = [a for a in call.args if a not in self.marked]
            straight = [a for a in waiting if self._is_accumulated(a, self.products)]
            # The later one: the other has long been computed by then.
            kept = max(straight, key=lambda a: self.graph.index[a], default=None)
            for value in waiting:
                if value is not kept:
                    self._mark(value)

    def _is_average(self, binding: relax.Binding, call: relax.Call) -> bool:
        """Whether a binding averages what nobody reads as it was, for somebody who rounds it."""
        if call.op.name not in _AVERAGES or binding.var not in self.marked:
            return False
        index = self.graph.index.get(call.args[0])
        if index is None or call.args[0].ty.ndim != 4:
            return False
        alone = len(self.graph.users[index]) == 1 and not self.graph.leaves[index]
        return alone or call.args[0] in self.marked

    def _is_residual(self, call: relax.Call) -> bool:
        if call.op.name != "relax.add" or call.ty.ndim < 4:
            return False
        return all(
            isinstance(a, relax.Var) and a.ty.ndim == call.ty.ndim for a in call.args
        ) and any(a in self.marked or self._is_accumulated(a, self.anchors) for a in call.args)

    def _is_accumulated(self, value: relax.Expr, anchors: set[relax.Var]) -> bool:
        """Whether a value comes out of the epilogue of one of `anchors`, for one reader."""
        while value in self.graph.index:
            index = self.graph.index[value]
            if len(self.graph.users[index]) != 1 or self.graph.leaves[index]:
                return False
            if value in anchors:
                return True
            call = operator_call(self.bindings[index])
            if call is None or call.op.name not in _EPILOGUES:
                return False
            sources = [a for a in call.args if isinstance(a, relax.Var)]
            if len(sources) != 1:
                return False
            value = sources[0]
        return False

    def _emit(self) -> list[relax.Binding]:
        replaced: dict[relax.Var, relax.Var] = {}
        result: list[relax.Binding] = []
        outer = [v for v in self.marked if v not in self.graph.index]
        for var in outer:
            result.append(self._marker(var, replaced))
        for binding in self.bindings:
            result.extend(self._rewired(binding, replaced))
            if binding.var in self.marked:
                result.append(self._marker(binding.var, replaced))
        return result

    def _marker(self, var: relax.Var, replaced: dict[relax.Var, relax.Var]) -> relax.Binding:
        number = self.observers.setdefault(self._root(var), len(self.observers))
        replaced[var] = relax.DataflowVar(f"{var.name}.quantized", var.ty)
        return relax.VarBinding(replaced[var], Marker(var, "activation", number).as_call())

    def _rewired(
        self, binding: relax.Binding, replaced: dict[relax.Var, relax.Var]
    ) -> list[relax.Binding]:
        """The binding, reading marked values if it computes on integers."""
        call = operator_call(binding)
        if call is None:
            return [binding]
        before: list[relax.Binding] = []
        args = list(call.args)
        if binding.var in self.anchors:
            axis = ANCHORS[call.op.name] if self.options.per_channel else -1
            weight = relax.DataflowVar(f"{binding.var.name}.weight", args[1].ty)
            before = [relax.VarBinding(weight, Marker(args[1], "weight", axis).as_call())]
            args[1] = weight
        elif not (
            (call.op.name in _MOVES and binding.var in self.marked)
            or self._is_average(binding, call)
            or self._is_residual(call)
        ):
            return [binding]
        args = [_substitute(arg, replaced) for arg in args]
        rewired = relax.Call(call.op, args, call.attrs, call.ty_args, call.span)
        # The type is the old one: markers are identities.
        return [*before, relax.VarBinding(binding.var, relax.BlockBuilder().normalize(rewired))]


def _is_anchor(binding: relax.Binding, exclusion: Exclusion) -> bool:
    call = operator_call(binding)
    if call is None or call.op.name not in ANCHORS:
        return False
    data, weight = call.args
    if not isinstance(weight, GenericConst) or not isinstance(data, relax.Var):
        return False
    if str(data.ty.dtype.dtype) != "float32" or str(weight.ty.dtype.dtype) != "float32":
        return False
    if call.op.name == "relax.matmul" and weight.ty.ndim != 2:
        return False
    # The axis of output channels is that of one group.
    if call.op.name == "relax.nn.conv2d_transpose" and int(call.attrs.groups) > 1:
        return False
    return not exclusion.has(node_of(binding))


def _tensors(call: relax.Call) -> list[relax.Expr]:
    flat: list[relax.Expr] = []
    for arg in call.args:
        flat.extend(arg.fields if isinstance(arg, relax.Tuple) else [arg])
    return [a for a in flat if isinstance(a.ty, relax.TensorType)]


def _substitute(arg: relax.Expr, replaced: dict[relax.Var, relax.Var]) -> relax.Expr:
    if isinstance(arg, relax.Tuple):
        return relax.Tuple([_substitute(field, replaced) for field in arg.fields])
    return replaced.get(arg, arg) if isinstance(arg, relax.Var) else arg
