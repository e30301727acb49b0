"""Derivatives against differences of results."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from builders import onnx_model
from tvm import IRModule
from virtual_machine import virtual_machine

from relaxc.errors import OptionError
from relaxc.frontend.importer import from_onnx
from relaxc.passes.prune.segments import bindings_of
from relaxc.passes.prune.training import training_step, with_weights

RNG = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


CONV = {"w": weight(4, 3, 3, 3), "v": weight(6, 4, 3, 3)}
CASES: dict[str, tuple[str, dict[str, np.ndarray]]] = {
    "convolutions": ("z = Atan(x) a = Conv<pads=[1,1,1,1]>(z, w) b = Relu(a) y = Conv(b, v)", CONV),
    "strides, uneven pads and dilation": (
        """a = Conv<strides=[2,2],pads=[1,0,1,2]>(x, w)  b = Clip(a, lo, hi)
        y = Conv<dilations=[2,1],pads=[2,1,1,1]>(b, v)""",
        {**CONV, "lo": np.array(-1.0, np.float32), "hi": np.array(1.5, np.float32)},
    ),
    "depthwise and grouped": (
        """a = Conv<group=3,pads=[1,1,1,1]>(x, w) b = LeakyRelu(a)
        y = Conv<group=2,strides=[2,2]>(b, v)""",
        {"w": weight(6, 1, 3, 3), "v": weight(4, 3, 3, 3)},
    ),
    "slices and padding": (
        """a = Conv(x, w) b = Slice(a, from, to, axes, steps) c = Pad(b, p)
        d = Gelu(c) y = Conv(d, v)""",
        {
            **CONV,
            "from": np.array([1, 0]), "to": np.array([6, 5]), "axes": np.array([2, 3]),
            "steps": np.array([2, 1]), "p": np.array([0, 0, 1, 2, 0, 0, 2, 0]),
        },
    ),
    "pooling": (
        """a = Conv(x, w) b = MaxPool<kernel_shape=[2,2],strides=[2,2]>(a)
        c = AveragePool<kernel_shape=[2,2],strides=[1,1]>(b) d = GlobalAveragePool(c)
        e = Flatten(d) f = MatMul(e, v) y = Softmax(f)""",
        {"w": weight(4, 3, 3, 3), "v": weight(4, 5)},
    ),
    "norm": (
        """a = Reshape(x, s) b = MatMul(a, w) c = LayerNormalization(b, g, h)
        d = Add(c, u) e = Tanh(d) f = MatMul(e, v) t = Sigmoid(f) y = Mul(f, t)""",
        {
            "s": np.array([2, 24, 8]), "w": weight(8, 6), "g": weight(6), "h": weight(6),
            "u": weight(6), "v": weight(6, 3),
        },
    ),
    "root mean square, concatenated with nothing": (
        """a = Reshape(x, s) b = MatMul(a, w) c = RMSNormalization<epsilon=0.01>(b, g)
        d = Add(c, b) e = Slice(b, zero, zero, one) f = Slice(d, zero, one, one)
        h = Concat<axis=1>(e, d, f) y = MatMul(h, v)""",
        {
            "s": np.array([2, 24, 8]), "w": weight(8, 6), "g": weight(6), "v": weight(6, 3),
            "zero": np.array([0]), "one": np.array([1]),
        },
    ),
}  # fmt: skip


def imported(body: str, weights: dict[str, np.ndarray]) -> IRModule:
    graph = f"g (float[2,3,8,8] x) => (float[] y) {{ {body} }}"
    return from_onnx(onnx_model(graph, 23, **weights)).mod


@pytest.mark.parametrize(
    ("case", "are_scores"), [*((case, False) for case in CASES), ("slices and padding", True)]
)
def test_a_small_step_changes_the_loss_as_the_derivative_says(case: str, are_scores: bool) -> None:
    mod = imported(*CASES[case])
    last = len(bindings_of(mod)) - 1
    step = training_step(mod, [last], [], [last] if are_scores else [])
    assert len(step.weights) > 1
    vm = virtual_machine(step.mod)
    x = weight(2, 3, 8, 8)
    target = weight(*(int(d) for d in bindings_of(mod)[last].var.ty.shape.values))

    def run(weights: list[np.ndarray]) -> list[np.ndarray]:
        arrays = [tvm.runtime.tensor(a) for a in (x, *weights, target)]
        return [np.asarray(a.numpy(), np.float64) for a in vm["main"](*arrays)]

    start = list(step.weights)
    _, *gradients = run(start)
    for i, gradient in enumerate(gradients):
        # Along the derivative itself the change is largest.
        move = gradient / np.linalg.norm(gradient)
        size = 5e-5 * float(np.linalg.norm(start[i]))
        losses = []
        for sign in (1, -1):
            moved = list(start)
            moved[i] = (start[i] + sign * size * move).astype(np.float32)
            losses.append(float(run(moved)[0]))
        slope = (losses[0] - losses[1]) / (2 * size)
        assert slope == pytest.approx(float(np.linalg.norm(gradient)), rel=0.03), i
    tvm.ir.assert_structural_equal(with_weights(mod, step.places, start), mod)


def test_logits_are_compared_as_probabilities() -> None:
    mod = imported("a = Flatten(x) y = MatMul(a, w)", {"w": weight(192, 5) / 10})
    step = training_step(mod, [len(bindings_of(mod)) - 1], [], [len(bindings_of(mod)) - 1])
    vm = virtual_machine(step.mod)
    x, target = weight(2, 3, 8, 8), weight(2, 5)

    def loss(scores: np.ndarray) -> float:
        arguments = map(tvm.runtime.tensor, (x, *step.weights, scores))
        return float(vm["main"](*arguments)[0].numpy())

    own = x.reshape(2, -1) @ step.weights[0]
    wanted, found = (np.exp(a) / np.exp(a).sum(1, keepdims=True) for a in (target, own))
    divergence = (wanted * np.log(wanted / found)).sum(1).mean()
    assert loss(target) == pytest.approx(divergence, rel=1e-4)
    # Scores that differ by a constant mean the same.
    assert loss(own + 3) == pytest.approx(0, abs=1e-5)


def test_an_operator_without_a_derivative_is_named() -> None:
    mod = imported("a = Conv(x, w) b = Ceil(a) y = Conv(b, v)", CONV)
    with pytest.raises(OptionError, match=r"derivative of `relax.ceil` \(node `b`\)"):
        training_step(mod, [len(bindings_of(mod)) - 1], [])


def test_nothing_to_train() -> None:
    mod = imported("y = Relu(x)", {})
    with pytest.raises(OptionError, match="finds no weights"):
        training_step(mod, [0], [])
