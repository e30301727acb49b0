"""Pruned and quantized models as ONNX: ONNX Runtime gives what our artifact gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import onnx_model
from commands import Outcome, Run

import relaxc
from relaxc import exporting
from relaxc.cli import main
from relaxc.errors import OptionError
from relaxc.options import (
    CompileOptions,
    PruneOptions,
    QuantizeOptions,
    Scheme,
    SparsifyOptions,
)

HALF = PruneOptions(saving="channels", share=0.5, round_to=1)
INT8 = QuantizeOptions(speed_gate=False)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def model() -> onnx.ModelProto:
    graph = """g (float[n,3,8,8] x) => (float[n,40] y) {
        a = Conv<pads=[1,1,1,1]>(x, w, b)  c = Relu(a)  d = Conv<pads=[1,1,1,1]>(c, v)
        e = Add(c, d)  f = Relu(e)  h = GlobalAveragePool(f)  i = Flatten(h)
        j = Gemm(i, u, z)  k = Relu(j)  y = MatMul(k, t) }"""
    weights = {"w": (16, 3, 3, 3), "b": (16,), "v": (16, 16, 3, 3), "u": (16, 64), "z": (64,)}
    return onnx_model(graph, 17, **{n: random(*s) for n, s in weights.items()}, t=random(64, 40))


def feeds(count: int = 16) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


CASES = {
    "channels": CompileOptions(prune=HALF),
    "zeros": CompileOptions(sparsify=SparsifyOptions(share=0.5)),
    "channels, int8": CompileOptions(prune=HALF, quantize=INT8),
    "int4-weights": CompileOptions(quantize=QuantizeOptions(scheme="int4-weights", group_size=16)),
    "fp8-weights": CompileOptions(quantize=QuantizeOptions(scheme="fp8-weights")),
}


@pytest.mark.parametrize("name", CASES)
def test_onnx_runtime_agrees_with_our_artifact(name: str, tmp_path: Path) -> None:
    options, data = CASES[name], {"calibration_data": feeds(), "recovery_data": feeds()}
    done = relaxc.export(model(), tmp_path / "a.onnx", options, **data)  # type: ignore[arg-type]
    relaxc.compile(model(), tmp_path / "a.rxc", options, **data)  # type: ignore[arg-type]
    written = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(written, full_check=True)
    compiled = relaxc.load(tmp_path / "a.rxc")
    session = onnxruntime.InferenceSession(written.SerializeToString())
    x = np.concatenate([feed["x"] for feed in feeds(8)])
    (found,) = session.run(["y"], {"x": x})
    wanted = np.asarray(compiled(x))
    # ONNX Runtime rounds integers elsewhere, by a step.
    tolerance = 0.02 if options.quantize is not None else 1e-5
    np.testing.assert_allclose(found, wanted, atol=tolerance * float(np.abs(wanted).max()))
    before, after = done.weight_bytes
    assert after < 0.9 * before or name == "zeros"
    if name == "fp8-weights":
        kinds = {t.name: t.data_type for t in written.graph.initializer}
        assert list(kinds.values()).count(onnx.TensorProto.FLOAT8E4M3FN) == 2
    if name == "zeros":
        assert 0.45 < done.zeros < 0.51


@pytest.mark.parametrize("scheme", ["int8-weights", "fp8-weights"])
def test_what_was_written_is_read_again(scheme: Scheme, tmp_path: Path) -> None:
    options = CompileOptions(quantize=QuantizeOptions(scheme=scheme))
    relaxc.export(model(), tmp_path / "a.onnx", options)
    relaxc.compile(tmp_path / "a.onnx", tmp_path / "a.rxc")
    x = feeds(1)[0]["x"]
    (wanted,) = onnxruntime.InferenceSession(tmp_path / "a.onnx").run(["y"], {"x": x})
    found = np.asarray(relaxc.load(tmp_path / "a.rxc")(x))
    np.testing.assert_allclose(found, wanted, atol=1e-5 * float(np.abs(wanted).max()))


def test_large_weights_lie_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_INLINE_BYTES", 1000)
    relaxc.export(model(), tmp_path / "a.onnx")
    assert {f.name for f in tmp_path.iterdir()} == {"a.onnx", "a.onnx.data"}
    x = feeds(1)[0]["x"]
    (found,) = onnxruntime.InferenceSession(tmp_path / "a.onnx").run(["y"], {"x": x})
    (wanted,) = onnxruntime.InferenceSession(model().SerializeToString()).run(["y"], {"x": x})
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (CompileOptions(quantize=QuantizeOptions(scheme="int8-dynamic")), "which ONNX cannot say"),
        (CompileOptions(precision="bfloat16"), "precision `bfloat16` is about kernels"),
        (CompileOptions(quantize=INT8), "quantization needs calibration data"),
    ],
)
def test_what_onnx_cannot_say(options: CompileOptions, message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        relaxc.export(model(), tmp_path / "a.onnx", options)


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Run:
    def run(*args: object) -> Outcome:
        code = main([str(arg) for arg in args])
        return Outcome(code, *capfd.readouterr())

    return run


def test_the_command(command: Run, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model(), path)
    done = command("export", path, "--prune", "channels=0.5", "--round-to", "1", "--json")
    assert done.json["model"] == str(tmp_path / "model.export.onnx")
    assert done.json["weight_bytes"]["after"] < 0.6 * done.json["weight_bytes"]["before"]
    assert {g["before"] for g in done.json["pruned"]["groups"]} == {16, 64}
    done = command("export", path, "--prune", "unstructured=0.5")
    assert "Weights: " in done.out
    assert "50% zeros" in done.out
    done = command("export", path, "-o", path)
    assert done.code == 2
    assert "is the model itself; give another name" in done.err
