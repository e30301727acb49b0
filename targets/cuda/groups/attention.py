"""Attention groups: what the products read and write, and what happens to the scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tvm import relax

from relaxc.layout import PLAIN, Element, Layout
from relaxc.targets.cuda.groups.base import Context
from relaxc.targets.cuda.kernels import expressions, gemm
from relaxc.targets.cuda.kernels.elements import (
    MODES,
    element_bytes,
    element_of,
    element_width,
    type_of,
)
from relaxc.targets.cuda.kernels.frame import Frame
from relaxc.targets.cuda.kernels.kernel import Kernel
from relaxc.targets.llvm.groups.attention import AttentionGroup
from relaxc.targets.llvm.groups.attention import is_score_operator as is_plain_score_operator
from relaxc.targets.llvm.kernels.strided import Strided, resolve, row_major, static_shape

_HERE = Path(gemm.__file__).parent
_KEYS = 64
_MAX_DEPTH = 128
# Rows of scores that tensor cores would be idle with.
_FEW_QUERIES, _FEW_WARPS = 4, 4


def is_score_operator(call: relax.Call) -> bool:
    """Whether an operator can be computed on the scores in registers."""
    return is_plain_score_operator(call) and str(call.op.name) in expressions.OPERATORS


def has_attention(func: relax.Function, context: Context) -> bool:
    """Whether a group has a kernel: heads that fit into registers and shared memory."""
    group = AttentionGroup.of(func, joins=True)
    if (
        group is None
        or _parts(group, func) is None
        or max(group.spec.depth, group.spec.width) > _MAX_DEPTH
    ):
        return False
    return _shared_bytes(group, 4, context) <= context.gpu.shared_bytes


def lower(func: relax.Function, layouts: Sequence[Layout], context: Context) -> Kernel:
    """Write the kernel."""
    group = AttentionGroup.of(func, joins=True)
    assert group is not None and all(layout.same_memory(PLAIN) for layout in layouts)
    spec = group.spec
    frame = Frame("attention", func, layouts)
    views = _parts(group, func)
    assert views is not None
    pointers = {side: frame.pointer(view.base) for side, view in views.items()}
    elements = {side: frame.elements[view.base] for side, view in views.items()}
    is_few = _are_few(group, views, elements)
    chain, preload = _chain(group, frame, is_ahead=not is_few)
    problems = spec.batch * spec.heads
    # Eight would read keys fewer times, but take 46 us for 38 with 512 queries of 32 heads.
    warps = 4
    while not is_few and warps > 1 and _blocks(spec, warps) < context.gpu.multiprocessors:
        warps //= 2
    blocks = problems if is_few else _blocks(spec, warps)
    split = _split(spec.keys, blocks, context)
    element = element_of(context.mode)
    constants: dict[str, int | str] = {
        "WARPS": warps,
        "DQ": _padded(spec.depth, context),
        "DV": _padded(spec.width, context),
        "HEADS": spec.heads,
        "QUERY_COUNT": spec.queries,
        "KEY_COUNT": spec.keys,
        "DEPTH": spec.depth,
        "V_DEPTH": spec.width,
    }
    if is_few:  # it has its own number of warps
        del constants["WARPS"]
    for side, view in views.items():
        constants |= {f"{side}_OFFSET": view.offset, f"{side}_COUNT": view.shape[2]}
        constants |= {f"{side}_S{axis}": stride for axis, stride in enumerate(view.strides)}
    for side in "QKV":
        parts = [name for name in views if name[0] == side]
        depth = spec.width if side == "V" else spec.depth
        kind = "SCALARS"
        if all(_has_vectors(views[part], depth, context) for part in parts):
            stored = {elements[part] for part in parts}
            kind = "COPIED" if stored == {element} else "CONVERTED"
        constants[f"{side}_LOAD"] = kind
    constants |= {f"Y_S{axis}": stride for axis, stride in enumerate(group.out_strides)}
    constants["Y_PAIRS"] = int(all(v % 2 == 0 for v in (spec.width, *group.out_strides[:3])))
    body = (_HERE / ("attention_few.cu" if is_few else "attention.cu")).read_text(encoding="utf-8")
    for word, lines in (("CHAIN", chain), ("PRELOAD", preload)):
        body = body.replace(f" {word}\n", " " + "\n".join(lines) + "\n")
    text = "\n".join(
        [
            f"#define MODE {MODES.index(context.mode)}",
            f"#define SPLIT {split}",
            "enum { COPIED, CONVERTED, SCALARS };",
            "#define INFINITY_ __int_as_float(0x7f800000)",
            *(f"#define {side}_POINTER {name}" for side, name in pointers.items()),
            gemm.prelude(),
            f"typedef {type_of(element)} T;",
            *(f"typedef {type_of(e)} T{side};" for side, e in elements.items()),
            f"typedef {type_of(layouts[-1].element)} TY;",
            *(f"constexpr long long {name} = {value};" for name, value in constants.items()),
            f"constexpr float SCALE = {expressions.number(group.q.scale * group.k.scale)};",
            body,
        ]
    )
    if is_few:
        shared = (_FEW_WARPS + 1) * spec.queries * (spec.depth + 4) * 4
        return frame.finish(text, [split, problems], _FEW_WARPS * 32, shared)
    grid = [-(-spec.queries // (warps * 16)) * split, problems]
    return frame.finish(text, grid, warps * 32, _shared_bytes(group, warps, context))


def _blocks(spec: Any, warps: int) -> int:
    return int(-(-spec.queries // (warps * 16)) * spec.batch * spec.heads)


def _are_few(
    group: AttentionGroup, views: dict[str, Strided], elements: dict[str, Element]
) -> bool:
    """Whether the kernel for a few queries applies: rows whose chunks divide a warp."""
    spec = group.spec
    if spec.queries > _FEW_QUERIES or spec.depth != spec.width:
        return False
    if elements["K"] != elements["K2"] or elements["V"] != elements["V2"]:
        return False
    sizes = {side: element_width(element) for side, element in elements.items()}
    per_chunk = 16 // sizes["K"]
    lanes = spec.depth // per_chunk
    if spec.depth % per_chunk or lanes not in (4, 8, 16, 32) or sizes["K"] != sizes["V"]:
        return False
    return sizes["K"] > 1 and all(
        view.strides[3] == 1
        and all(v % max(8, per_chunk) == 0 for v in (view.offset, *view.strides[:3]))
        for view in views.values()
    )


def _parts(group: AttentionGroup, func: relax.Function) -> dict[str, Strided] | None:
    """What queries, keys and values are views of, the latter perhaps in two parts; None if of more.

    `K2` and `V2` are the keys and values behind those of `K` and `V`: where all are in one tensor,
    its end.
    """
    producers = {b.var: b.value for block in func.body.blocks for b in block.bindings}
    found = {"Q": group.q}
    for side, view in (("K", group.k), ("V", group.v)):
        join = producers.get(view.base)
        if join is None:
            found |= {side: view, f"{side}2": view}
            continue
        fields = [resolve(field, producers) for field in join.args[0].fields]
        # Transposes alone lie between: an axis of the view is one of the whole.
        whole = row_major(static_shape(view.base) or ())
        for name, part in zip((side, f"{side}2"), fields):
            if part is None or any(s not in whole for s in view.strides) or part.scale != 1.0:
                return None
            axes = [whole.index(s) for s in view.strides]
            if sorted(axes) != list(range(4)) or axes[2] != 2:
                return None
            shape = tuple(part.shape[axis] for axis in axes)
            strides = tuple(part.strides[axis] for axis in axes)
            found[name] = Strided(part.base, shape, strides, part.offset, view.scale)
    return found


def _split(keys: int, blocks: int, context: Context) -> int:
    """How many blocks share the keys, where there are too few queries to fill the GPU."""
    split = 1
    if context.gpu.has_clusters:
        while (
            split < 8 and split * _KEYS * 2 < keys and blocks * split < context.gpu.multiprocessors
        ):
            split *= 2
    return split


def _padded(depth: int, context: Context) -> int:
    # Two matrix instructions' columns at a time.
    return -(-depth // 16) * 16


def _shared_bytes(group: AttentionGroup, warps: int, context: Context) -> int:
    size = element_bytes(context.mode)
    row, value_row = (
        _padded(depth, context) * size + 16 for depth in (group.spec.depth, group.spec.width)
    )
    return warps * 16 * row + 2 * _KEYS * (row + value_row)


def _has_vectors(view: Strided, depth: int, context: Context) -> bool:
    """Whether rows can be copied 16 bytes at a time."""
    per_chunk = 16 // element_bytes(context.mode)
    aligned = (view.offset, depth, *view.strides[:3])
    return view.strides[3] == 1 and all(value % per_chunk == 0 for value in aligned)


def _chain(group: AttentionGroup, frame: Frame, is_ahead: bool) -> tuple[list[str], list[str]]:
    """C++ on `score`, of one `query` and one `key`; and what reads masks before scores are there.

    Args:
        group: has the operators.
        frame: declares masks and biases.
        is_ahead: whether those of a whole tile are read at once.
    """
    if not group.chain:
        return [], []
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
        if not is_ahead:
            return f"to_float(load_fresh({place}))"
        name = f"ahead{len(preload)}"
        # Pairs of neighbouring keys, where rows are whole pairs.
        is_paired = strides[-1] == 1 and all(s % 2 == 0 for s in (shape[-1], *strides[:-1]))
        type_ = type_of(frame.elements[next(e for e in frame.elements if e.same_as(arg))])
        loads = [
            f"Held<2, {type_}> pair;",
            f"if (query < QUERY_COUNT && key < KEY_COUNT) pair.load({place});",
            f"{name}[j][half * 2] = pair[0], {name}[j][half * 2 + 1] = pair[1];",
        ]
        if not is_paired:
            loads = [
                "for (int e = 0; e < 2; ++e, ++key) if (query < QUERY_COUNT && key < KEY_COUNT) "
                f"{name}[j][half * 2 + e] = to_float(load_fresh({place}));"
            ]
        preload.extend(
            [
                f"float {name}[8][4];",
                "#pragma unroll",
                "for (int j = 0; j < 8; ++j)",
                "#pragma unroll",
                "for (int half = 0; half < 2; ++half) {",
                "int query = q0 + row + g + half * 8, key = tile * KEYS + j * 8 + t * 2;",
                *loads,
                "}",
            ]
        )
        return f"{name}[j][e]"

    lines, result = expressions.statements(group.chain, {group.scores: "score"}, read)
    return [*lines, f"score = {result};"], preload
