"""Recipes of compilations: read, and written with what was decided."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import dense_model, onnx_model

import relaxc
from relaxc.errors import OptionError, OutputError
from relaxc.options import CompileOptions, QuantizeOptions, SparsifyOptions
from relaxc.search.recipe import Recipe
from relaxc.search.recipe_file import read_recipe, write_recipe

TEXT = """
quantize:
  scheme: int8
  calibration: percentile
  correct: [equalize, bias]
  exclude: [/head/MatMul]
  layer_calibration: {/stem/Conv: mse}
"""


def test_a_recipe_by_hand(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(TEXT)
    quantize = QuantizeOptions(
        calibration="percentile",
        correct=("equalize", "bias"),
        exclude=("/head/MatMul",),
        layer_calibration={"/stem/Conv": "mse"},
    )
    assert read_recipe(tmp_path / "r.yaml") == Recipe(quantize=quantize)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "there is no recipe in"),
        ("quantize: {scheme: [", "is not YAML"),
        ("quantise: {}", "unknown field `quantise` .did you mean `quantize`"),
        ("quantize: {calibration: msee}", "unknown calibration method `msee`"),
        ("quantize: {layer_calibration: {a: msee}}", "unknown calibration method `msee`"),
        ("quantize: {correct: [bais]}", "unknown correction `bais`"),
    ],
)
def test_bad_recipes(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(OptionError, match=message):
        read_recipe(tmp_path / "r.yaml")


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot read recipe"):
        read_recipe(tmp_path / "r.yaml")


def test_weights_that_were_set_to_zero_are_written_down(tmp_path: Path) -> None:
    onnx.save(dense_model(64, 64), tmp_path / "m.onnx")
    options = CompileOptions(sparsify=SparsifyOptions(pattern=(2, 4)))
    result = relaxc.compile(tmp_path / "m.onnx", tmp_path / "a.rxc", options)
    write_recipe(tmp_path / "r.yaml", options, result)
    assert read_recipe(tmp_path / "r.yaml") == Recipe(sparsify=options.sparsify)


def test_what_was_decided_gives_the_same_model(tmp_path: Path) -> None:
    """One layer's data are a few large numbers among many small ones: it stays float."""
    rng = np.random.default_rng(0)
    model = onnx_model(
        """g (float[8,16] x, float[8,16] z) => (float[8,8] y, float[8,8] u, float[8,8] t) {
            y = MatMul (x, v)
            u = MatMul (z, w)
            t = MatMul (y, u)
        }""",
        v=rng.standard_normal((16, 8)).astype(np.float32),
        w=rng.standard_normal((16, 8)).astype(np.float32),
    )
    onnx.save(model, tmp_path / "m.onnx")
    spiky = rng.standard_normal((8, 16)).astype(np.float32)
    spiky[0, 0] = 1e4
    spiky[1:] *= 1e-3
    plain = rng.standard_normal((8, 16)).astype(np.float32)
    data = [{"x": np.roll(spiky, i), "z": plain} for i in range(8)]
    options = CompileOptions(quantize=QuantizeOptions(speed_gate=False, least_sqnr_db=70))
    first = relaxc.compile(tmp_path / "m.onnx", tmp_path / "a.rxc", options, calibration_data=data)
    kept = {error.node: error.is_kept for error in first.quantized}
    assert set(kept) == {"y", "u"} and not all(kept.values())
    assert first.unquantized == (("t", "its weight is computed by the model, not a constant"),)
    write_recipe(tmp_path / "r.yaml", options, first)
    assert "# t: stays float, its weight" in (tmp_path / "r.yaml").read_text()
    read = read_recipe(tmp_path / "r.yaml")
    assert read.quantize is not None
    assert read.quantize.exclude == tuple(n for n, is_kept in kept.items() if not is_kept)
    again = read.options(CompileOptions())
    relaxc.compile(tmp_path / "m.onnx", tmp_path / "b.rxc", again, calibration_data=data)
    members = [relaxc.load(tmp_path / f"{n}.rxc").run(data[0]) for n in "ab"]
    for name in ("y", "u", "t"):
        np.testing.assert_array_equal(members[0][name], members[1][name])
    with pytest.raises(OutputError, match="cannot write"):
        write_recipe(tmp_path / "nosuch" / "r.yaml", options, first)
