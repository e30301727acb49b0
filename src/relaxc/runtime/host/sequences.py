"""Sequences and optionals."""

from __future__ import annotations

from typing import Any

import numpy as np

from relaxc.runtime.host.base import Attributes, Function, Inputs, integer, optional


def _position(value: np.ndarray, count: int, limit: int) -> int:
    """A position in a sequence, which may count from its end.

    Raises:
        ValueError: it lies outside.
    """
    position = integer(value)
    if not -count <= position < limit:
        raise ValueError(f"position {position} lies outside of a sequence of {count}")
    return position + count if position < 0 else position


def construct(inputs: Inputs, _attrs: Attributes) -> list[Any]:
    """SequenceConstruct."""
    return [list(inputs)]


def empty(_inputs: Inputs, _attrs: Attributes) -> list[Any]:
    """SequenceEmpty."""
    return [[]]


def at(inputs: Inputs, _attrs: Attributes) -> list[Any]:
    """SequenceAt."""
    sequence, position = inputs
    return [sequence[_position(position, len(sequence), len(sequence))]]


def insert(inputs: Inputs, _attrs: Attributes) -> list[Any]:
    """SequenceInsert: at the end where no position is given."""
    sequence, tensor = inputs[:2]
    where = optional(inputs, 2)
    count = len(sequence)
    position = count if where is None else _position(where, count, count + 1)
    return [[*sequence[:position], tensor, *sequence[position:]]]


def erase(inputs: Inputs, _attrs: Attributes) -> list[Any]:
    """SequenceErase: the last where no position is given."""
    sequence, where = inputs[0], optional(inputs, 1)
    count = len(sequence)
    position = _position(np.array(-1) if where is None else where, count, count)
    return [[*sequence[:position], *sequence[position + 1 :]]]


def length(inputs: Inputs, _attrs: Attributes) -> list[Any]:
    """SequenceLength."""
    return [np.array(len(inputs[0]), np.int64)]


def split(inputs: Inputs, attrs: Attributes) -> list[Any]:
    """SplitToSequence: by one length, by many, or into single slices.

    Raises:
        ValueError: the lengths do not add up.
    """
    data, lengths = inputs[0], optional(inputs, 1)
    axis = int(attrs.get("axis", 0))
    size = data.shape[axis]
    if lengths is None:
        parts = [np.take(data, [i], axis) for i in range(size)]
        if not attrs.get("keepdims", 1):
            parts = [np.squeeze(part, axis) for part in parts]
        return [parts]
    if lengths.ndim == 0:
        step = integer(lengths)
        if step <= 0:
            raise ValueError(f"parts of length {step} are asked for")
        ends = list(range(step, size, step))
    else:
        if (lengths < 0).any() or lengths.sum() != size:
            raise ValueError(f"parts of {lengths.tolist()} do not add up to {size}")
        ends = np.cumsum(lengths)[:-1].tolist()
    return [np.split(data, ends, axis)]


def concat(inputs: Inputs, attrs: Attributes) -> list[Any]:
    """ConcatFromSequence, along an axis of the tensors or a new one.

    Raises:
        ValueError: the sequence is empty.
    """
    (sequence,) = inputs
    if not sequence:
        raise ValueError("the sequence to concatenate is empty")
    join = np.stack if attrs.get("new_axis", 0) else np.concatenate
    return [join(sequence, axis=int(attrs["axis"]))]


def make_optional(inputs: Inputs, _attrs: Attributes) -> list[Any]:
    """Optional: with its element, or empty."""
    return [optional(inputs, 0)]


def get_element(inputs: Inputs, _attrs: Attributes) -> list[Any]:
    """OptionalGetElement.

    Raises:
        ValueError: the optional is empty.
    """
    if inputs[0] is None:
        raise ValueError("the optional is empty")
    return [inputs[0]]


def has_element(inputs: Inputs, _attrs: Attributes) -> list[Any]:
    """OptionalHasElement."""
    return [np.array(optional(inputs, 0) is not None)]


FUNCTIONS: dict[str, Function] = {
    "SequenceConstruct": construct,
    "SequenceEmpty": empty,
    "SequenceAt": at,
    "SequenceInsert": insert,
    "SequenceErase": erase,
    "SequenceLength": length,
    "SplitToSequence": split,
    "ConcatFromSequence": concat,
    "Optional": make_optional,
    "OptionalGetElement": get_element,
    "OptionalHasElement": has_element,
}
