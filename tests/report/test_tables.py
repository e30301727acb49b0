"""Tables for the terminal."""

from __future__ import annotations

from relaxc.report.tables import facts, table


def test_a_table_aligns_words_left_and_numbers_right() -> None:
    lines = table(("Name", "ms"), [("conv", "1.5"), ("a/longer/name", "10.25")]).splitlines()
    assert lines[0].split() == ["Name", "ms"]
    assert lines[2].startswith(" conv ")
    assert lines[2].endswith("  1.5")
    assert lines[3].endswith(" 10.25")


def test_cells_are_not_markup() -> None:
    assert "[1, 3]" in table(("Shape",), [("[1, 3]",)])
    assert "[bold]" in table(("Shape",), [("[bold]",)])


def test_a_table_without_rows_has_a_head() -> None:
    assert "Name" in table(("Name",), [])


def test_facts_are_aligned() -> None:
    assert facts([("A", "1"), ("Long", "2")]) == "A:    1\nLong: 2"
