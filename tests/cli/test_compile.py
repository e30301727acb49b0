"""relaxc compile."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import onnx_model
from commands import Run

from relaxc.artifact import read_artifact


def test_the_summary(relaxc: Run, conv_onnx: Path, tmp_path: Path) -> None:
    done = relaxc("compile", conv_onnx, "-o", tmp_path / "a.rxc")
    assert (done.code, done.err) == (0, "")
    assert "Input:       x: float32[1, 3, 8, 8]" in done.out
    assert "Compiled in: " in done.out
    assert (tmp_path / "a.rxc").is_file()


def test_the_artifact_lands_beside_the_model(relaxc: Run, conv_onnx: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(conv_onnx.read_bytes())
    assert relaxc("compile", model).code == 0
    assert (tmp_path / "model.rxc").is_file()


def test_json(relaxc: Run, conv_onnx: Path, tmp_path: Path) -> None:
    done = relaxc("compile", conv_onnx, "-o", tmp_path / "a.rxc", "--json")
    document = done.json
    assert document["schema_version"] == 1
    assert document["command"] == "compile"
    assert list(document["seconds"]) == ["import", "passes", "codegen", "write"]
    assert document["size_bytes"] == (tmp_path / "a.rxc").stat().st_size
    assert document["passes"][0]["name"] == "fold-empty"
    assert document["manifest"]["model"]["name"] == "conv"


def test_options_reach_the_manifest(relaxc: Run, conv_onnx: Path, tmp_path: Path) -> None:
    args = ["-O2", "--disabled-pass", "fold-batch-norm", "--input-shapes", "x:1x3x8x8"]
    assert relaxc("compile", conv_onnx, "-o", tmp_path / "a.rxc", *args).code == 0
    options = read_artifact(tmp_path / "a.rxc").manifest["options"]
    assert options["opt_level"] == 2
    assert options["disabled_passes"] == ["fold-batch-norm"]
    assert options["input_shapes"] == {"x": [1, 3, 8, 8]}


def test_times_of_passes(relaxc: Run, conv_onnx: Path, tmp_path: Path) -> None:
    done = relaxc("compile", conv_onnx, "-o", tmp_path / "a.rxc", "--print-pass-times")
    assert "fold-batch-norm" in done.out
    assert "changed" in done.out


def test_printed_ir_reaches_stdout(relaxc: Run, conv_onnx: Path, tmp_path: Path) -> None:
    args = ["--print-ir-before", "fold-batch-norm", "--print-ir-after", "fold-batch-norm"]
    done = relaxc("compile", conv_onnx, "-o", tmp_path / "a.rxc", *args)
    before, after = done.out.split("# IR after fold-batch-norm")
    assert "# IR before fold-batch-norm" in before
    assert "batch_norm" in before
    assert "R.nn.batch_norm" not in after


def test_the_dump_folder(relaxc: Run, conv_onnx: Path, tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    assert relaxc("compile", conv_onnx, "-o", tmp_path / "a.rxc", "--dump-dir", dump).code == 0
    names = {path.name for path in dump.iterdir()}
    assert {"00-imported.py", "01-fold-empty.py", "assembly.s", "manifest.json"} <= names
    assert json.loads((dump / "manifest.json").read_text())["model"]["name"] == "conv"


def test_verified_passes(relaxc: Run, conv_onnx: Path, tmp_path: Path) -> None:
    assert relaxc("compile", conv_onnx, "-o", tmp_path / "a.rxc", "--verify").code == 0


def test_warnings_go_to_stderr(relaxc: Run, tmp_path: Path) -> None:
    import numpy as np

    weight = np.array([1, np.nan], np.float32)
    model = onnx_model("g (float[2] x) => (float[2] y) { y = Mul(x, w) }", w=weight)
    onnx.save(model, tmp_path / "a.onnx")
    done = relaxc("compile", tmp_path / "a.onnx", "--json")
    assert done.code == 0
    assert done.err == "warning: weight `w` holds 1 NaN values\n"
    assert done.json["warnings"] == ["weight `w` holds 1 NaN values"]


def test_native_messages_do_not_reach_the_user(relaxc: Run, tmp_path: Path) -> None:
    model = onnx_model("g (float[5,3] x, int64[2] i) => (float[2,3] y) { y = Gather(x, i) }")
    onnx.save(model, tmp_path / "a.onnx")
    assert relaxc("compile", tmp_path / "a.onnx").err == ""


def test_a_failing_import_prints_its_error_only(relaxc: Run, tmp_path: Path) -> None:
    model = onnx_model("g (float[6] x, double[6] s) => (float[6] y) { y = Add(x, s) }")
    onnx.save(model, tmp_path / "a.onnx")
    done = relaxc("compile", tmp_path / "a.onnx")
    assert done.code == 2
    assert done.err.startswith("error: ONNX op `Add` (node `y`, opset 18)")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["-o", "nosuch/a.rxc"], 73, "folder `nosuch` does not exist"),
        (["-o", "."], 73, "it is a folder; give a file name"),
        (["--target", "lvm"], 2, "unknown target `lvm` (did you mean `llvm`?)"),
        (["--disabled-pass", "fold-batchnorm"], 2, "(did you mean `fold-batch-norm`"),
        (["--disabled-pass", "legalize-ops"], 2, "cannot be disabled"),
        (["--print-ir-after", "nosuch"], 2, "unknown pass `nosuch`"),
        (["--input-shapes", "x:[1"], 2, "cannot read input shapes"),
        (["--input-shapes", "z:[1]"], 2, "but the model's inputs are `x`"),
    ],
)
def test_bad_options(
    relaxc: Run,
    conv_onnx: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = relaxc("compile", conv_onnx, *args, *([] if "-o" in args else ["-o", "a.rxc"]))
    assert done.code == code
    assert message in done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_dump_folder_that_cannot_be_written(relaxc: Run, conv_onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    dump = tmp_path / "file" / "dump"
    done = relaxc("compile", conv_onnx, "-o", tmp_path / "a.rxc", "--dump-dir", dump)
    assert done.code == 73
    assert "cannot write to dump folder" in done.err


def test_quantization(relaxc: Run, conv_onnx: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    samples = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)
    np.savez(data, x=samples)
    args = ["--quantize", "int8", "--calibrate", data, "--calibration", "mse"]
    args += ["--correct", "smooth,bias"]
    args += ["--disabled-pass", "correct-bias"]
    done = relaxc("compile", conv_onnx, "-o", tmp_path / "a.rxc", *args)
    assert (done.code, done.err) == (0, "")
    manifest = read_artifact(tmp_path / "a.rxc").manifest
    assert manifest["options"]["quantize"] == {
        "scheme": "int8",
        "calibration": "mse",
        "correct": ["smooth", "bias"],
        "layer_calibration": {},
        "least_sqnr_db": 34.0,
        "most_noise": None,
        "per_channel": True,
        "symmetric": False,
        "exclude": [],
        "group_size": None,
        "speed_gate": True,
        "distill": None,
    }
    assert "Speed gate" in done.out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--quantize", "int8"], "`--quantize int8` needs calibration data"),
        (["--calibrate", "data.npz"], "`--calibrate` goes with `--quantize`"),
        (["--no-speed-gate"], "`--speed-gate/--no-speed-gate` goes with `--quantize`"),
        (["--quantize", "int8", "--calibrate", "data.npz"], "`data.npz` does not exist"),
        (["--quantize", "int8", "--correct", "bais"], "unknown correction `bais` (did you mean"),
        (["--quantize", "int4-weights", "--group-size", "12"], "multiple of 8, not 12"),
        (["--group-size", "32"], "`--group-size` goes with `--quantize`"),
        (
            ["--quantize", "int8-dynamic", "--most-noise", "0"],
            "most_noise is a share of the signal",
        ),
        (["--quantize", "int8-dynamic", "--least-sqnr", "nan"], "must be a number of decibels"),
        (["--recover", "data.npz"], "with a recipe, give samples with `--calibrate`"),
        (["--try-exclusions"], "`--try-exclusions` go with `--quantize int8`"),
    ],
)
def test_quantization_needs_data(
    args: list[str], message: str, relaxc: Run, conv_onnx: Path, tmp_path: Path
) -> None:
    done = relaxc("compile", conv_onnx, "-o", tmp_path / "a.rxc", *args)
    assert done.code == 2 and message in done.err
    assert not (tmp_path / "a.rxc").exists()


def test_a_recipe_that_cannot_be_written(relaxc: Run, conv_onnx: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "a.rxc"
    done = relaxc("compile", conv_onnx, "-o", artifact, "--save-recipe", tmp_path)
    assert done.code == 73 and "it is a folder; give a file name" in done.err
    assert not artifact.exists()


RECIPE = """
prune: {saving: channels, share: 0.5, round_to: 1, recover: true}
quantize: {scheme: int8}
"""


def test_a_recipe_prunes_and_quantizes(relaxc: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = onnx_model(
        """g (float[4,32] x) => (float[4,32] y) {
            a = MatMul (x, v)
            b = Relu (a)
            y = MatMul (b, w)
        }""",
        v=rng.standard_normal((32, 32)).astype(np.float32),
        w=rng.standard_normal((32, 32)).astype(np.float32),
    )
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / "r.yaml").write_text(RECIPE)
    np.savez(tmp_path / "data.npz", x=rng.standard_normal((64, 32)).astype(np.float32))
    args = ("--recipe", tmp_path / "r.yaml", "--calibrate", tmp_path / "data.npz")
    done = relaxc("compile", tmp_path / "m.onnx", "-o", tmp_path / "a.rxc", *args)
    assert done.code == 0, done.err
    options = read_artifact(tmp_path / "a.rxc").manifest["options"]
    assert (options["prune"]["share"], options["quantize"]["scheme"]) == (0.5, "int8")


@pytest.mark.parametrize(
    ("recipe", "args", "message"),
    [
        ("precision: bfloat16", ["--prune", "2:4"], "a recipe says how to quantize, prune and"),
        (RECIPE, [], "needs samples; give them with `--calibrate`"),
        ("sparsify: {share: 0.5, recover: true}", [], "needs samples; give them with"),
    ],
)
def test_what_does_not_go_with_a_recipe(
    recipe: str, args: list[str], message: str, relaxc: Run, conv_onnx: Path, tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text(recipe)
    done = relaxc("compile", conv_onnx, "--recipe", tmp_path / "r.yaml", *args)
    assert done.code == 2 and message in done.err
