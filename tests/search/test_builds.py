"""What the search reads off a build."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from builders import relu_model

from relaxc import CompileOptions, compile
from relaxc.errors import OptionError
from relaxc.options import QuantizeOptions
from relaxc.search.builds import code_of, require_new
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
