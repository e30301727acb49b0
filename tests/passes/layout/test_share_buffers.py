"""Which tensors become slices of a common buffer."""

from __future__ import annotations

from tvm import relax

from relaxc.layout import Element, Slice
from relaxc.passes.layout.share_buffers import Concatenation, share_buffers


def _vars(*names: str) -> list[relax.Var]:
    return [relax.Var(name, relax.TensorType([1, 16, 4, 4], "float32")) for name in names]


def _floats(*placeable: relax.Var) -> dict[relax.Var, Element]:
    return dict.fromkeys(placeable, "float32")


def test_inputs_lie_side_by_side() -> None:
    a, b, joined = _vars("a", "b", "joined")
    shared = share_buffers([Concatenation(joined, (a, b))], {a: 16, b: 32}, _floats(a, b), {})
    assert shared.slices[a] == Slice(0, 0, 48)
    assert shared.slices[b] == Slice(0, 16, 48)
    assert shared.slices[joined] == Slice(0, 0, 48)


def test_prefixes_are_views_of_the_widest() -> None:
    a, b, c, two, three = _vars("a", "b", "c", "two", "three")
    shared = share_buffers(
        [Concatenation(two, (a, b)), Concatenation(three, (a, b, c))],
        {a: 16, b: 16, c: 16},
        _floats(a, b, c),
        {},
    )
    assert shared.slices[two] == Slice(0, 0, 48)
    assert [place for _, place in shared.parts[two]] == [Slice(0, 0, 48), Slice(0, 16, 48)]


def test_nested_concatenations_are_flattened() -> None:
    a, b, c, inner, outer = _vars("a", "b", "c", "inner", "outer")
    shared = share_buffers(
        [Concatenation(inner, (b, c)), Concatenation(outer, (a, inner))],
        {a: 16, b: 16, c: 16, inner: 32},
        _floats(a, b, c),
        {},
    )
    assert shared.slices[inner] == Slice(0, 16, 48)
    assert [var for var, _ in shared.parts[outer]] == [a, b, c]


def test_a_tensor_has_one_place() -> None:
    a, b, first, second = _vars("a", "b", "first", "second")
    shared = share_buffers(
        [Concatenation(first, (a, b)), Concatenation(second, (b, a))],
        {a: 16, b: 16},
        _floats(a, b),
        {},
    )
    assert shared.slices[a].buffer == shared.slices[b].buffer == 0
    assert [place.buffer for _, place in shared.parts[second]] == [1, 1]  # copied


def test_what_cannot_write_in_place_has_no_slice() -> None:
    a, b, joined = _vars("a", "b", "joined")
    shared = share_buffers([Concatenation(joined, (a, b))], {a: 16, b: 16}, _floats(b), {})
    assert a not in shared.slices and b in shared.slices


def test_the_widest_border_counts() -> None:
    a, b, joined = _vars("a", "b", "joined")
    borders = {a: (1, 0, 0, 0), joined: (0, 2, 0, 0)}
    shared = share_buffers([Concatenation(joined, (a, b))], {a: 16, b: 16}, _floats(a, b), borders)
    assert shared.borders[0] == (1, 2, 0, 0)


def test_neighbours_are_stored_alike() -> None:
    a, b, c, inner, outer = _vars("a", "b", "c", "inner", "outer")
    element = "uint8*0.1-0"
    shared = share_buffers(
        [Concatenation(inner, (a, b)), Concatenation(outer, (inner, c), element)],
        {a: 16, b: 16, c: 16, inner: 32},
        {a: "float32", b: element, c: element},
        {},
    )
    assert shared.parts[outer] == [(inner, Slice(1, 0, 48)), (c, Slice(1, 32, 48))]
    assert shared.slices[a] == Slice(0, 0, 32) and shared.slices[c] == Slice(1, 32, 48)
    assert b not in shared.slices
    assert shared.elements == {0: "float32", 1: element}


def test_what_is_stored_otherwise_is_no_view() -> None:
    a, b, real, integer = _vars("a", "b", "real", "integer")
    element = "uint8*0.1-0"
    shared = share_buffers(
        [Concatenation(real, (a, b)), Concatenation(integer, (a, b), element)],
        {a: 16, b: 16},
        {a: element, b: element},
        {},
    )
    assert shared.slices[real].buffer != shared.slices[integer].buffer
    assert shared.slices[a].buffer == shared.slices[integer].buffer
