"""Valid models with something changed: bytes of the file, or fields of the protobuf."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import onnx
from fuzz.cases import random_case
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

# Models to start from; every mutant takes one of them.
_ORIGINALS = 400
_NUMBERS = (0, 1, -1, 2, 3, 7, 64, 255, 1 << 20, (1 << 31) - 1, -(1 << 31), 1 << 31, (1 << 62) + 1)
_FLOATS = (0.0, -1.0, 1e-30, 1e30, float("inf"), float("nan"))
_OPERATORS = (
    "Add",
    "Conv",
    "Reshape",
    "If",
    "Loop",
    "LSTM",
    "Gemm",
    "NoSuch",
    "",
    "Resize",
    "Cast",
)

Mutation = Callable[[random.Random, bytes], bytes]


def random_mutant(seed: int) -> tuple[bytes, list[dict[str, np.ndarray]]]:
    """A mutant's bytes, and what its original is fed."""
    rng = random.Random(seed)
    model, trials = random_case(rng.randrange(_ORIGINALS))
    data = model.SerializeToString()
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_MUTATIONS)(rng, data)
    return data, trials


def _flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(rng: random.Random, data: bytes) -> bytes:
    at, size = rng.randrange(len(data) + 1), rng.choice((1, 2, 4, 16))
    return data[:at] + rng.randbytes(size) + data[at + size :]


def _delete(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.choice((1, 2, 8, 64)) :]


def _truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _duplicate(rng: random.Random, data: bytes) -> bytes:
    at, to = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
    return data[:to] + data[at : at + rng.choice((4, 16, 128))] + data[to:]


def _field(rng: random.Random, data: bytes) -> bytes:
    """Change one field of one message."""
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError:
        return _flip(rng, data)
    messages = [m for m in _messages(model) if m.ListFields()]
    if not messages:
        return data
    message = rng.choice(messages)
    field, value = rng.choice(message.ListFields())
    repeated = hasattr(value, "__len__") and not isinstance(value, str | bytes)
    if rng.random() < 0.2:
        message.ClearField(field.name)
    elif repeated and len(value) and rng.random() < 0.4:
        at = rng.randrange(len(value))
        if rng.random() < 0.5:
            del value[at]
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            value.add().CopyFrom(value[at])
        else:
            value.append(value[at])
    elif field.type != FieldDescriptor.TYPE_MESSAGE:
        new = _other(rng, field, value[0] if repeated and len(value) else value, model)
        try:
            if repeated:
                value[rng.randrange(len(value))] = new
            else:
                setattr(message, field.name, new)
        except (ValueError, TypeError, IndexError):
            return data
    return bytes(model.SerializeToString())


def _other(
    rng: random.Random, field: FieldDescriptor, value: object, model: onnx.ModelProto
) -> object:
    """Another value for a field."""
    if isinstance(value, str):
        names = [n for node in model.graph.node for n in (*node.input, *node.output)]
        return rng.choice((*names, *_OPERATORS, value + "x"))
    if isinstance(value, bytes):
        return _flip(rng, value) if rng.random() < 0.7 else value[: len(value) // 2]
    if isinstance(value, float):
        return rng.choice(_FLOATS)
    return rng.choice(_NUMBERS)


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for part in value if hasattr(value, "__len__") else [value]:
                yield from _messages(part)


_MUTATIONS: tuple[Mutation, ...] = (
    *(_field,) * 6,
    *(_flip, _flip, _overwrite, _delete, _truncate, _duplicate),
)
