"""Quantized models are trained as they round: closer to the float one, on the same scales."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from builders import onnx_model
from tvm import IRModule
from virtual_machine import virtual_machine

import relaxc
from relaxc.cli import main
from relaxc.errors import OptionError
from relaxc.frontend.importer import from_onnx
from relaxc.options import CompileOptions, DistillOptions, QuantizeOptions
from relaxc.passes.prune.distill import Distillation
from relaxc.passes.prune.prune_weights import PruneWeights, Unstructured
from relaxc.passes.prune.segments import Arrays, bindings_of, with_constants
from relaxc.passes.prune.straight_through import RoundedWeight, rounded_data
from relaxc.passes.prune.training import training_step
from relaxc.passes.quantize.affine import QuantParams
from relaxc.passes.quantize.quantize_weights import QuantizeWeights
from relaxc.passes.quantize.train_rounding import TrainRounding

RNG = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


MODEL = onnx_model(
    """g (float[n,16] x) => (float[n,8] y) {
        a = MatMul(x, u)  b = Add(a, v)  c = Relu(b)  y = MatMul(c, w) }""",
    18,
    u=weight(16, 32),
    v=weight(32),
    w=weight(32, 8),
)
SAMPLES: list[Arrays] = [[weight(8, 16)] for _ in range(20)]


def run(mod: IRModule, arguments: Iterable[Arrays]) -> Iterator[list[np.ndarray]]:
    vm = virtual_machine(mod)
    for arrays in arguments:
        results = vm["main"](*(tvm.runtime.tensor(np.asarray(a)) for a in arrays))
        yield [np.asarray(r.numpy()) for r in results]


def outputs(mod: IRModule) -> np.ndarray:
    vm = virtual_machine(mod)
    found = [vm["main"](tvm.runtime.tensor(np.asarray(s[0]))).numpy() for s in SAMPLES]
    return np.concatenate(found)


def trained(teacher: IRModule, mod: IRModule, rate: float = 0.02, epochs: int = 40) -> IRModule:
    how = Distillation(epochs, rate, 16)
    return TrainRounding(lambda: teacher, run, lambda: SAMPLES, how).apply(mod)


def test_integers_of_four_bits_come_closer() -> None:
    dense = from_onnx(MODEL).mod
    rounded = QuantizeWeights("int4", 8).apply(dense)
    after = trained(dense, rounded)
    expected, before, now = map(outputs, (dense, rounded, after))
    assert np.square(now - expected).mean() < 0.7 * np.square(before - expected).mean()
    # Nothing changes but integers and biases.
    tvm.ir.assert_structural_equal(with_constants(after, rounded), rounded)
    stored = [RoundedWeight.of(b.value) for b in bindings_of(after)]
    integers = [found.integers for found in stored if found is not None]
    assert len(integers) == 2
    assert all(array.min() >= -8 and array.max() <= 7 for array in integers)


def test_steps_that_help_nobody_change_nothing() -> None:
    dense = from_onnx(MODEL).mod
    rounded = QuantizeWeights("int4", 8).apply(dense)
    tvm.ir.assert_structural_equal(trained(dense, rounded, 0.99, 1), rounded)


def test_zeros_of_pruned_weights_stay() -> None:
    sparse = PruneWeights(Unstructured(0.5)).apply(from_onnx(MODEL).mod)
    rounded = QuantizeWeights("int8", None).apply(sparse)
    for binding in bindings_of(trained(sparse, rounded, 0.01, 10)):
        stored = RoundedWeight.of(binding.value)
        if stored is not None:
            assert (stored.integers == 0).mean() >= 0.5


def test_nothing_is_rounded() -> None:
    dense = from_onnx(MODEL).mod
    with pytest.raises(OptionError, match="no weight is rounded"):
        trained(dense, dense)


@pytest.mark.parametrize("scale", [0.5, -0.5])
def test_a_rounded_weight(scale: float) -> None:
    integers = np.array([[-8, 7], [3, 0]], np.int8)
    params = QuantParams(np.array([scale, 1], np.float32), np.zeros(2, np.int8), 0)
    stored = RoundedWeight(params, integers, -8, 7)
    np.testing.assert_array_equal(stored.nearest(stored.values()), integers)
    far = np.full((2, 2), 100, np.float32)
    largest = max(-8 * scale, 7 * scale)
    np.testing.assert_array_equal(stored.clipped(far)[:, 0], [largest, 7])
    np.testing.assert_array_equal(stored.shown(far), stored.clipped(far))


def test_rounded_data_pass_derivatives_within_their_range() -> None:
    graph = """g (float[4,8] x) => (float[4,5] y) {
        a = MatMul(x, u)  q = QuantizeLinear(a, s, z)  d = DequantizeLinear(q, s, z)
        y = MatMul(d, w) }"""
    u, w = weight(8, 6), weight(6, 5)
    scale, zero = np.array(0.02, np.float32), np.array(128, np.uint8)
    mod = from_onnx(onnx_model(graph, 18, u=u, w=w, s=scale, z=zero)).mod
    assert len(rounded_data(bindings_of(mod))) == 1
    step = training_step(mod, [len(bindings_of(mod)) - 1], [])
    x, target = weight(4, 8), weight(4, 5)
    loss, du, dw = next(run(step.mod, [[x, *step.weights, target]]))
    data = x @ u
    shown = np.clip(np.rint(data / 0.02), -128, 127) * 0.02
    error = shown @ w - target
    energy = np.square(target).mean()
    assert float(loss) == pytest.approx(np.square(error).mean() / energy, rel=1e-3)
    slope = 2 * error / error.size / energy
    np.testing.assert_allclose(dw, shown.T @ slope, rtol=1e-3, atol=1e-5)
    inside = (data > -128 * 0.02) & (data < 127 * 0.02)
    np.testing.assert_allclose(du, x.T @ ((slope @ w.T) * inside), rtol=1e-3, atol=1e-5)


def test_int8_with_data_that_are_rounded(tmp_path: Path) -> None:
    graph = """g (float[n,3,6,6] x) => (float[n,5] y) {
        a = Conv<pads=[1,1,1,1]>(x, w)  b = Relu(a)  c = Conv<pads=[1,1,1,1]>(b, v)
        d = Add(b, c)  e = Relu(d)  f = GlobalAveragePool(e)  h = Flatten(f)  y = MatMul(h, u) }"""
    weights = {"w": weight(8, 3, 3, 3), "v": weight(8, 8, 3, 3), "u": weight(8, 5)}
    model = onnx_model(graph, 18, **weights)
    samples = [{"x": weight(1, 3, 6, 6)} for _ in range(64)]
    bare = QuantizeOptions(
        per_channel=False, correct=(), least_sqnr_db=None, speed_gate=False, symmetric=True
    )
    how = DistillOptions(epochs=30, learning_rate=0.01, batch=16)
    options = {
        "float": CompileOptions(),
        "int8": CompileOptions(quantize=bare),
        "trained": CompileOptions(
            quantize=QuantizeOptions(**{**vars(bare), "distill": how})  # type: ignore[arg-type]
        ),
    }
    found = {}
    for name, chosen in options.items():
        path = tmp_path / f"{name}.rxc"
        given = samples if name == "trained" else None
        relaxc.compile(model, path, chosen, calibration_data=samples, recovery_data=given)
        session = relaxc.load(path)
        found[name] = np.concatenate([session(sample["x"]) for sample in samples])
    errors = {name: float(np.square(a - found["float"]).mean()) for name, a in found.items()}
    assert errors["trained"] < 0.8 * errors["int8"]
    with pytest.raises(OptionError, match="needs samples of real inputs to recover by"):
        relaxc.compile(model, path, options["trained"], calibration_data=samples)


def test_the_command(tmp_path: Path) -> None:
    onnx.save(MODEL, tmp_path / "a.onnx")
    np.savez(tmp_path / "data.npz", x=np.concatenate([sample[0] for sample in SAMPLES]))
    command = ["export", str(tmp_path / "a.onnx"), "--quantize", "int4-weights", "--group-size"]
    data = ["8", "--calibrate", str(tmp_path / "data.npz")]
    how = ["--distill", "40", "--learning-rate", "0.02", "--distill-batch", "16"]
    for name, options in (("rounded", data), ("trained", [*data, *how])):
        assert main([*command, *options, "-o", str(tmp_path / f"{name}.onnx")]) == 0
    x = np.concatenate([sample[0] for sample in SAMPLES])
    files = {name: tmp_path / f"{name}.onnx" for name in ("a", "rounded", "trained")}
    found = {n: onnxruntime.InferenceSession(f).run(None, {"x": x})[0] for n, f in files.items()}
    errors = {name: np.square(array - found["a"]).mean() for name, array in found.items()}
    assert errors["trained"] < errors["rounded"]
