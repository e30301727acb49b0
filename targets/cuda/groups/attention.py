"""Attention groups: what the products read and write, and what happens to the scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tvm import relax

from relaxc.layout import PLAIN, Element, Layout
from relaxc.targets.cuda.groups.base import Context
from relaxc.targets.cuda.groups.joint_attention import JointTiling
from relaxc.targets.cuda.groups.scores import chain_of, mask_bytes
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
from relaxc.targets.cuda.tuning import ATTENTION
from relaxc.targets.llvm.groups.attention import AttentionGroup
from relaxc.targets.llvm.groups.attention import is_score_operator as is_plain_score_operator
from relaxc.targets.llvm.kernels.strided import Strided, resolve, row_major, static_shape
from relaxc.targets.tuning.task import EPILOGUE, Choice

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
    return _fits(group, 4, context)


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
    loads = _loads(views, elements, group, context)
    problems = spec.batch * spec.heads
    is_copied = not is_few and set(loads.values()) == {"COPIED"}
    masks = mask_bytes(group, frame) if is_copied else 0
    joint = JointTiling.choose(spec, masks, context) if is_copied else None
    # Eight would read keys fewer times, but take 46 us for 38 with 512 queries of 32 heads.
    warps = 4
    while not is_few and warps > 1 and _blocks(spec, warps) < context.gpu.multiprocessors:
        warps //= 2
    blocks = problems if is_few else _blocks(spec, warps)
    split = 1 if joint else _split(spec.keys, blocks, context)
    usual = _as_choice(joint, warps, split)
    every = JointTiling.every(spec, masks, context) if is_copied else []
    choice = context.choose(
        _workload(group, elements, context), lambda: _space(group, usual, is_few, every, context)
    )
    if choice is not None:
        joint = next((tiling for tiling in every if _as_choice(tiling) == choice), None)
        warps, split = int(choice["warps"]), int(choice["split"])
    chain = chain_of(group, frame, "no" if is_few else "joint" if joint else "warps")
    tiling: dict[str, int | str] = {
        "DQ": _padded(spec.depth),
        "DV": _padded(spec.width),
    }
    if not is_few:  # it has its own number of warps
        tiling["WARPS"] = warps
    constants: dict[str, int | str] = (joint.constants if joint else tiling) | {
        "HEADS": spec.heads,
        "QUERY_COUNT": spec.queries,
        "KEY_COUNT": spec.keys,
        "DEPTH": spec.depth,
        "V_DEPTH": spec.width,
    }
    for side, view in views.items():
        constants |= {f"{side}_OFFSET": view.offset, f"{side}_COUNT": view.shape[2]}
        constants |= {f"{side}_S{axis}": stride for axis, stride in enumerate(view.strides)}
    constants |= loads | {f"Y_S{axis}": stride for axis, stride in enumerate(group.out_strides)}
    steps = (spec.width, *group.out_strides[:3])
    constants["Y_PAIRS"] = int(all(v % 2 == 0 for v in steps))
    element = element_of(context.mode)
    has_chunks = layouts[-1].element == element and all(v % 8 == 0 for v in steps)
    name = "attention_joint" if joint else "attention_few" if is_few else "attention"
    body = (_HERE / f"{name}.cu").read_text(encoding="utf-8")
    text = "\n".join(
        [
            f"#define MODE {MODES.index(context.mode)}",
            f"#define SPLIT {split}",
            *(f"#define {switch}" for switch in (joint.switches(context) if joint else ())),
            f"#define Y_CHUNKS {int(has_chunks)}",
            "enum { COPIED, CONVERTED, SCALARS };",
            "#define INFINITY_ __int_as_float(0x7f800000)",
            *(f"#define {side}_POINTER {name}" for side, name in pointers.items()),
            gemm.prelude(),
            f"typedef {type_of(element)} T;",
            *(f"typedef {type_of(e)} T{side};" for side, e in elements.items()),
            f"typedef {type_of(layouts[-1].element)} TY;",
            *(f"constexpr {_type_of(name)} {name} = {value};" for name, value in constants.items()),
            f"constexpr float SCALE = {expressions.number(group.q.scale * group.k.scale)};",
            chain.into(body),
        ]
    )
    if is_few:
        shared = (_FEW_WARPS + 1) * spec.queries * (spec.depth + 4) * 4
        return frame.finish(text, [split, problems], _FEW_WARPS * 32, shared)
    if joint:
        grid = [-(-spec.queries // joint.queries), problems]
        return frame.finish(text, grid, joint.threads, joint.shared_bytes)
    grid = [-(-spec.queries // (warps * 16)) * split, problems]
    return frame.finish(text, grid, warps * 32, _shared_bytes(group, warps, context))


def _type_of(constant: str) -> str:
    """Distances in memory may be large."""
    return "long long" if "_S" in constant or "_OFFSET" in constant else "int"


def _loads(
    views: dict[str, Strided],
    elements: dict[str, Element],
    group: AttentionGroup,
    context: Context,
) -> dict[str, int | str]:
    """How rows of queries, keys and values get into shared memory."""
    found: dict[str, int | str] = {}
    for side in "QKV":
        parts = [name for name in views if name[0] == side]
        depth = group.spec.width if side == "V" else group.spec.depth
        kind = "SCALARS"
        if all(_has_vectors(views[part], depth, context) for part in parts):
            stored = {elements[part] for part in parts}
            kind = "COPIED" if stored == {element_of(context.mode)} else "CONVERTED"
        found[f"{side}_LOAD"] = kind
    return found


def _workload(
    group: AttentionGroup, elements: dict[str, Element], context: Context
) -> dict[str, Any]:
    names = ("batch", "heads", "queries", "keys", "depth", "width")
    return {
        "kernel": ATTENTION,
        **{name: getattr(group.spec, name) for name in names},
        "element": elements["K"],
        "precision": context.mode,
        EPILOGUE: [str(call.op.name).removeprefix("relax.") for _, call in group.chain],
    }


def _as_choice(joint: JointTiling | None, warps: int = 0, split: int = 1) -> Choice:
    """How queries and keys are divided, as records have it: by four warps each or one by one."""
    if joint is None:
        return {"warps": warps, "split": split, "teams": 0, "keys": _KEYS, "stages": 2}
    sizes = {"teams": joint.teams, "keys": joint.keys, "stages": joint.stages}
    return {"warps": 0, "split": 1, **sizes}


def _space(
    group: AttentionGroup,
    usual: Choice,
    is_few: bool,
    joint: Sequence[JointTiling],
    context: Context,
) -> list[Choice]:
    """Queries of a block and blocks that share the keys, the untuned choice first."""
    counts = (1, 2, 4, 8)
    warps = [int(usual["warps"])] if is_few else [n for n in counts if _fits(group, n, context)]
    splits = [s for s in counts if s == 1 or (s // 2) * _KEYS * 2 < group.spec.keys]
    splits = splits if context.gpu.has_clusters else [1]
    found = [usual, *map(_as_choice, joint)]
    found += [_as_choice(None, w, s) for w in warps for s in splits]
    return [choice for i, choice in enumerate(found) if choice not in found[:i]]


def _fits(group: AttentionGroup, warps: int, context: Context) -> bool:
    return _shared_bytes(group, warps, context) <= context.gpu.shared_bytes


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


def _padded(depth: int) -> int:
    # Two matrix instructions' columns at a time.
    return -(-depth // 16) * 16


def _shared_bytes(group: AttentionGroup, warps: int, context: Context) -> int:
    size = element_bytes(context.mode)
    row, value_row = (_padded(depth) * size + 16 for depth in (group.spec.depth, group.spec.width))
    return warps * 16 * row + 2 * _KEYS * (row + value_row)


def _has_vectors(view: Strided, depth: int, context: Context) -> bool:
    """Whether rows can be copied 16 bytes at a time."""
    per_chunk = 16 // element_bytes(context.mode)
    aligned = (view.offset, depth, *view.strides[:3])
    return view.strides[3] == 1 and all(value % per_chunk == 0 for value in aligned)
