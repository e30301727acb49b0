"""Pruning from the ONNX model to the artifact, in Python and on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import onnx_model
from commands import Outcome, Run

import relaxc
from relaxc.cli import main
from relaxc.errors import InputError, OptionError
from relaxc.options import CompileOptions, PruneOptions, QuantizeOptions, SparsifyOptions
from relaxc.pruning import pruning_passes
from relaxc.targets.llvm.backend import LlvmBackend
from relaxc.targets.registry import backend_for

HALF = PruneOptions(saving="channels", share=0.5, round_to=1)


def model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    mixed = np.einsum("om,mi->oi", rng.standard_normal((16, 5)), rng.standard_normal((5, 3)))
    weights = {"w": mixed[:, :, None, None], "v": rng.standard_normal((6, 16, 3, 3))}
    graph = """g (float[n,3,8,8] x) => (float[n,6,6,6] y) {
        first = Conv(x, w)  y = Conv(first, v)
    }"""
    return onnx_model(graph, 18, **{k: w.astype(np.float32) for k, w in weights.items()})


def feeds(count: int = 24) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


def result(path: Path) -> np.ndarray:
    loaded = relaxc.load(path)
    return np.concatenate([np.asarray(loaded(**feed)) for feed in feeds(4)])


def test_recovery_brings_the_result_back(tmp_path: Path) -> None:
    relaxc.compile(model(), tmp_path / "dense.rxc")
    recover = PruneOptions(saving="channels", share=0.5, round_to=1, recover=True)
    bare = relaxc.compile(model(), tmp_path / "bare.rxc", CompileOptions(prune=HALF))
    options = CompileOptions(prune=recover)
    done = relaxc.compile(model(), tmp_path / "a.rxc", options, recovery_data=feeds())
    assert done.pruned is not None
    assert [(g.before, g.after) for g in done.pruned.groups] == [(16, 8)]
    layers = {layer["name"]: layer["macs"] for layer in done.manifest["layers"]}
    assert layers["first"] == 3 * 8 * 64
    assert bare.manifest["options"]["prune"]["recover"] is False
    dense = result(tmp_path / "dense.rxc")
    lost = np.abs(result(tmp_path / "bare.rxc") - dense).mean()
    # Sixteen channels of three inputs: eight of them say it all.
    assert np.abs(result(tmp_path / "a.rxc") - dense).mean() < 0.02 * lost


def test_pruned_and_quantized(tmp_path: Path) -> None:
    options = CompileOptions(prune=HALF, quantize=QuantizeOptions(speed_gate=False))
    done = relaxc.compile(
        model(), tmp_path / "int8.rxc", options, calibration_data=feeds(), recovery_data=feeds()
    )
    assert done.pruned is not None
    relaxc.compile(model(), tmp_path / "float.rxc", CompileOptions(prune=HALF))
    expected = result(tmp_path / "float.rxc")
    assert np.abs(result(tmp_path / "int8.rxc") - expected).max() < 0.05 * np.abs(expected).max()


def test_judging_by_samples_needs_samples(tmp_path: Path) -> None:
    options = CompileOptions(prune=PruneOptions(saving="macs", share=0.5, importance="obs"))
    with pytest.raises(OptionError, match="pruning by importance `obs` needs samples"):
        relaxc.compile(model(), tmp_path / "a.rxc", options)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "there are no samples to prune by"),
        ([{"z": np.zeros(3, np.float32)}], "sample 1 has no input `x`"),
        ([{"x": np.zeros((1, 3, 9, 8), np.float32)}], r"sample 1 does not fit: .*\[1, 3, 9, 8\]"),
        ([{"x": np.zeros((1, 3, 8, 8))}], "sample 1 does not fit: .*float64"),
    ],
)
def test_samples_must_fit(data: list[dict[str, np.ndarray]], message: str, tmp_path: Path) -> None:
    prune = PruneOptions(saving="channels", share=0.5, recover=True)
    with pytest.raises(InputError, match=message):
        options = CompileOptions(prune=prune)
        relaxc.compile(model(), tmp_path / "a.rxc", options, recovery_data=data)


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Run:
    def run(*args: object) -> Outcome:
        code = main([str(arg) for arg in args])
        return Outcome(code, *capfd.readouterr())

    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(model(), path)
    return path


def test_the_command(command: Run, file: Path, tmp_path: Path) -> None:
    data = tmp_path / "samples.npz"
    np.savez(data, x=np.concatenate([feed["x"] for feed in feeds()]))
    done = command(
        *("compile", file, "--prune", "channels=0.5", "--importance", "obs", "--recover", data),
        *("--round-to", "1", "--scope", "global"),
    )
    assert done.code == 0, done.err
    assert "Pruned:" in done.out
    assert "50% MACs and 50% parameters less, in 1 of 1 groups of channels" in done.out


def test_weights_become_zero(tmp_path: Path) -> None:
    options = CompileOptions(sparsify=SparsifyOptions(pattern=(2, 4), criterion="obs"))
    relaxc.compile(model(), tmp_path / "dense.rxc")
    relaxc.compile(model(), tmp_path / "a.rxc", options, recovery_data=feeds())
    expected = result(tmp_path / "dense.rxc")
    error = np.abs(result(tmp_path / "a.rxc") - expected).mean()
    plain = CompileOptions(sparsify=SparsifyOptions(pattern=(2, 4)))
    relaxc.compile(model(), tmp_path / "b.rxc", plain)
    assert 0 < error < 0.2 * np.abs(result(tmp_path / "b.rxc") - expected).mean()


def test_blocks_are_left_out(command: Run, tmp_path: Path) -> None:
    """The layer that gains by it, and no other; the numbers are those of the zeros."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((64, 48, 1, 1)), "v": rng.standard_normal((8, 64, 1, 1))}
    graph = """g (float[1,48,9,9] x) => (float[1,8,1,1] y) {
        first = Conv(x, w)  m = GlobalAveragePool(first)  y = Conv(m, v)
    }"""
    file, artifact = tmp_path / "model.onnx", tmp_path / "model.rxc"
    onnx.save(onnx_model(graph, 18, **{k: w.astype(np.float32) for k, w in weights.items()}), file)
    done = command("compile", file, "-o", artifact, "--prune", "block=0.75", "--keep", "y")
    assert done.code == 0, done.err
    assert "Zeros left out: first (75% of blocks," in " ".join(done.out.split())
    x = rng.standard_normal((1, 48, 9, 9)).astype(np.float32)
    lanes = backend_for("llvm").block_outputs
    assert lanes is not None
    matrix = weights["w"][:, :, 0, 0]
    norms = (matrix**2).reshape(-1, lanes, 48).sum(1)
    kept = norms > np.sort(norms, axis=None)[int(0.75 * norms.size) - 1]
    matrix = matrix * np.repeat(kept, lanes, axis=0)
    expected = weights["v"][:, :, 0, 0] @ matrix @ x.mean((2, 3))[0]
    np.testing.assert_allclose(relaxc.load(artifact)(x).ravel(), expected, rtol=0, atol=1e-4)


def test_blocks_need_kernels_that_leave_them_out() -> None:
    class Other(LlvmBackend):
        block_outputs = None  # type: ignore[assignment]

    options = CompileOptions(sparsify=SparsifyOptions(share=0.5, blocks=True))
    backend = Other(backend_for("llvm").target)
    with pytest.raises(OptionError, match="no kernel leaves out blocks of zeros on this target"):
        pruning_passes(options, backend, lambda *_: iter(()), list, print, print)


def test_weights_judged_by_samples_need_samples(tmp_path: Path) -> None:
    options = CompileOptions(sparsify=SparsifyOptions(share=0.5, criterion="wanda"))
    with pytest.raises(OptionError, match="pruning weights by `wanda` needs samples"):
        relaxc.compile(model(), tmp_path / "a.rxc", options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--recover", "a.npz"), "`--recover` goes with `--prune`; with a recipe"),
        (("--scope", "global"), "`--scope` goes with `--prune`"),
        (("--prune", "macs=0.5", "--importance", "wanda"), "`--importance wanda` needs samples"),
        (("--prune", "macs=0.5", "--distill", "3"), "`--distill` needs samples"),
        (("--distill", "3"), "`--distill` goes with `--prune` or `--quantize`"),
        (
            ("--quantize", "int4-weights", "--distill", "3"),
            "needs samples; give them with `--recover` or `--calibrate`",
        ),
        (("--prune", "macs=0.5", "--augment", "flip"), "`--augment` goes with `--distill`"),
        (("--prune", "macs=0.5", "--distill-batch", "8"), "`--distill-batch` goes with"),
        (("--prune", "macs=0.5", "--round-to", "x"), "is neither `auto` nor a number"),
        (("--prune", "macs=1.5"), "must be between 0 and 1, not 1.5"),
        (("--prune", "macs=0.5", "--prune", "params=0.5"), "channels can be pruned in one way"),
        (("--prune", "2:4", "--prune", "unstructured=0.5"), "weights can be pruned in one way"),
        (
            ("--prune", "2:4", "--importance", "activation", "--samples", "."),
            "`--importance activation` is for channels; use `wanda`",
        ),
    ],
)
def test_options_that_do_not_fit(
    command: Run, file: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = command("compile", file, *arguments)
    assert done.code == 2
    assert message in done.err
