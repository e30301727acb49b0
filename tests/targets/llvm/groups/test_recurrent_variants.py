"""Plain RNNs, and LSTM layers that are not the usual ones, by kernels, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import onnx_model
from kernels import BuiltModel

from relaxc import cpu
from relaxc.layout import Precision
from relaxc.targets.llvm.groups import recurrent

AVX2 = "llvm -mcpu=haswell"
STEPS, WIDTH = 6, 12


@pytest.fixture(autouse=True)
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that take the place of loops, which have the same names."""
    found: list[str] = []
    for name in ("emit_lstm", "emit_rnn"):
        emit = getattr(recurrent, name)

        def counted(*args: Any, _emit: Any = emit, _name: str = name) -> None:
            found.append(_name)
            _emit(*args)

        monkeypatch.setattr(recurrent, name, counted)
    return found


def layer(op: str, hidden: int, batch: int | str, attrs: str, inputs: str = "") -> onnx.ModelProto:
    """A layer whose sequence lengths are an input; `inputs`: what it takes beside the states."""
    gates, d = {"LSTM": 4, "RNN": 1}[op], 2 if "bidirectional" in attrs else 1
    rng = np.random.default_rng(0)
    results = ["y", "h", "c"] if op == "LSTM" else ["y", "h"]
    states = ["h0", "c0"] if op == "LSTM" else ["h0"]
    batch_first = "layout = 1" in attrs
    shape = f"{batch},{d},{hidden}" if batch_first else f"{d},{batch},{hidden}"
    x = f"{batch},s,{WIDTH}" if batch_first else f"s,{batch},{WIDTH}"
    params = ", ".join(f"float[{shape}] {name}" for name in states)
    call = ", ".join(["x", "w", "r", "b", "lengths", *states])

    def random(*size: int) -> np.ndarray:
        return (rng.standard_normal(size) * 0.3).astype(np.float32)

    return onnx_model(
        f"""g (float[{x}] x, int32[{batch}] lengths, {params})
              => ({", ".join(f"float {name}" for name in results)}) {{
            {", ".join(results)} = {op}<hidden_size = {hidden}{attrs}>({call}{inputs}) }}""",
        18,
        w=random(d, gates * hidden, WIDTH),
        r=random(d, gates * hidden, hidden),
        b=random(d, 2 * gates * hidden),
        peep=random(d, 3 * hidden),
    )


def check(
    model: onnx.ModelProto,
    batches: list[int],
    *,
    ends_early: bool = True,
    target: str = "llvm",
    precision: Precision = "float32",
) -> None:
    rng = np.random.default_rng(1)
    built = BuiltModel(model, target, precision)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for batch in batches:
        feed = {}
        for value in model.graph.input:
            dims = value.type.tensor_type.shape.dim
            names = {"s": STEPS, "b": batch}
            shape = [names[d.dim_param] if d.dim_param else d.dim_value for d in dims]
            feed[value.name] = rng.standard_normal(shape).astype(np.float32)
        lengths = [3, STEPS, 1, 5, 2, STEPS, 4, 4] if ends_early else [STEPS] * 8
        feed["lengths"] = np.array(lengths[:batch], np.int32)
        for ours, theirs in zip(built.run(feed), session.run(None, feed), strict=True):
            assert ours.shape == theirs.shape
            error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
            assert error < 2e-6 if precision == "float32" else 1e-5 < error < 1e-2


@pytest.mark.parametrize(
    "attrs, inputs",
    [
        (', direction = "reverse"', ""),
        (", clip = 0.4", ", peep"),
        (", input_forget = 1", ""),
        (', direction = "bidirectional"', ", peep"),
    ],
)
@pytest.mark.parametrize("hidden, batch, target", [(20, 5, "llvm"), (37, 3, AVX2)])
def test_lstm(
    written: list[str], attrs: str, inputs: str, hidden: int, batch: int, target: str
) -> None:
    check(layer("LSTM", hidden, batch, attrs, inputs), [batch], target=target)
    assert written == ["emit_lstm"]


def test_lstm_of_open_batches(written: list[str]) -> None:
    model = layer("LSTM", 33, "b", ', direction = "bidirectional", clip = 0.7', ", peep")
    check(model, [1, 2, 8])
    assert written == ["emit_lstm"]


@pytest.mark.parametrize(
    "activation, direction",
    [("Tanh", "bidirectional"), ("Relu", "reverse"), ("Sigmoid", "forward")],
)
@pytest.mark.parametrize("hidden, batch, target", [(83, 5, "llvm"), (37, 3, AVX2)])
def test_rnn(
    written: list[str], activation: str, direction: str, hidden: int, batch: int, target: str
) -> None:
    names = ", ".join([f'"{activation}"'] * (2 if direction == "bidirectional" else 1))
    attrs = f', direction = "{direction}", activations = [{names}], clip = 0.8'
    check(layer("RNN", hidden, batch, attrs), [batch], target=target)
    assert written == ["emit_rnn"]


def test_rnn_of_open_batches(written: list[str]) -> None:
    check(layer("RNN", 20, "b", ""), [1, 3, 8])
    check(layer("RNN", 20, "b", ""), [4], ends_early=False)
    assert written == ["emit_rnn", "emit_rnn"]


@pytest.mark.skipif("avx512bf16" not in cpu.features(), reason="needs dot products of bfloat16")
@pytest.mark.parametrize("op, inputs", [("LSTM", ", peep"), ("RNN", "")])
def test_pairs_of_bfloat16(written: list[str], op: str, inputs: str) -> None:
    check(layer(op, 33, 5, ', direction = "bidirectional"', inputs), [5], precision="bfloat16")
    assert len(written) == 1


@pytest.mark.parametrize(
    "attrs",
    [
        ', direction = "bidirectional", activations = ["Tanh", "Relu"]',
        ', activations = ["Softsign"]',
        ', activations = ["LeakyRelu"], activation_alpha = [0.3]',
    ],
)
def test_other_rnns_stay_loops(written: list[str], attrs: str) -> None:
    check(layer("RNN", 8, 2, attrs), [2])
    assert not written
