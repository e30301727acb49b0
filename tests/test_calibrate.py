"""Quantizing with calibration data, from the ONNX model to the artifact."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from builders import conv_model, onnx_model, relu_model

import relaxc
from relaxc.errors import InputError, OptionError, OutputError
from relaxc.options import (
    CalibrationMethod,
    CompileOptions,
    Diagnostics,
    ErrorCorrection,
    QuantizeOptions,
)
from relaxc.quantize_options import corrections_for
from relaxc.quantizing import Remembered
from relaxc.report import compiling, ranges

QUANTIZED = CompileOptions(quantize=QuantizeOptions(speed_gate=False))


def samples(count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


@pytest.mark.parametrize(
    ("method", "correct"),
    [
        ("minmax", corrections_for("int8")),
        ("percentile", ("bias",)),
        ("entropy", ()),
        ("mse", ("bias",)),
    ],
)
def test_a_quantized_model_stays_close_to_float(
    method: CalibrationMethod, correct: tuple[ErrorCorrection, ...], tmp_path: Path
) -> None:
    model = conv_model()
    quantize = QuantizeOptions(calibration=method, correct=correct, speed_gate=False)
    options = CompileOptions(quantize=quantize)
    feeds = samples(16)
    result = relaxc.compile(model, tmp_path / "m.rxc", options, calibration_data=feeds)
    assert result.warnings == ()
    assert result.manifest["options"]["quantize"]["calibration"] == method
    quantized = relaxc.load(tmp_path / "m.rxc")
    session = onnxruntime.InferenceSession(model.SerializeToString())
    expected = np.concatenate([session.run(None, feed)[0] for feed in feeds])
    actual = np.concatenate([quantized(**feed) for feed in feeds])
    noise = ((actual - expected) ** 2).sum() / (expected**2).sum()
    assert 0 < noise < 1e-3


def test_quantization_needs_data(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="needs calibration data"):
        relaxc.compile(conv_model(), tmp_path / "m.rxc", QUANTIZED)
    with pytest.raises(InputError, match="no calibration data"):
        relaxc.compile(conv_model(), tmp_path / "m.rxc", QUANTIZED, calibration_data=[])
    assert not list(tmp_path.iterdir())


def test_few_samples_are_worth_a_warning(tmp_path: Path) -> None:
    # One row of data: it has no second moments about its mean.
    model = onnx_model(
        "g (float[1,8] x) => (float[1,4] y) { y = MatMul (x, w) }",
        w=np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32),
    )
    one = [{"x": np.random.default_rng(1).standard_normal((1, 8)).astype(np.float32)}]
    result = relaxc.compile(model, tmp_path / "m.rxc", QUANTIZED, calibration_data=one)
    assert any("calibration samples are few" in warning for warning in result.warnings)


def test_data_that_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sample 1 has no input `x`"):
        relaxc.compile(conv_model(), tmp_path / "m.rxc", QUANTIZED, calibration_data=[{}])
    nan = [{"x": np.full((1, 3, 8, 8), np.nan, np.float32)}]
    with pytest.raises(InputError, match="sample 1 holds NaN or infinite values in input `x`"):
        relaxc.compile(conv_model(), tmp_path / "m.rxc", QUANTIZED, calibration_data=nan)
    root = onnx_model(
        "g (float[1,3,8,8] x) => (float[1,2,8,8] y) { a = Sqrt (x)  y = Conv (a, w) }",
        w=np.ones((2, 3, 1, 1), np.float32),
    )
    with pytest.raises(InputError, match="sample 1 leads to NaN or infinite values inside"):
        relaxc.compile(root, tmp_path / "m.rxc", QUANTIZED, calibration_data=samples(1))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((1, 3, 8, 9), np.float32), "9"),
        (np.zeros((3, 8, 8), np.float32), "x"),
        (np.zeros((1, 3, 8, 8), np.float64), "float64"),
    ],
)
def test_samples_of_another_form(array: np.ndarray, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        relaxc.compile(conv_model(), tmp_path / "m.rxc", QUANTIZED, calibration_data=[{"x": array}])
    assert not list(tmp_path.iterdir())


def test_constant_samples_are_worth_a_warning(tmp_path: Path) -> None:
    data = [{"x": np.full((1, 3, 8, 8), 0.5, np.float32)}] * 8
    result = relaxc.compile(conv_model(), tmp_path / "m.rxc", QUANTIZED, calibration_data=data)
    assert [w for w in result.warnings if "hold one number only" in w]


def test_a_float_layer_before_a_residual_on_integers(tmp_path: Path) -> None:
    """Its result is a part of its kernel, and has no range: nobody has seen it."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((8, 8, 3, 3)).astype(np.float32) for name in "stuvw"}
    weights["t"][0] *= 1e-4
    weights["v"][:, 0, 0, 0] = 100.0  # takes the integers, and has next to nothing to multiply
    pads = "kernel_shape=[3,3], pads=[1,1,1,1]"
    model = onnx_model(
        f"""g (float[1,8,8,8] x) => (float[1,8,8,8] y) {{
            a = Conv <{pads}> (x, s)
            b = Relu (a)
            c = Conv <{pads}> (b, t)
            d = Relu (c)
            e = Conv <{pads}> (d, v)
            f = Add (e, b)
            g = Relu (f)
            y = Conv <{pads}> (g, w)
        }}""",
        opset=18,
        **weights,
    )
    data = [{"x": rng.standard_normal((1, 8, 8, 8)).astype(np.float32)} for _ in range(8)]
    quantize = QuantizeOptions(speed_gate=False, least_sqnr_db=30, correct=())
    options = CompileOptions(quantize=quantize)
    result = relaxc.compile(model, tmp_path / "m.rxc", options, calibration_data=data)
    assert [error.node for error in result.quantized if not error.is_kept] == ["e"]
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (expected,) = session.run(None, data[0])
    actual = relaxc.load(tmp_path / "m.rxc")(**data[0])
    assert ((actual - expected) ** 2).sum() < 1e-3 * (expected**2).sum()


def test_more_samples_take_no_more_memory() -> None:
    data = ({"x": np.full((1, 1 << 18), i, np.float32)} for i in range(400))
    remembered = Remembered(data)
    tracemalloc.start()
    assert sum(1 for _ in remembered([])) == 400
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # 400 MiB went through; what is kept is bounded.
    assert len(remembered.feeds) == 64
    assert peak < 80 << 20


def test_data_that_were_looked_at_are_read_with_the_others() -> None:
    remembered = Remembered({"x": np.full((1, 4), i, np.float32)} for i in range(100))
    assert [feed["x"][0, 0] for feed in remembered.first([])] == list(range(64))
    assert [feed["x"][0, 0] for feed in remembered([])] == list(range(100))
    assert remembered.count == 100


def test_nothing_to_quantize(tmp_path: Path) -> None:
    relaxc.compile(relu_model(), tmp_path / "m.rxc", QUANTIZED, calibration_data=[])
    x = np.array([[-1, 0, 2]], np.float32)
    np.testing.assert_array_equal(relaxc.load(tmp_path / "m.rxc")(x), [[0, 0, 2]])


def test_the_layers_that_hurt_most_come_first(tmp_path: Path) -> None:
    feeds = samples(16)
    options = CompileOptions(quantize=QuantizeOptions(speed_gate=False))
    result = relaxc.compile(conv_model(), tmp_path / "m.rxc", options, calibration_data=feeds)
    sqnr = {error.node: error.sqnr_db for error in result.quantized}
    assert list(result.sensitive_nodes) == sorted(sqnr, key=sqnr.__getitem__)
    assert f"{result.sensitive_nodes[0]} {min(sqnr.values()):.0f} dB" in compiling.as_text(result)
    assert [layer["node"] for layer in compiling.as_json(result)["quantized"]] == list(sqnr)
    assert all(20 < error.sqnr_db < 60 and error.cosine > 0.99 for error in result.quantized)


def test_ranges_and_what_exclusions_buy(tmp_path: Path) -> None:
    model = onnx_model(
        """g (float[1,3,8,8] x) => (float[1,4,8,8] y) {
            a = Conv (x, v)
            b = Relu (a)
            y = Conv (b, w)
        }""",
        v=np.random.default_rng(0).standard_normal((8, 3, 1, 1)).astype(np.float32),
        w=np.random.default_rng(1).standard_normal((4, 8, 1, 1)).astype(np.float32),
    )
    feeds = samples(16)
    result = relaxc.compile(
        model, tmp_path / "m.rxc", QUANTIZED, Diagnostics(ranges=True, exclusions=True), feeds
    )
    plain = relaxc.compile(model, tmp_path / "n.rxc", QUANTIZED, calibration_data=feeds)
    # Looking changes nothing.
    assert (tmp_path / "m.rxc").read_bytes() == (tmp_path / "n.rxc").read_bytes()
    assert not plain.ranges and not plain.gains
    first, second = result.ranges
    values = np.concatenate([feed["x"] for feed in feeds])
    assert first.quantiles[0] == values.min() and first.quantiles[-1] == values.max()
    assert first.quantiles[4] == pytest.approx(np.median(values), abs=0.01)
    assert first.low == pytest.approx(values.min(), abs=0.05) and second.low == 0
    assert [len(gain.nodes) for gain in result.gains] == [0, 1, 2]
    assert result.gains[1].nodes == result.sensitive_nodes[:1]
    ratios = [gain.sqnr_db for gain in result.gains]
    assert 20 < ratios[0] < ratios[1] < ratios[2] == np.inf
    assert f"{ratios[0]:.1f} dB as it is" in compiling.as_text(result)
    ranges.plot(tmp_path / "r.svg", result.ranges)
    assert first.node in (tmp_path / "r.svg").read_text()
    with pytest.raises(OutputError, match="cannot write"):
        ranges.plot(tmp_path / "r.xyz", result.ranges)


def test_weights_are_rounded_by_samples(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((8, 32))

    def feed() -> dict[str, np.ndarray]:
        noise = 0.1 * rng.standard_normal((16, 32))
        return {"x": (rng.standard_normal((16, 8)) @ mixing + noise).astype(np.float32)}

    model = onnx_model(
        """g (float[16,32] x) => (float[16,32] y) {
            a = MatMul (x, v)
            b = Relu (a)
            y = MatMul (b, w)
        }""",
        v=rng.standard_normal((32, 64)).astype(np.float32),
        w=rng.standard_normal((64, 32)).astype(np.float32),
    )
    options = CompileOptions(quantize=QuantizeOptions(scheme="int4-weights"))
    data, tests = [feed() for _ in range(24)], [feed() for _ in range(8)]
    session = onnxruntime.InferenceSession(model.SerializeToString())
    noise = []
    for name, given in (("nearest", None), ("fitted", data)):
        relaxc.compile(model, tmp_path / f"{name}.rxc", options, calibration_data=given)
        quantized = relaxc.load(tmp_path / f"{name}.rxc")
        errors = [quantized(**test) - session.run(None, test)[0] for test in tests]
        noise.append(float(np.square(errors).sum()))
    assert noise[1] < 0.3 * noise[0]
