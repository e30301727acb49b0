"""Which layers the speed gate leaves float."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import onnx_model

import relaxc
from relaxc.gate import stopwatch, variant
from relaxc.gate.layers import LayerSpeed
from relaxc.gate.speed_gate import GateReport
from relaxc.gate.variant import Seconds, Variant
from relaxc.options import CompileOptions, QuantizeOptions

QUANTIZED = CompileOptions(quantize=QuantizeOptions())
CHAIN = """g (float[1,16,6,6] x) => (float[1,16,6,6] y) {
    a = Conv<pads = [1,1,1,1]>(x, w3)  b = Relu(a)  c = Conv(b, w1)  d = Relu(c)
    y = Conv<pads = [1,1,1,1]>(d, w3)
}"""
RNG = np.random.default_rng(0)
SAMPLES = [{"x": RNG.standard_normal((1, 16, 6, 6)).astype(np.float32)} for _ in range(8)]
Price = Callable[[str, tuple[str, ...]], float]


def chain() -> onnx.ModelProto:
    w3 = RNG.standard_normal((16, 16, 3, 3)).astype(np.float32)
    w1 = RNG.standard_normal((16, 16, 1, 1)).astype(np.float32)
    return onnx_model(CHAIN, w3=w3, w1=w1)


@pytest.fixture
def gated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., relaxc.CompileResult]:
    """Compile the chain, given what a kernel of some name and nodes costs."""

    def run(price: Price, is_steady: bool = True, argument_s: float = 0.0) -> relaxc.CompileResult:
        def measure(_self: object, variants: Sequence[Variant]) -> tuple[Seconds, bool]:
            seconds = {
                call.key: price(kernel["name"], call.nodes)
                for variant in variants
                for call, kernel in zip(variant.calls, variant.kernels)
            }
            return seconds, is_steady

        monkeypatch.setattr(stopwatch.Stopwatch, "_measure", measure)
        monkeypatch.setattr(variant, "_CALL_S", 0.0)
        monkeypatch.setattr(variant, "_ARGUMENT_S", argument_s)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        return relaxc.compile(chain(), tmp_path / "m.rxc", QUANTIZED, calibration_data=SAMPLES)

    return run


def integer_products(result: relaxc.CompileResult) -> int:
    return sum(
        kernel["dtype"] == "int8" and bool(kernel["nodes"]) and "conv" in kernel["name"]
        for kernel in result.manifest["kernels"]
    )


def report(result: relaxc.CompileResult) -> GateReport:
    assert result.gate is not None
    return result.gate


def test_layers_that_are_faster_stay_integers(gated: Callable[..., relaxc.CompileResult]) -> None:
    result = gated(lambda name, _nodes: 1.0 if "integer" in name else 3.0)
    assert [layer.is_kept for layer in report(result).layers] == [True] * 3
    assert report(result).reverted == []
    assert integer_products(result) == 3


def test_a_model_that_is_not_faster_stays_float(
    gated: Callable[..., relaxc.CompileResult],
) -> None:
    result = gated(lambda name, _nodes: 3.0 if "integer" in name else 1.0)
    assert len(report(result).reverted) == 3
    assert {layer.reason for layer in report(result).layers} == {"not faster on integers"}
    assert report(result).chosen_s == report(result).float_s
    assert integer_products(result) == 0
    x = SAMPLES[0]["x"]
    assert np.isfinite(relaxc.load(result.path)(x)).all()


def test_more_arguments_cost_more(gated: Callable[..., relaxc.CompileResult]) -> None:
    """Kernels that are hardly faster do not make up for scales and offsets."""
    result = gated(lambda name, _nodes: 1.0 if "integer" in name else 1.1, argument_s=1.0)
    assert {layer.is_kept for layer in report(result).layers} == {False}


def test_a_gain_that_may_be_noise_is_none(gated: Callable[..., relaxc.CompileResult]) -> None:
    result = gated(lambda name, _nodes: 1.0 if "integer" in name else 1.01)
    assert len(report(result).reverted) == 3


def test_one_layer_goes_back_to_float(gated: Callable[..., relaxc.CompileResult]) -> None:
    def price(name: str, nodes: tuple[str, ...]) -> float:
        # Of the two shapes, the pointwise convolution is slow; conversions are free.
        is_pointwise = any(node.startswith("c") for node in nodes)
        if not nodes:
            return 0.0
        return 5.0 if is_pointwise and "integer" in name else 2.0 - ("integer" in name)

    result = gated(price)
    (middle,) = [layer for layer in report(result).layers if not layer.is_kept]
    assert middle == LayerSpeed(("c",), 2.0, 5.0, False, "not faster on integers")
    assert integer_products(result) == 2


def test_a_layer_whose_conversions_cost_more_stays(
    gated: Callable[..., relaxc.CompileResult],
) -> None:
    def price(name: str, nodes: tuple[str, ...]) -> float:
        is_pointwise = any(node.startswith("c") for node in nodes)
        if "integer" in name:
            return 2.1 if is_pointwise else 1.0
        return 2.0 if nodes else 5.0

    result = gated(price)
    assert report(result).reverted == []
    assert [layer.reason for layer in report(result).layers if layer.nodes == ("c",)] == [
        "not faster alone, but conversions around it would cost more"
    ]


def test_kernels_that_are_known_are_not_timed(
    gated: Callable[..., relaxc.CompileResult],
) -> None:
    first = gated(lambda name, _nodes: 1.0 if "integer" in name else 3.0)

    def never(_name: str, _nodes: tuple[str, ...]) -> float:
        raise AssertionError("these kernels are known")

    assert report(gated(never)) == report(first)


def test_times_of_a_busy_machine_are_taken_again(
    gated: Callable[..., relaxc.CompileResult],
) -> None:
    first = gated(lambda name, _nodes: 3.0 if "integer" in name else 1.0, is_steady=False)
    assert len(report(first).reverted) == 3 and not report(first).is_steady
    again = gated(lambda name, _nodes: 1.0 if "integer" in name else 3.0)
    assert report(again).reverted == [] and report(again).is_steady


def test_what_smoothing_multiplies_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = np.where(np.arange(64) < 4, 60, 1).astype(np.float32)
    samples = [{"x": RNG.standard_normal((8, 64)).astype(np.float32) * size} for _ in range(8)]
    w, v = RNG.standard_normal((2, 64, 64)).astype(np.float32)
    model = onnx_model(
        "g (float[8,64] x) => (float[8,64] y) { a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, v) }",
        w=w,
        v=v,
    )
    timed: list[list[str]] = []

    def measure(_self: object, variants: Sequence[Variant]) -> tuple[Seconds, bool]:
        timed.extend([kernel["name"] for kernel in variant.kernels] for variant in variants)
        seconds = {
            call.key: 3.0 - 2 * ("integer" in kernel["name"]) - 2.5 * (not call.nodes)
            for variant in variants
            for call, kernel in zip(variant.calls, variant.kernels)
        }
        return seconds, True

    monkeypatch.setattr(stopwatch.Stopwatch, "_measure", measure)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = relaxc.compile(model, tmp_path / "m.rxc", QUANTIZED, calibration_data=samples)
    names = [kernel["name"] for kernel in result.manifest["kernels"]]
    # The multiplication is done as the input becomes bytes.
    assert names == ["elementwise", "matmul_integer", "matmul_integer1"]
    assert names in timed


@pytest.mark.parametrize(
    ("turns", "expected"), [([3, 1.0, 1.04], True), ([1, 2, 2], False), ([9, 8, 1, 5], False)]
)
def test_turns_agree(turns: Sequence[float], expected: bool) -> None:
    assert stopwatch.agree(turns) == expected


def test_on_this_machine(tmp_path: Path) -> None:
    result = relaxc.compile(chain(), tmp_path / "m.rxc", QUANTIZED, calibration_data=SAMPLES)
    found = report(result)
    assert all(layer.float_s > 0 and layer.integer_s > 0 for layer in found.layers)
    assert found.chosen_s <= found.float_s
    assert integer_products(result) == sum(layer.is_kept for layer in found.layers)


def test_another_cpu_is_not_timed(tmp_path: Path) -> None:
    options = CompileOptions(target="llvm -mcpu=haswell", quantize=QuantizeOptions())
    result = relaxc.compile(chain(), tmp_path / "m.rxc", options, calibration_data=SAMPLES)
    assert result.gate is None
    assert any("without being timed" in warning for warning in result.warnings)
    plain = CompileOptions(quantize=QuantizeOptions(speed_gate=False))
    assert relaxc.compile(chain(), tmp_path / "m.rxc", plain, calibration_data=SAMPLES).gate is None
