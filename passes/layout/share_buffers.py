"""Let the inputs of a concatenation be written where the concatenation wants them.

Given the concatenations of a block, decide which tensors are slices of a common buffer. Then a
concatenation costs nothing: its producers write side by side, in place, and it is a view.

A buffer belongs to the widest concatenation not yet served; narrower ones whose inputs lie there
side by side (a DenseNet's prefixes) are views of the same buffer. All that share one are stored
alike: a concatenation of float32 copies what its producers wrote as integers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tvm import relax

from relaxc.layout import Border, Element, Slice


@dataclass(frozen=True)
class Concatenation:
    """A concatenation along channels.

    Attributes:
        result: its variable.
        inputs: what it joins, in order.
        element: how its elements are stored.
    """

    result: relax.Var
    inputs: tuple[relax.Var, ...]
    element: Element = "float32"


@dataclass
class SharedBuffers:
    """Where tensors lie in common buffers.

    Attributes:
        slices: variable -> its place; concatenations included.
        parts: concatenation -> its inputs, nested concatenations replaced by theirs, each with
            its place in the buffer.
        borders: buffer -> border, the widest that any of its tensors needs.
        elements: buffer -> how its elements are stored.
    """

    slices: dict[relax.Var, Slice] = field(default_factory=dict)
    parts: dict[relax.Var, list[tuple[relax.Var, Slice]]] = field(default_factory=dict)
    borders: dict[int, Border] = field(default_factory=dict)
    elements: dict[int, Element] = field(default_factory=dict)


def share_buffers(
    concatenations: Sequence[Concatenation],
    channels: Mapping[relax.Var, int],
    placeable: Mapping[relax.Var, Element],
    demanded: Mapping[relax.Var, Border],
) -> SharedBuffers:
    """Place the inputs of concatenations.

    Args:
        concatenations: in program order; an input may be the result of another.
        channels: variable -> number of channels.
        placeable: tensors whose producer can write into a slice -> how it stores elements.
        demanded: variable -> border that its readers need.
    """
    shared = SharedBuffers()
    inner = {c.result: c for c in concatenations}
    leaves = {c.result: _leaves(c, inner) for c in concatenations}
    widest = sorted(concatenations, key=lambda c: -len(leaves[c.result]))
    for concatenation in widest:
        if concatenation.result in shared.slices:
            continue
        if _view_of_existing(concatenation, leaves, channels, shared):
            continue
        _new_buffer(concatenation, leaves, channels, placeable, shared)
    for var, place in shared.slices.items():
        old = shared.borders.get(place.buffer, (0, 0, 0, 0))
        need = demanded.get(var, (0, 0, 0, 0))
        top, left, bottom, right = (max(a, b) for a, b in zip(old, need))
        shared.borders[place.buffer] = (top, left, bottom, right)
    return shared


def _leaves(
    concatenation: Concatenation, inner: Mapping[relax.Var, Concatenation]
) -> list[relax.Var]:
    """Inputs, with nested concatenations that are stored alike replaced by theirs."""
    result: list[relax.Var] = []
    for var in concatenation.inputs:
        nested = inner.get(var)
        is_alike = nested is not None and nested.element == concatenation.element
        result.extend(_leaves(nested, inner) if nested is not None and is_alike else [var])
    return result


def _view_of_existing(
    concatenation: Concatenation,
    leaves: Mapping[relax.Var, list[relax.Var]],
    channels: Mapping[relax.Var, int],
    shared: SharedBuffers,
) -> bool:
    """Whether all inputs lie side by side in one buffer already; then so does the result."""
    places = [shared.slices.get(var) for var in leaves[concatenation.result]]
    first = places[0]
    if first is None or shared.elements[first.buffer] != concatenation.element:
        return False
    offset = first.offset
    parts: list[tuple[relax.Var, Slice]] = []
    for var, place in zip(leaves[concatenation.result], places):
        if place is None or place.buffer != first.buffer or place.offset != offset:
            return False
        parts.append((var, place))
        offset += channels[var]
    shared.slices[concatenation.result] = Slice(first.buffer, first.offset, first.total)
    shared.parts[concatenation.result] = parts
    return True


def _new_buffer(
    concatenation: Concatenation,
    leaves: Mapping[relax.Var, list[relax.Var]],
    channels: Mapping[relax.Var, int],
    placeable: Mapping[relax.Var, Element],
    shared: SharedBuffers,
) -> None:
    buffer = len(shared.elements)
    shared.elements[buffer] = concatenation.element
    total = sum(channels[var] for var in leaves[concatenation.result])
    shared.slices[concatenation.result] = Slice(buffer, 0, total)
    offset = 0
    parts: list[tuple[relax.Var, Slice]] = []
    for var in leaves[concatenation.result]:
        place = Slice(buffer, offset, total)
        if placeable.get(var) == concatenation.element and var not in shared.slices:
            shared.slices[var] = place
        parts.append((var, place))
        offset += channels[var]
    shared.parts[concatenation.result] = parts
