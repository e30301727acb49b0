"""One step of training as a module: how far a student is from its teacher, and which way to go.

Before:                                  After:
    def main(x):                             def main(x, w, t):
        gv = R.matmul(x, const)                  lv = R.matmul(x, w)
                                                 loss = mean(square(lv - t)) / mean(square(t))
                                                 return loss, d loss / d w

Of outputs that are scores of classes, the loss is how far the probabilities that follow from them
are from the teacher's: the divergence of Kullback and Leibler (Hinton et al., 2015).

Weights become parameters; what the teacher computes for the same inputs comes in as `t`. The
derivative is that of `relax.transform.Gradient`, with the operators of gradients.py. What is
rounded to integers stays so (straight_through.py).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import IRModule, relax
from tvm.ir import GenericConst

from relaxc.errors import OptionError
from relaxc.passes.blocks import substitute
from relaxc.passes.prune.gradients import has_gradient
from relaxc.passes.prune.operands import tensor_operands, with_operands
from relaxc.passes.prune.segments import bindings_of, with_new_variables
from relaxc.passes.prune.straight_through import RoundedWeight, rounded_data

# Where weights are found; what else is constant, such as a mask or an epsilon, stays.
_TRAINED = ("relax.nn.conv2d", "relax.matmul", "relax.add")
# Values in the middle of the model count this much beside its outputs, all together.
_FEATURES_COUNT = 0.5
# No bias and no weight is as large; masks of attention are.
_LARGEST = 1e4

Place = tuple[int, int]


@dataclass(frozen=True)
class Step:
    """A step of training.

    Attributes:
        mod: `main` takes inputs, weights and the teacher's values, and gives the loss and its
            derivative by every weight.
        places: (binding, operand) of every weight; of one that is stored as integers, where it
            becomes real numbers.
        weights: as they are now.
        rounded: how each is shown; None: as it is.
    """

    mod: IRModule
    places: tuple[Place, ...]
    weights: tuple[np.ndarray, ...]
    rounded: tuple[RoundedWeight | None, ...]


def training_step(
    student: IRModule,
    outputs: Sequence[int],
    features: Sequence[int],
    logits: Collection[int] = (),
) -> Step:
    """The step of a student of static shapes.

    Args:
        student: its bindings form one block.
        outputs: which bindings are the model's results.
        features: which ones are to be as the teacher has them, too.
        logits: which outputs are scores of classes, along the last axis.

    Raises:
        OptionError: an operator has no gradient, or nothing can be trained.
    """
    student = with_new_variables(student)
    main = student["main"]
    bindings = bindings_of(student)
    watched = [*outputs, *features]
    places = _places(bindings)
    if not places:
        raise OptionError("distillation finds no weights of convolutions and products to train")
    trained = {index for index, _ in places}
    data = rounded_data(bindings)
    sources: dict[relax.Var, relax.Var | None] = {v: found.value for v, found in data.items()}
    sources |= {b.var: None for b in bindings if RoundedWeight.of(b.value) is not None}
    require_gradients(
        bindings, trained, set(watched), "distillation", "use `--recover` without it", sources
    )
    still = held(bindings, trained)
    weights: list[np.ndarray] = []
    rounded: list[RoundedWeight | None] = []
    params: list[relax.Var] = []
    replaced: dict[int, dict[int, relax.Var]] = {}
    for index, operand in places:
        stored = RoundedWeight.of(bindings[index].value)
        constant = tensor_operands(bindings[index].value)[operand].value.numpy()
        array = np.array(constant) if stored is None else stored.values()
        rounded.append(stored)
        param = relax.Var(f"weight{len(params)}", relax.TensorType(array.shape, "float32"))
        weights.append(array)
        params.append(param)
        replaced.setdefault(index, {})[operand] = param
    targets = [relax.Var(f"target{i}", bindings[w].var.ty) for i, w in enumerate(watched)]
    builder = relax.BlockBuilder(student)
    inner: dict[relax.Var, relax.Var] = {}
    with builder.function("step", [*main.params, *params, *targets]):
        with builder.dataflow():
            for index, binding in enumerate(bindings):
                if RoundedWeight.of(binding.value) is not None and index in replaced:
                    inner[binding.var] = replaced[index][0]
                    continue
                value = substitute(binding.value, inner)
                if binding.var in data:
                    source = data[binding.var].value
                    value = data[binding.var].shown(builder, inner.get(source, source))
                if index in replaced:
                    operands = tensor_operands(value)
                    for operand, param in replaced[index].items():
                        operands[operand] = param
                    args = with_operands(value, operands)
                    value = relax.Call(value.op, args, value.attrs, value.ty_args)
                inner[binding.var] = builder.emit(value, binding.var.name)
                if binding.var in still:
                    inner[binding.var] = builder.emit(relax.op.grad.no_grad(inner[binding.var]))
            found = [inner[bindings[w].var] for w in watched]
            are_scores = [w in logits for w in outputs]
            loss = builder.emit_output(_loss(builder, found, targets, are_scores))
        builder.emit_func_output(loss)
    mod = builder.get()
    mod = relax.transform.Gradient("step", require_grads=params)(mod)
    return Step(flattened(mod), tuple(places), tuple(weights), tuple(rounded))


def _loss(
    builder: relax.BlockBuilder,
    found: Sequence[relax.Var],
    targets: Sequence[relax.Var],
    are_scores: Sequence[bool],
) -> relax.Expr:
    op, outputs = relax.op, len(are_scores)
    total: relax.Expr | None = None
    # Every number counts alike: caches beside the scores of a language model are many, but small.
    sizes = [math.prod(int(d) for d in v.ty.shape.values) for v in found[:outputs]]
    for number, (value, target) in enumerate(zip(found, targets, strict=True)):
        is_output = number < outputs
        if is_output:
            share = sizes[number] / max(sum(sizes), 1)
        else:
            share = _FEATURES_COUNT / (len(found) - outputs)
        compare = _divergence if is_output and are_scores[number] else _distance
        part = compare(builder, value, target)
        part = builder.emit(op.multiply(part, relax.const(share, "float32")))
        total = part if total is None else builder.emit(op.add(total, part))
    assert total is not None
    return total


def _distance(builder: relax.BlockBuilder, value: relax.Var, target: relax.Var) -> relax.Expr:
    """The mean square of the differences, relative to that of the teacher's numbers."""
    op = relax.op
    error = builder.emit(op.subtract(value, target))
    error = builder.emit(op.mean(builder.emit(op.multiply(error, error))))
    energy = builder.emit(op.mean(builder.emit(op.multiply(target, target))))
    energy = builder.emit(op.add(energy, relax.const(1e-12, "float32")))
    return builder.emit(op.divide(error, energy))


def _divergence(builder: relax.BlockBuilder, value: relax.Var, target: relax.Var) -> relax.Expr:
    """What coding by the student's probabilities costs more than by the teacher's: nats a row."""
    op = relax.op
    wanted = builder.emit(op.nn.softmax(target, axis=-1))
    lost = builder.emit(
        op.subtract(
            builder.emit(op.nn.log_softmax(target, axis=-1)),
            builder.emit(op.nn.log_softmax(value, axis=-1)),
        )
    )
    each = builder.emit(op.sum(builder.emit(op.multiply(wanted, lost)), axis=-1))
    return builder.emit(op.mean(each))


def _places(bindings: Sequence[relax.Binding]) -> list[Place]:
    found = []
    for index, binding in enumerate(bindings):
        call = binding.value
        if RoundedWeight.of(call) is not None:
            found.append((index, 0))
        if not isinstance(call, relax.Call) or str(getattr(call.op, "name", "")) not in _TRAINED:
            continue
        for number, operand in enumerate(tensor_operands(call)):
            if isinstance(operand, GenericConst) and _is_weight(operand):
                found.append((index, number))
    return found


def _is_weight(const: GenericConst) -> bool:
    if str(const.ty.dtype.dtype) != "float32":
        return False
    array = const.value.numpy()
    return array.size > 1 and bool(np.all(np.abs(array) < _LARGEST))


def require_gradients(
    bindings: Sequence[relax.Binding],
    trained: set[int],
    watched: set[int],
    who: str,
    instead: str = "use another one",
    through: Mapping[relax.Var, relax.Var | None] = {},
) -> None:
    """Only what lies between a weight and a watched value is differentiated.

    Args:
        bindings: of the module, in order.
        trained: which of them read what derivatives are asked for.
        watched: which of them the derivatives are of.
        who: asks for them.
        instead: what to do where they are not known.
        through: values whose derivative is known beforehand -> what they are made of; None: they
            are weights.

    Raises:
        OptionError: an operator between them has none.
    """
    moving = _moving(bindings, trained)
    on_the_way: set[relax.Var] = {bindings[w].var for w in watched}
    for binding in reversed(bindings):
        if binding.var not in on_the_way or binding.var not in moving:
            continue
        if binding.var in through:
            if (source := through[binding.var]) is not None:
                on_the_way.add(source)
            continue
        on_the_way.update(relax.analysis.free_vars(binding.value))
        call = binding.value
        if not isinstance(call, relax.Call):
            continue
        name = str(getattr(call.op, "name", "a function"))
        if not isinstance(call.op, tvm.ir.Op) or not has_gradient(name):
            raise OptionError(
                f"{who} needs the derivative of `{name}` (node `{binding.var.name}`), "
                f"which is not known here; {instead}"
            )


def _moving(bindings: Sequence[relax.Binding], trained: set[int]) -> set[relax.Var]:
    """What depends on a weight."""
    moving: set[relax.Var] = set()
    for index, binding in enumerate(bindings):
        read = relax.analysis.free_vars(binding.value)
        if index in trained or any(var in moving for var in read):
            moving.add(binding.var)
    return moving


def held(bindings: Sequence[relax.Binding], trained: set[int]) -> set[relax.Var]:
    """Values that depend on no weight, beside one that does: derivatives end there.

    `Gradient` would go on to the inputs, through operators that need have no derivative.
    """
    moving = _moving(bindings, trained)
    read = {v for b in bindings if b.var in moving for v in relax.analysis.free_vars(b.value)}
    return {
        b.var
        for b in bindings
        if b.var in read - moving
        and isinstance(b.var.ty, relax.TensorType)
        and str(b.var.ty.dtype.dtype) == "float32"
    }


def flattened(mod: IRModule) -> IRModule:
    """The adjoint as `main`, with one tuple of the loss and all derivatives."""
    adjoint = mod["step_adjoint"]
    fields: list[relax.Expr] = []
    bound = {b.var: b.value for block in adjoint.body.blocks for b in block.bindings}

    def add(expr: relax.Expr) -> None:
        value = bound.get(expr) if isinstance(expr, relax.Var) else expr
        if isinstance(value, relax.Tuple):
            for field in value.fields:
                add(field)
        else:
            fields.append(expr)

    add(adjoint.body.body)
    result = relax.Tuple(fields)
    body = relax.BlockBuilder().normalize(relax.SeqExpr(adjoint.body.blocks, result))
    function = relax.Function(adjoint.params, body, body.ty).with_attr("global_symbol", "main")
    out = IRModule({gv: f for gv, f in mod.functions_items() if not isinstance(f, relax.Function)})
    out["main"] = function
    return relax.transform.DeadCodeElimination()(out)


def with_weights(mod: IRModule, places: Sequence[Place], weights: Sequence[np.ndarray]) -> IRModule:
    """The module with other weights in some places."""
    main = mod["main"]
    new: dict[int, dict[int, np.ndarray]] = {}
    for (index, operand), weight in zip(places, weights, strict=True):
        new.setdefault(index, {})[operand] = weight
    blocks, index = [], 0
    for block in main.body.blocks:
        bindings = []
        for binding in block.bindings:
            if index in new:
                call = binding.value
                operands, stored = tensor_operands(call), RoundedWeight.of(call)
                for operand, weight in new[index].items():
                    value = weight if stored is None else stored.nearest(weight)
                    array = np.ascontiguousarray(value)
                    operands[operand] = relax.const(array, array.dtype.name)
                args = with_operands(call, operands)
                value = relax.Call(call.op, args, call.attrs, call.ty_args)
                binding = relax.VarBinding(binding.var, relax.BlockBuilder().normalize(value))
            bindings.append(binding)
            index += 1
        blocks.append(type(block)(bindings))
    body = relax.BlockBuilder().normalize(relax.SeqExpr(blocks, main.body.body))
    out = mod.clone()
    out["main"] = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs)
    return out
