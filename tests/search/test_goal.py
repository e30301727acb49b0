"""Goals, and how people write them."""

from __future__ import annotations

import pytest

from relaxc.errors import OptionError
from relaxc.search.goal import Goal, MaxDrop, parse_duration, parse_latency, parse_size


def test_drops() -> None:
    assert MaxDrop.parse("1%").allowed(0.8) == pytest.approx(0.008)
    assert MaxDrop.parse("0.5pt").allowed(0.8) == pytest.approx(0.005)
    assert MaxDrop.parse("1%").allowed(-20) == pytest.approx(0.2)
    assert str(MaxDrop.parse("0.5 pt")) == "0.5pt"
    assert str(MaxDrop()) == "1%"


@pytest.mark.parametrize("text", ["1", "%", "-1%", "one%", "1%%", "nan%"])
def test_no_drops(text: str) -> None:
    with pytest.raises(OptionError, match="cannot read `.*` as a drop; write `1%`"):
        MaxDrop.parse(text)


def test_units() -> None:
    assert parse_size("10MB") == 10e6
    assert parse_size("512 KiB") == 512 * 1024
    assert parse_latency("800us") == 0.8
    assert parse_duration("1.5m") == 90


@pytest.mark.parametrize(
    ("parse", "what"),
    [(parse_size, "size"), (parse_latency, "latency"), (parse_duration, "duration")],
)
@pytest.mark.parametrize("text", ["", "ten", "5 parsecs", "-3s"])
def test_no_units(parse: object, what: str, text: str) -> None:
    assert callable(parse)
    with pytest.raises(OptionError, match=f"cannot read `{text}` as a {what}"):
        parse(text)


def test_limits_are_positive() -> None:
    with pytest.raises(OptionError, match="must be positive"):
        Goal(max_latency_ms=0)
    with pytest.raises(OptionError, match="must not be negative"):
        MaxDrop(-0.1)
    with pytest.raises(
        OptionError, match="must be below 100 % of the float model's score, not 200%"
    ):
        MaxDrop.parse("200%")
    assert MaxDrop.parse("200pt").amount == 2  # of PSNR in decibels, for instance
