"""What the search reads off a build."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import relu_model

from relaxc import CompileOptions, compile
from relaxc.errors import OptionError
from relaxc.gate.layers import LayerSpeed
from relaxc.gate.speed_gate import GateReport
from relaxc.options import QuantizeOptions
from relaxc.passes.quantize.layer_errors import LayerError
from relaxc.search.builds import channels_of, code_of, layers_of, require_new
from relaxc.search.journal import Trial
from relaxc.search.recipe import Recipe


def test_a_recipe_that_changes_nothing(tmp_path: Path) -> None:
    """There is no product in the model whose weights could be rounded."""
    whole = compile(relu_model(), tmp_path / "a.rxc")
    dynamic = CompileOptions(quantize=QuantizeOptions(scheme="int8-dynamic"))
    rounded = compile(relu_model(), tmp_path / "b.rxc", dynamic)
    first = Trial(0, Recipe(), 1.0, code=code_of(whole))
    second = Trial(1, Recipe(quantize=dynamic.quantize), code=code_of(rounded))
    with pytest.raises(OptionError, match="changes nothing: it is the code of `float32`"):
        require_new(second, [first])
    require_new(second, [replace(first, error="failed")])
    require_new(second, [replace(first, code="other")])


def test_what_quantization_did_to_each_layer(tmp_path: Path) -> None:
    built = compile(relu_model(), tmp_path / "a.rxc")
    assert (layers_of(built), channels_of(built)) == ([], [])
    speeds = (
        LayerSpeed(("a", "b"), 2e-6, 1e-6, True, "faster"),
        LayerSpeed(("c",), 1e-6, 2e-6, False, "slower"),
    )
    shift = np.zeros(1)
    errors = (
        LayerError("a", "lv1", 30.0, 0.99, shift),
        LayerError("b", "lv2", 20.0, 0.9, shift),
        LayerError("d", "lv3", float("inf"), 1.0, shift),
    )
    found = layers_of(replace(built, gate=GateReport(speeds, 3e-6, 3e-6, 2e-6), quantized=errors))
    assert [layer["nodes"] for layer in found] == [["a", "b"], ["c"], ["d"]]
    assert [layer["sqnr_db"] for layer in found] == [20.0, None, None]
    assert [layer["is_integer"] for layer in found] == [True, False, True]
    assert found[1]["reason"] == "slower"
    assert found[0]["float_us"] == pytest.approx(2)
    assert found[2]["integer_us"] is None
