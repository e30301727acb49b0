"""Options: read and validated."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaxc.errors import OptionError
from relaxc.options import (
    CompileOptions,
    DistillOptions,
    PruneOptions,
    QuantizeOptions,
    SparsifyOptions,
    parse_input_shapes,
    parse_pruning,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x:[1,3,224,224]", {"x": (1, 3, 224, 224)}),
        ("x:1x3x224x224", {"x": (1, 3, 224, 224)}),
        ("x:[1, 3],y:[n,5]", {"x": (1, 3), "y": ("n", 5)}),
        (" x : [2] , y : 3x4 ", {"x": (2,), "y": (3, 4)}),
        ("input:0:[1,2]", {"input:0": (1, 2)}),
        ("a/b.c:[7]", {"a/b.c": (7,)}),
        ("scalar:[]", {"scalar": ()}),
        ("x:5", {"x": (5,)}),
    ],
)
def test_shapes_are_read_in_both_spellings(text: str, expected: dict[str, object]) -> None:
    assert parse_input_shapes(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no input shapes given"),
        ("x", "cannot read input shapes from `x`"),
        ("x:[1,3", "cannot read input shapes"),
        ("x:[1,,3]", "`` in `.*` is neither a number nor a name"),
        ("x:[1.5]", "`1.5` in `.*` is neither a number nor a name"),
        ("x:[0,3]", "dimension 0 in `.*` must be at least 1"),
        ("x:[-1]", "dimension -1 in `.*` must be at least 1"),
    ],
)
def test_unreadable_shapes_are_refused(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_input_shapes(text)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        shapes = parse_input_shapes(text)
    except OptionError:
        return
    assert all(isinstance(dim, str) or dim >= 1 for shape in shapes.values() for dim in shape)


def test_the_optimization_level_has_four_values() -> None:
    with pytest.raises(OptionError, match="opt_level must be 0, 1, 2 or 3, not 4"):
        CompileOptions(opt_level=4)


def test_dimensions_are_positive() -> None:
    with pytest.raises(OptionError, match="dimension 0 of input `x` must be at least 1"):
        CompileOptions(input_shapes={"x": (0, 3)})


def test_calibration_methods_are_checked() -> None:
    with pytest.raises(OptionError, match=r"`minmx` \(did you mean `minmax`\?\)"):
        QuantizeOptions(calibration="minmx")  # type: ignore[arg-type]


def test_schemes_and_groups_are_checked() -> None:
    with pytest.raises(OptionError, match=r"`int4` .*schemes are `int8`, `int8-dynamic`"):
        QuantizeOptions(scheme="int4")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="a multiple of 8, not 20"):
        QuantizeOptions(scheme="int4-weights", group_size=20)
    with pytest.raises(OptionError, match="weights only, or dynamically"):
        QuantizeOptions(scheme="int8", group_size=32)


def test_excluded_nodes_are_patterns() -> None:
    with pytest.raises(OptionError, match="neither a node's name nor a regular expression"):
        QuantizeOptions(exclude=("conv(",))


def test_pruning_is_read() -> None:
    assert parse_pruning("macs=0.5") == ("macs", 0.5)
    assert parse_pruning("unstructured=0.9") == ("unstructured", 0.9)
    assert parse_pruning("block=0.8") == ("block", 0.8)
    assert parse_pruning("2:4") == (2, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mac=0.5", r"cannot read `mac=0.5` \(did you mean `macs`\?\)"),
        ("macs", "cannot read `macs`"),
        ("macs=half", "`half` in `macs=half` is not a number"),
    ],
)
def test_unreadable_pruning_is_refused(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_pruning(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1.0}, "must be between 0 and 1, not 1"),
        ({"share": 0.0}, "must be between 0 and 1, not 0"),
        ({"saving": "mac"}, r"unknown thing to save `mac` \(did you mean `macs`\?\)"),
        ({"importance": "l3"}, "unknown importance `l3`"),
        ({"scope": "globl"}, r"unknown scope `globl` \(did you mean `global` or `local`\?\)"),
        ({"round_to": 0}, "round_to must be `auto` or at least 1, not 0"),
        ({"exclude": ("(",)}, "neither a node's name nor a regular expression"),
    ],
)
def test_bad_pruning_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        PruneOptions(**{"saving": "macs", "share": 0.5, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "weights that become zero must be between 0 and 1, not 0"),
        ({"pattern": (4, 4)}, "a pattern keeps some of several weights, as 2:4 does, not 4:4"),
        ({"pattern": (2, 4), "share": 0.5}, "not 2:4 with a share"),
        ({"pattern": (2, 4), "blocks": True}, "not 2:4 in blocks"),
        ({"share": 1.2, "blocks": True}, "share of blocks that become zero must be between 0 and"),
        ({"share": 0.5, "criterion": "wonda"}, r"unknown criterion `wonda` \(did you mean `wanda`"),
    ],
)
def test_bad_sparsity_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        SparsifyOptions(**options)


def test_corrections_are_those_of_the_scheme() -> None:
    with pytest.raises(OptionError, match="`fp8-weights` has no integers to train"):
        QuantizeOptions(scheme="fp8-weights", distill=DistillOptions())
    with pytest.raises(OptionError, match="correction `bias` is not for scheme `int4-weights`"):
        QuantizeOptions(scheme="int4-weights", correct=("bias",))
    with pytest.raises(OptionError, match="correction `scale` is not for scheme `int8`, which has"):
        QuantizeOptions(correct=("scale",))
    assert QuantizeOptions().corrections == ("smooth", "round", "bias")
    assert QuantizeOptions(scheme="int8-weights").corrections == ("round",)
    assert QuantizeOptions(correct=()).corrections == ()
