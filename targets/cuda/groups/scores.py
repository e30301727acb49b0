"""What happens to scores of attention in registers, in CUDA C++: scales, masks, biases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tvm import relax

from relaxc.targets.cuda.kernels import expressions
from relaxc.targets.cuda.kernels.elements import element_width, type_of
from relaxc.targets.cuda.kernels.frame import Frame
from relaxc.targets.llvm.groups.attention import AttentionGroup
from relaxc.targets.llvm.kernels.elementwise import scalar_value
from relaxc.targets.llvm.kernels.strided import row_major, static_shape

# When masks are read: when they are needed, or whole tiles of them before scores are there; then
# as each warp has scores, or as four warps together have them.
Ahead = Literal["no", "warps", "joint"]


@dataclass(frozen=True)
class Chain:
    """What happens to scores.

    Attributes:
        body: C++ on `score`, of one `query` and one `key`.
        preload: what reads masks before scores are there.
    """

    body: list[str]
    preload: list[str]

    def into(self, text: str) -> str:
        """Put it where a kernel says CHAIN and PRELOAD."""
        for word, lines in (("CHAIN", self.body), ("PRELOAD", self.preload)):
            text = text.replace(f" {word}\n", " " + "\n".join(lines) + "\n")
        return text


def mask_bytes(group: AttentionGroup, frame: Frame) -> int:
    """Of what is added to each score, and the like."""
    computed = [group.scores, *(var for var, _ in group.chain)]
    found = 0
    for _, call in group.chain:
        for arg in call.args:
            if not isinstance(arg.ty, relax.TensorType) or scalar_value(arg) is not None:
                continue
            if not any(arg.same_as(var) for var in computed):
                frame.pointer(arg)
                found += element_width(next(t for e, t in frame.elements.items() if e.same_as(arg)))
    return found


def chain_of(group: AttentionGroup, frame: Frame, ahead: Ahead) -> Chain:
    """Write it.

    Args:
        group: has the operators.
        frame: declares masks and biases.
        ahead: which kernel it is for.
    """
    if not group.chain:
        return Chain([], [])
    preload: list[str] = []

    def read(arg: relax.Expr, call: relax.Call) -> str:
        """A mask or bias, broadcast to the scores."""
        shape, own = static_shape(call), static_shape(arg)
        assert shape is not None and own is not None
        padded = (1,) * (len(shape) - len(own)) + own
        strides = [s if n > 1 else 0 for n, s in zip(padded, row_major(padded))]
        terms = [f"query * {strides[-2]}", f"key * {strides[-1]}"]
        rest = "(int)blockIdx.y"
        for axis in range(len(shape) - 3, -1, -1):
            if strides[axis]:
                position = f"({rest} % {shape[axis]})" if axis else f"({rest})"
                terms.append(f"{position} * {strides[axis]}")
            rest = f"({rest} / {shape[axis]})"
        pointer = frame.pointer(arg)
        place = f"{pointer} + {' + '.join(terms)}"
        if ahead == "no":
            return f"to_float(load_fresh({place}))"
        name = f"ahead{preload.count(_LOOP)}"
        count = 8 if ahead == "joint" else 2
        # Neighbouring keys at once, where rows are whole vectors of them.
        has_vectors = strides[-1] == 1 and all(s % count == 0 for s in (shape[-1], *strides[:-1]))
        type_ = type_of(frame.elements[next(e for e in frame.elements if e.same_as(arg))])
        if ahead == "joint":
            preload.extend(_read_vectors(name, place, type_, has_vectors))
            return f"{name}[e / 2][j / 4][j % 4 * 2 + e % 2]"
        preload.extend(_read_pairs(name, place, type_, has_vectors))
        return f"{name}[j][e]"

    lines, result = expressions.statements(group.chain, {group.scores: "score"}, read)
    return Chain([*lines, f"score = {result};"], preload)


_LOOP = "for (int half = 0; half < 2; ++half)"


def _read_pairs(name: str, place: str, type_: str, has_vectors: bool) -> list[str]:
    loads = [
        f"Held<2, {type_}> pair;",
        f"if (query < QUERY_COUNT && key < KEY_COUNT) pair.load({place});",
        f"{name}[j][half * 2] = pair[0], {name}[j][half * 2 + 1] = pair[1];",
    ]
    if not has_vectors:
        loads = [
            "for (int e = 0; e < 2; ++e, ++key) if (query < QUERY_COUNT && key < KEY_COUNT) "
            f"{name}[j][half * 2 + e] = to_float(load_fresh({place}));"
        ]
    return [
        f"float {name}[8][4];",
        "#pragma unroll",
        "for (int j = 0; j < 8; ++j)",
        "#pragma unroll",
        _LOOP,
        "{",
        "int query = q0 + row + g + half * 8, key = tile * KEYS + j * 8 + t * 2;",
        *loads,
        "}",
    ]


def _read_vectors(name: str, place: str, type_: str, has_vectors: bool) -> list[str]:
    """As they are stored: there are too many for floats."""
    load = f"if (query < QUERY_COUNT && key < KEY_COUNT) {name}[half][i].load({place});"
    if not has_vectors:
        load = (
            "for (int e = 0; e < 8; ++e, ++key) if (query < QUERY_COUNT && key < KEY_COUNT) "
            f"{name}[half][i].at[e] = load_fresh({place});"
        )
    return [
        f"Held<8, {type_}> {name}[2][KEYS / 32];",
        "#pragma unroll",
        _LOOP,
        "#pragma unroll",
        "for (int i = 0; i < KEYS / 32; ++i) {",
        "int query = q0 + row + half * 8, key = tile * KEYS + i * 32 + t * 8;",
        load,
        "}",
    ]
