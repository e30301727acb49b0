"""Write the product of gemv_streamed.cu: how rows and weights are divided, and packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relaxc.targets.cuda.kernels import gemm
from relaxc.targets.cuda.kernels.elements import type_of
from relaxc.targets.cuda.kernels.epilogue import EpilogueText
from relaxc.targets.cuda.kernels.packing import StagePacking
from relaxc.targets.cuda.machine import Gpu
from relaxc.targets.llvm.kernels.constants import GroupedWeight

_HERE = Path(__file__).parent
_CHUNK = 16
# Numbers of its rows that a thread holds.
_MOST_HELD = 96
# Half of a multiprocessor's shared memory, less what the sums take: the next kernel has as much.
_RING_BYTES, _STAGE_BYTES, _FEWEST_STAGES, _MOST_STAGES = 96 << 10, 2048, 3, 16
_MOST_COLUMNS = 256
# Twice as many blocks as fit on a multiprocessor: those that are full of the kernel before get
# theirs later.
_BLOCKS_EACH = 4


@dataclass(frozen=True)
class Split:
    """How the work is divided.

    Attributes:
        per_chunk: numbers in 16 bytes of weights.
        depth_warps: warps that share a row's depth.
        warps: of a block.
        slice: chunks of a warp's part of the depth.
        columns: of a stage.
        groups: stages' worth of columns that a block computes.
        all_groups: the same of the whole product.
        extra: bytes of scales and zero points per chunk.
    """

    per_chunk: int
    depth_warps: int
    warps: int
    slice: int
    columns: int
    groups: int
    all_groups: int
    extra: int

    @property
    def stage_bytes(self) -> int:
        """Weights and scales of one stage of one warp, in whole vectors."""
        return _up(self.columns * self.slice * (_CHUNK + self.extra), 16)

    @property
    def stages(self) -> int:
        """Stages of a warp's ring."""
        return max(2, min(_MOST_STAGES, _RING_BYTES // self.warps // self.stage_bytes))

    def shared_bytes(self, rows: int) -> int:
        """The rings, their barriers, and sums of norms and of columns."""
        ring = self.warps * self.stages * (self.stage_bytes + 8)
        return ring + self.warps * 4 + self.groups * self.columns * rows * self.depth_warps * 4

    @property
    def blocks(self) -> int:
        """Of the grid."""
        return -(-self.all_groups // self.groups)

    @property
    def packing(self) -> StagePacking:
        """How weights lie in memory."""
        depth = self.depth_warps * self.slice * self.per_chunk
        return StagePacking(self.columns, self.all_groups, self.depth_warps, depth)


def choose_split(
    rows: int,
    columns: int,
    depth: int,
    bits: int,
    gpu: Gpu,
    extra: int = 0,
    is_paired: bool = False,
) -> Split | None:
    """The division that wastes least; None where rows are too long to be held in registers.

    Args:
        rows, columns, depth: of the product; of pairs, all columns.
        bits: of a weight.
        gpu: the architecture.
        extra: bytes of scales per chunk.
        is_paired: whether columns come in pairs, which are never torn apart.
    """
    per_chunk = 128 // bits
    chunks = -(-depth // per_chunk)
    found: list[tuple[float, int, int]] = []
    for depth_warps in (1, 2, 4, 8, 16):
        part = -(-chunks // depth_warps)
        turns = -(-part // 32)
        if rows * turns * per_chunk > _MOST_HELD:
            continue
        waste = turns * 32 * depth_warps / chunks
        warps = max(8, depth_warps)
        fewest = part * (_CHUNK + extra) * (2 if is_paired else 1) * warps * _FEWEST_STAGES
        # More than eight warps, or long rings, leave no room for the next kernel.
        crowded = depth_warps > 8 or fewest > _RING_BYTES
        found.append((waste * (1.3 if crowded else 1.0), -depth_warps, part))
    if not found:
        return None
    _, negative, part = min(found)
    depth_warps = -negative
    count = 2 if is_paired else 1
    while count < 8 and count * part * _CHUNK < _STAGE_BYTES:
        count *= 2
    return _split(rows, columns, (per_chunk, depth_warps, part, count), gpu, _BLOCKS_EACH, extra)


def every_split(
    rows: int, columns: int, depth: int, bits: int, gpu: Gpu, is_paired: bool = False
) -> list[Split]:
    """All divisions that a product of floats can have; arguments are those of `choose_split`."""
    per_chunk = 128 // bits
    chunks, found = -(-depth // per_chunk), []
    for depth_warps in (1, 2, 4, 8, 16):
        part = -(-chunks // depth_warps)
        if rows * -(-part // 32) * per_chunk > _MOST_HELD:
            continue
        for count in (2, 4, 8) if is_paired else (1, 2, 4, 8):
            for each in (1, 2, 4, 8):
                sizes = (per_chunk, depth_warps, part, count)
                found.append(_split(rows, columns, sizes, gpu, each))
    fits = (split for split in found if split.shared_bytes(rows) <= gpu.shared_bytes)
    return list(dict.fromkeys(fits))


def _split(
    rows: int,
    columns: int,
    sizes: tuple[int, int, int, int],
    gpu: Gpu,
    blocks_each: int,
    extra: int = 0,
) -> Split:
    """The division among so many blocks per multiprocessor."""
    per_chunk, depth_warps, part, count = sizes
    warps = max(8, depth_warps)
    all_groups = -(-columns // count)
    teams = warps // depth_warps
    groups = _up(-(-all_groups // (gpu.multiprocessors * blocks_each)), teams)
    groups = max(teams, min(groups, _MOST_COLUMNS // rows // count // teams * teams))
    return Split(per_chunk, depth_warps, warps, part, count, groups, all_groups, extra)


def pack(weight: np.ndarray, split: Split) -> np.ndarray:
    """(depth, columns) as the bytes of one stage behind the other, zeros where there is nothing."""
    return split.packing.apply(weight)


def pack_grouped(weight: GroupedWeight, split: Split) -> np.ndarray:
    """The same of integers, and their scales and zero points behind them."""
    depth, columns = weight.integers.shape
    shape = (split.all_groups * split.columns, split.packing.depth)
    padded: np.ndarray = np.zeros(shape, np.uint8)
    padded[:columns, :depth] = weight.integers.T
    if weight.bits == 4:
        eights = padded.reshape(shape[0], -1, 8)
        padded = (eights[:, :, :4] | eights[:, :, 4:] << 4).reshape(shape[0], -1)
    parts = [split.packing.in_stages(padded)]
    per_group = [weight.scale] + ([weight.zero_point] if weight.middle is None else [])
    for values in per_group:
        spread = np.zeros((shape[0], shape[1] // split.per_chunk), scale_type(weight))
        chunks = np.arange(-(-depth // split.per_chunk)) * split.per_chunk // weight.size
        spread[:columns, : len(chunks)] = values[chunks].T
        parts.append(split.packing.in_stages(spread))
    whole = np.concatenate(parts, axis=1)
    missing = split.stage_bytes - whole.shape[1]
    return np.ascontiguousarray(np.pad(whole, ((0, 0), (0, missing))))


def scale_type(weight: GroupedWeight) -> type[np.floating]:
    """Halves, where they are scales to within a thousandth: else floats."""
    scale = np.abs(weight.scale[weight.scale != 0])
    fits = scale.size == 0 or (scale.min() > 1e-4 and scale.max() < 6e4)
    return np.float16 if fits else np.float32


def can_pack(weight: GroupedWeight) -> bool:
    """Whether elements are integers, and a chunk never has those of two groups."""
    return weight.kind != "float8" and weight.size % (128 // weight.bits) == 0


def extra_bytes(weight: GroupedWeight) -> int:
    """Of scales and zero points, per chunk."""
    return np.dtype(scale_type(weight)).itemsize * (1 if weight.middle is not None else 2)


def source(
    sizes: tuple[int, int, int],
    split: Split,
    a: tuple[str, str],
    b: tuple[str, str],
    epilogue: EpilogueText,
    grouped: GroupedWeight | None = None,
    is_paired: bool = False,
    norm: Sequence[str] = (),
) -> str:
    """The translation unit.

    Args:
        sizes: rows, columns of the result, depth.
        split: how they are divided.
        a: pointer and element of the rows.
        b: pointer of the packed weights, and their element.
        epilogue: C++ on the sums.
        grouped: weights of four or eight bits.
        is_paired: whether each result comes of two columns.
        norm: C++ that normalizes `x`.
    """
    rows, columns, depth = sizes
    bits = 128 // split.per_chunk
    constants: dict[str, int | float] = {
        "M": rows,
        "N": columns,
        "K": depth,
        "E": split.per_chunk,
        "WARPS": split.warps,
        "DEPTH_WARPS": split.depth_warps,
        "SLICE": split.slice,
        "COLUMNS": split.columns,
        "GROUPS": split.groups,
        "ALL_GROUPS": split.all_groups,
        "STAGES": split.stages,
        "STAGE_BYTES": split.stage_bytes,
    }
    weights = type_of(b[1])
    lines = ["#define MODE 0", "#define STREAMED", "#define SPLIT 1"]
    lines += [f"#define BITS {bits if grouped is None else grouped.bits}"]
    lines += [f"#define PAIRS {int(is_paired)}"]
    lines += [f"#define A_POINTER {a[0]}", f"#define B_POINTER {b[0]}", gemm.prelude()]
    lines += [f"typedef {weights} T;", f"typedef {type_of(a[1])} TA;"]
    lines += [f"constexpr int {name} = {value};" for name, value in constants.items()]
    if grouped is not None:
        scales = "__half" if scale_type(grouped) is np.float16 else "float"
        zero = grouped.middle
        lines += [f"typedef {scales} TS;", f"constexpr bool HAS_ZEROS = {int(zero is None)};"]
        lines += [f"constexpr float ZERO = {zero or 0}.0f;"]
        lines += [f"constexpr float PER_UNIT = {128 if grouped.bits == 4 else 32768}.0f;"]
    text = (_HERE / "gemv_streamed.cu").read_text(encoding="utf-8")
    text = text.replace("  NORM\n", "\n".join(norm) + "\n")
    return "\n".join([*lines, epilogue.alone(text)])


def norm_lines(
    epsilon: float, is_centered: bool, scale: str | None, offset: str | None
) -> list[str]:
    """C++ that normalizes rows of floats `x`, each spread over a block."""
    inside = "(part * SLICE + i * 32 + lane) * E + e"
    every = [
        "#pragma unroll",
        "for (int i = 0; i < TURNS; ++i)",
        "#pragma unroll",
        f"for (int e = 0; e < E; ++e) if (int k = {inside}; k < K && i * 32 + lane < SLICE)",
    ]
    lines = ["#pragma unroll", "for (int m = 0; m < M; ++m) {", "float total = 0.0f;"]
    if is_centered:
        lines += [*every, "total += x[m][i][e];", "float mean = whole(total, place) / K;"]
        lines += ["total = 0.0f;", *every, "x[m][i][e] -= mean;"]
    lines += [*every, "total += x[m][i][e] * x[m][i][e];"]
    lines += [f"total = 1.0f / sqrtf(whole(total, place) / K + {epsilon!r}f);"]
    factor = "total" if scale is None else f"total * to_float({scale}[k])"
    plus = "" if offset is None else f" + to_float({offset}[k])"
    return [*lines, *every, f"x[m][i][e] = x[m][i][e] * {factor}{plus};", "}"]


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
