"""How far each quantized layer is from its float version, on what the float model hands it.

For every convolution and product of the float module ("teacher") that the quantized one computes on
rounded operands, one module computes both on the same data:

    y = R.nn.conv2d(x, w)
    q = R.dequantize(R.quantize(x, ...), ...)
    e = R.subtract(R.nn.conv2d(q, R.dequantize(int8 w, ...)), y)

and returns sums over e and y only, so that memory depends neither on the number of samples nor on
the depth of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import IRModule, relax

from relaxc.passes.blocks import rewrite_blocks
from relaxc.passes.fuse.outline import operator_call
from relaxc.passes.prune.segments import Arrays, Run, bindings_of
from relaxc.passes.quantize.affine import QuantParams
from relaxc.passes.quantize.exclusion import node_of

_CHANNEL_AXIS = {
    "relax.nn.conv1d": 1,
    "relax.nn.conv2d": 1,
    "relax.nn.conv3d": 1,
    "relax.nn.conv2d_transpose": 1,
    "relax.matmul": -1,
}


class LayerErrors:
    """The errors of a calibrated module, measured when first asked for.

    They do not depend on other layers: whoever leaves some float asks again for nothing.
    """

    def __init__(
        self,
        teacher: Callable[[], IRModule],
        run: Run,
        samples: Callable[[], Sequence[Arrays]],
    ) -> None:
        self._teacher, self._run, self._samples = teacher, run, samples
        self._found: list[LayerError] | None = None

    @property
    def teacher(self) -> IRModule:
        """The float module."""
        return self._teacher()

    @property
    def found(self) -> list[LayerError]:
        """What was measured so far."""
        return list(self._found or [])

    def __call__(self, mod: IRModule) -> list[LayerError]:
        """The errors of all layers; none where there are no samples."""
        if self._found is None:
            samples = self._samples() if rounded_layers(mod) else []
            teacher = self._teacher() if samples else mod
            self._found = layer_errors(teacher, mod, self._run, samples) if samples else []
        return self._found


@dataclass(frozen=True)
class LayerError:
    """What rounding does to one layer.

    Attributes:
        node: the ONNX node.
        name: of the variable that it binds.
        sqnr_db: signal to quantization noise; infinite where nothing was lost.
        cosine: between both results.
        shift: [channels] by how much the quantized result is too large, in the mean.
        is_kept: whether the layer computes on integers after all.
    """

    node: str
    name: str
    sqnr_db: float
    cosine: float
    shift: np.ndarray
    is_kept: bool = True


def layer_errors(
    teacher: IRModule, quantized: IRModule, run: Run, samples: Sequence[Arrays]
) -> list[LayerError]:
    """The error of every quantized layer, in the order of the module.

    Args:
        teacher: the float module; bindings have the names that they have in the other.
        quantized: the module after calibration.
        run: compiles a module and runs it on arguments.
        samples: arguments of `main`.
    """
    names, module = compare_layers(teacher, quantized)
    if not names:
        return []
    shifts: list[np.ndarray] = [np.zeros(1) for _ in names]
    sums = np.zeros((len(names), 3))
    count = 0
    for results in run(module, samples):
        count += 1
        for i in range(len(names)):
            shift, *squares = results[4 * i : 4 * i + 4]
            shifts[i] = shifts[i] + shift.astype(np.float64)
            sums[i] += [float(square) for square in squares]
    return [
        LayerError(node, name, *_likeness(*map(float, sums[i])), shifts[i] / max(count, 1))
        for i, (node, name) in enumerate(names)
    ]


def compare_layers(
    teacher: IRModule, quantized: IRModule
) -> tuple[list[tuple[str, str]], IRModule]:
    """The node and the name of every quantized layer, and a module that measures them.

    Returns:
        A module whose `main` gives four tensors per layer: the mean error of each channel, and the
        sums of squares of the error, of the float result and of the quantized one.
    """
    rounded = rounded_calls(quantized)
    names: list[tuple[str, str]] = []
    measured: list[relax.Var] = []

    def rewrite(block: relax.BindingBlock) -> Sequence[relax.Binding]:
        known = {str(b.var.name): b.var for b in block.bindings}
        known |= {str(p.name): p for p in teacher["main"].params}
        result: list[relax.Binding] = []
        for binding in block.bindings:
            result.append(binding)
            layer = rounded.get(str(binding.var.name))
            if layer is None or not isinstance(block, relax.DataflowBlock):
                continue
            if operator_call(binding) is None or layer.source not in known:
                continue
            names.append((node_of(binding), str(binding.var.name)))
            added = _measurement(binding, layer, known[layer.source])
            result.extend(added)
            measured.extend(b.var for b in added if not isinstance(b.var, relax.DataflowVar))
        return result

    builder = relax.BlockBuilder(teacher)
    main = rewrite_blocks(builder, teacher["main"], rewrite)
    body = builder.normalize(relax.SeqExpr(main.body.blocks, relax.Tuple(measured)))
    out = teacher.clone()
    out["main"] = relax.Function(main.params, body, body.ty, main.is_pure, main.attrs)
    # The model's own results are none any more.
    return names, relax.transform.CanonicalizeBindings()(out)


def rounded_layers(mod: IRModule) -> frozenset[str]:
    """Names of the variables that are computed from rounded data and weights."""
    return frozenset(rounded_calls(mod))


@dataclass(frozen=True)
class RoundedLayer:
    """A layer of the quantized module.

    Attributes:
        call: the convolution or product.
        source: name of the data before they are rounded.
        rounding: the data's `quantize` and `dequantize`.
        weight: the weight's `dequantize`.
    """

    call: relax.Call
    source: str
    rounding: tuple[relax.Call, relax.Call]
    weight: relax.Call

    @property
    def is_per_channel(self) -> bool:
        """Whether the weight has a scale per output."""
        return bool(self.weight.args[1].ty.ndim == 1)

    def data_params(self) -> QuantParams:
        """How the data are rounded."""
        scale, zero = (np.asarray(arg.value.numpy()) for arg in self.rounding[0].args[1:])
        return QuantParams(scale, zero)


def rounded_calls(quantized: IRModule) -> dict[str, RoundedLayer]:
    """Layers that are computed from rounded data and weights, by the names of their variables."""
    calls = {b.var: c for b in bindings_of(quantized) if (c := operator_call(b)) is not None}
    found: dict[str, RoundedLayer] = {}
    for var, call in calls.items():
        if call.op.name not in _CHANNEL_AXIS:
            continue
        data, weight = (calls.get(arg) for arg in call.args)
        if data is None or weight is None:
            continue
        if not (_is(data, "dequantize") and _is(weight, "dequantize")):
            continue
        integers = calls.get(data.args[0])
        if integers is not None and _is(integers, "quantize"):
            source = str(integers.args[0].name)
            found[str(var.name)] = RoundedLayer(call, source, (integers, data), weight)
    return found


def _is(call: relax.Call, name: str) -> bool:
    return bool(call.op.name == f"relax.{name}")


def _measurement(
    binding: relax.Binding, layer: RoundedLayer, source: relax.Var
) -> list[relax.Binding]:
    """Compute the layer again, rounded, and what is to be known of the difference."""
    builder = relax.BlockBuilder()
    name = str(binding.var.name)
    result: list[relax.Binding] = []

    def emit(suffix: str, value: relax.Expr, kind: Callable[..., relax.Var]) -> relax.Var:
        value = builder.normalize(value)
        result.append(relax.VarBinding(kind(f"{name}.{suffix}", value.ty), value))
        return result[-1].var

    def held(suffix: str, value: relax.Expr) -> relax.Var:
        return emit(suffix, value, relax.DataflowVar)

    quantize, dequantize = layer.rounding
    integers = held(
        "integers", relax.Call(quantize.op, [source, *quantize.args[1:]], quantize.attrs)
    )
    data = held(
        "data", relax.Call(dequantize.op, [integers, *dequantize.args[1:]], dequantize.attrs)
    )
    weight = held("weight", layer.weight)
    call = layer.call
    other = held("rounded", relax.Call(call.op, [data, weight], call.attrs, call.ty_args))
    error = held("error", relax.op.subtract(other, binding.var))
    axis = _CHANNEL_AXIS[call.op.name] % binding.var.ty.ndim
    axes = [a for a in range(binding.var.ty.ndim) if a != axis]
    emit("shift", relax.op.mean(error, axes), relax.Var)
    for suffix, var in (("noise", error), ("signal", binding.var), ("energy", other)):
        square = held(f"{suffix}.square", relax.op.multiply(var, var))
        emit(suffix, relax.op.sum(square), relax.Var)
    return result


def _likeness(noise: float, signal: float, energy: float) -> tuple[float, float]:
    """SQNR in dB and cosine, from sums of squares."""
    if noise == 0:
        return math.inf, 1.0
    product = math.sqrt(signal * energy)
    cosine = (signal + energy - noise) / 2 / product if product else 0.0
    return 10 * math.log10(signal / noise) if signal else -math.inf, cosine
