"""A small model learns from a large one, on the command line and in Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import onnx_model
from commands import Outcome, Run

from relaxc.cli import main
from relaxc.distilling import distill
from relaxc.errors import OptionError
from relaxc.options import Diagnostics, DistillOptions

RNG = np.random.default_rng(0)


def network(width: int, outputs: str = "y, z", **changes: str) -> onnx.ModelProto:
    graph = f"""g (float[n,8] x) => (float[n,4] {outputs.split(",")[0]},
        float[n,2] {outputs.split(",")[1]}) {{
        a = MatMul(x, u)  b = Add(a, v)  c = Relu(b)  y = MatMul(c, w)  z = MatMul(c, t) }}"""
    for old, new in changes.items():
        graph = graph.replace(old, new)
    shapes = {"u": (8, width), "v": (width,), "w": (width, 4), "t": (width, 2)}
    scales = {name: 1 / np.sqrt(shape[0]) for name, shape in shapes.items()}
    weights = {n: RNG.standard_normal(s) * scales[n] for n, s in shapes.items()}
    return onnx_model(graph, 18, **{n: a.astype(np.float32) for n, a in weights.items()})


TEACHER, STUDENT = network(64), network(16)
SAMPLES = [{"x": RNG.standard_normal((1, 8)).astype(np.float32)} for _ in range(160)]
OPTIONS = DistillOptions(epochs=20, learning_rate=0.05)


def outputs(model: onnx.ModelProto | Path) -> dict[str, np.ndarray]:
    data = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    x = np.concatenate([sample["x"] for sample in SAMPLES])
    return dict(zip(("y", "z"), onnxruntime.InferenceSession(data).run(["y", "z"], {"x": x})))


def distance(model: onnx.ModelProto | Path) -> float:
    found, wanted = outputs(model), outputs(TEACHER)
    return float(np.mean([np.square(found[n] - wanted[n]).mean() for n in wanted]))


def test_the_student_comes_closer_and_goes_on(tmp_path: Path) -> None:
    # Outputs in another order are told by their names.
    turned = onnx.ModelProto()
    turned.CopyFrom(TEACHER)
    turned.graph.output.sort(key=lambda value: value.name, reverse=True)
    state = Diagnostics(checkpoint=tmp_path / "state.npz")
    done = distill(turned, STUDENT, SAMPLES, tmp_path / "a.onnx", OPTIONS, diagnostics=state)
    assert len(done.errors) == 21
    assert distance(done.path) < 0.3 * distance(STUDENT)
    again = distill(turned, STUDENT, SAMPLES, tmp_path / "b.onnx", OPTIONS, diagnostics=state)
    assert again.errors == ()
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (network(16, "y, q", **{"z =": "q ="}), "different outputs: `y`, `z` and `y`, `q`"),
        (
            network(16, **{"float[n,4]": "float[n,5]", "(c, w)": "(c, o)"}),
            r"`y` is float32\['n', 4\] in the teacher and float32\['n', 5\] in the student",
        ),
    ],
)
def test_a_pair_that_does_not_fit(student: onnx.ModelProto, message: str, tmp_path: Path) -> None:
    weight = RNG.standard_normal((16, 5)).astype(np.float32)
    student.graph.initializer.append(onnx.numpy_helper.from_array(weight, "o"))
    with pytest.raises(OptionError, match=message):
        distill(TEACHER, student, SAMPLES, tmp_path / "a.onnx")


def test_logits_are_outputs(tmp_path: Path) -> None:
    options = DistillOptions(epochs=8, learning_rate=0.05, logits=("y",))
    done = distill(TEACHER, STUDENT, SAMPLES, tmp_path / "a.onnx", options)
    assert min(done.errors) < 0.5 * done.errors[0]
    with pytest.raises(OptionError, match=r"`logit` is to be compared as logits, .* it has `y`"):
        wrong = DistillOptions(logits=("logit",))
        distill(TEACHER, STUDENT, SAMPLES, tmp_path / "a.onnx", wrong)


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Run:
    def run(*args: object) -> Outcome:
        code = main([str(arg) for arg in args])
        return Outcome(code, *capfd.readouterr())

    return run


def test_the_command(command: Run, tmp_path: Path) -> None:
    for name, model in (("teacher", TEACHER), ("student", STUDENT)):
        onnx.save(model, tmp_path / f"{name}.onnx")
    np.savez(tmp_path / "data.npz", x=np.concatenate([sample["x"] for sample in SAMPLES]))
    common = ("--teacher", tmp_path / "teacher.onnx", "--student", tmp_path / "student.onnx")
    data = ("--data", tmp_path / "data.npz")
    done = command("distill", *common, *data, "--epochs", "1", "--logits", "y")
    assert done.code == 0, done.err
    assert f"Model: {tmp_path / 'student.distilled.onnx'}" in done.out
    assert " at the start" in done.out
