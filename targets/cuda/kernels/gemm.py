"""Write the tensor-core product of gemm.cu for one shape: its tiling, its source, its launch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tvm import tirx

from relaxc.layout import Layout
from relaxc.targets.cuda.kernels.elements import MODES, Mode, element_bytes, element_of, type_of
from relaxc.targets.cuda.kernels.epilogue import EpilogueText
from relaxc.targets.cuda.kernels.frame import Frame
from relaxc.targets.cuda.kernels.kernel import Kernel
from relaxc.targets.cuda.kernels.launch import MatrixMap, PatchMap
from relaxc.targets.cuda.kernels.packing import Packed, TilePacking
from relaxc.targets.cuda.kernels.tilings import Tiling, resident_clusters
from relaxc.targets.cuda.machine import Gpu

_HERE = Path(__file__).parent
# Columns of each of two matrices that lie side by side.
PAIRED = 4


def packed_as(weight: np.ndarray, tiling: Tiling, mode: Mode) -> Packed:
    """How a tiling wants its weights."""
    block = tiling.row_bytes // element_bytes(mode)
    packing = TilePacking(tiling.columns, block, tiling.is_streamed, tiling.row_bytes)
    depth, columns = weight.shape
    return Packed(depth, columns, Layout(element=element_of(mode)).storage, packing)


def pack_weights(weight: np.ndarray, tiling: Tiling, mode: Mode) -> np.ndarray:
    """(depth, columns) as tiles."""
    if mode == "tf32":
        # Joint products cut the last bits off: of weights, nothing is left to cut.
        rounded = np.ascontiguousarray(weight, np.float32).view(np.uint32) + np.uint32(0x1000)
        weight = np.where(np.isfinite(weight), (rounded & 0xFFFFE000).view(np.float32), weight)
    return packed_as(weight, tiling, mode).packing.apply(weight)


def paired(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Columns of two matrices, four of each in turn: so many of both a thread has of its sums."""
    parts = [w.reshape(len(w), -1, PAIRED) for w in (first, second)]
    return np.ascontiguousarray(np.stack(parts, axis=2).reshape(len(first), -1))


@dataclass(frozen=True)
class Operand:
    """One side of a product.

    Attributes:
        pointer: its name in C++.
        element: how it is stored.
        vectors: whether 16 bytes at a time can be copied as they are.
        constants: what gemm.cu must know of its layout.
        switches: macros to define.
        is_matrix: whether its rows lie one behind the other, in whole vectors.
        patches: if its rows are patches that the copy engine can fetch: of what map. Which buffer
            that is, and how many pixels are fetched at once, is still open.
    """

    pointer: str
    element: str
    vectors: bool
    constants: dict[str, int]
    switches: tuple[str, ...] = ()
    is_matrix: bool = False
    patches: PatchMap | None = None

    @property
    def is_fetched(self) -> bool:
        """Whether the copy engine can fetch it."""
        return self.is_matrix or self.patches is not None


def fitted(tiling: Tiling, a: Operand, depth: int, mode: Mode) -> Tiling:
    """The same tiling in the details that follow from the left operand."""
    if not tiling.is_streamed:
        return tiling
    if not a.is_fetched:
        # One group of warps that computes addresses waits for itself; registers allow for a second.
        is_small = tiling.teams <= 2 and _sums(tiling) < 96
        return replace(tiling, copiers=2) if is_small else tiling
    fetched = 128 if a.patches is None else a.patches.row_bytes
    is_narrow = depth * element_bytes(mode) <= 64 if a.is_matrix else fetched == 64
    return replace(tiling, row_bytes=64, stages=2 * tiling.stages) if is_narrow else tiling


def source(
    mode: Mode,
    tiling: Tiling,
    columns: int,
    depth: int,
    a: Operand,
    b: Operand,
    vector: int,
    epilogue: EpilogueText,
    is_paired: bool = False,
) -> str:
    """The translation unit.

    Where the result has pairs of columns (see `paired`), `vector` is that of one of these.
    """
    element = element_of(mode)
    switches = [f"MODE {MODES.index(mode)}", f"SPLIT {tiling.cluster}", *b.switches]
    switches += ["STREAMED"] if tiling.is_streamed else []
    # The copy engine takes what lies like a matrix for one, whatever it is.
    is_fetched = tiling.is_streamed and a.is_fetched
    switches += ["A_IS_FETCHED"] if is_fetched else a.switches
    switches += ["A_IS_PATCHES"] if is_fetched and a.patches else []
    switches.append(f"ROW_BYTES {tiling.row_bytes}")
    if tiling.is_joint:
        width = tiling.rows if tiling.is_sparse else tiling.warp_columns
        switches += [f"WGMMA_COLUMNS {width}", wgmma(mode, width)]
    if tiling.has_rests:
        switches.append(wgmma(mode, tiling.warp_columns, "ROWS"))
    if tiling.is_sparse:
        switches += ["SPARSE", wgmma_sparse(mode, tiling.rows)]
    # Tiles hold the mode's elements: what is stored otherwise is converted one by one.
    for side, operand in (("A", a), ("B", b)):
        is_stored = operand.element == element or (mode == "int8" and side == "A")
        if not operand.vectors or not is_stored:
            switches.append(f"{side}_SCALAR")
    constants = {
        "BM": tiling.rows,
        "BN": tiling.columns,
        "WM": tiling.warp_rows,
        "WN": tiling.warp_columns,
        "STAGES": tiling.stages,
        "N": columns // 2 if is_paired else columns,
        "NB": columns,
        "K": depth,
        "V": vector,
        "S": 2 * vector if is_paired else vector,
        "SUM_START": epilogue.sum_start,
        **a.constants,
        **b.constants,
    }
    if tiling.is_streamed:
        constants |= {"SHARE_M": tiling.share_rows, "SHARE_N": tiling.share_columns}
        constants["COPIERS"] = tiling.copiers
        registers = _registers(tiling, a, mode)
        constants |= dict(zip(("PRODUCER_REGISTERS", "CONSUMER_REGISTERS"), registers))
    name = "gemm_streamed.cu" if tiling.is_streamed else "gemm.cu"
    text = (_HERE / name).read_text(encoding="utf-8")
    for place, is_there in (
        ("sparse_products", tiling.is_sparse),
        ("sparse_epilogue", tiling.is_sparse),
        ("rests", tiling.has_rests),
    ):
        found = (_HERE / f"{place}.cuh").read_text(encoding="utf-8") if is_there else ""
        text = text.replace(f"{place.upper()}\n", found)
    text = epilogue.into(text)
    return "\n".join(
        [
            *(f"#define {switch}" for switch in switches),
            prelude(),
            f"typedef {type_of(a.element if mode == 'int8' else element)} T;",
            f"typedef {type_of(a.element)} TA;",
            f"typedef {type_of(b.element)} TB;",
            *(f"constexpr int {name} = {value};" for name, value in constants.items()),
            text.replace("OPERAND_A\n", (_HERE / "operand_a.cuh").read_text(encoding="utf-8"))
            .replace("TA* a = A +", f"TA* a = {a.pointer} +")
            .replace("TB* b = B +", f"TB* b = {b.pointer} +"),
        ]
    )


def wgmma(mode: Mode, columns: int, kind: Literal["", "ROWS", "VALUES"] = "") -> str:
    """The macro for one instruction, which has all of a thread's sums as its operands.

    Args:
        mode: the type of the factors.
        columns: of the product.
        kind: `ROWS`, if the left factor is in registers; `VALUES`, if rows of the right one lie
            across the depth, too.
    """
    count = columns // 2
    sums = ", ".join(f"%{i}" for i in range(count))
    types, options, register = {
        "float16": ("k16.f32.f16.f16", ", 1, 1, 0, 0", "f"),
        "bfloat16": ("k16.f32.bf16.bf16", ", 1, 1, 0, 0", "f"),
        "tf32": ("k8.f32.tf32.tf32", ", 1, 1", "f"),
        "float32": ("k8.f32.tf32.tf32", ", 1, 1", "f"),
        "int8": ("k32.s32.u8.s8", "", "r"),
        "float8": ("k32.f32.e4m3.e4m3", ", 1, 1", "f"),
    }[mode]
    name, left, inputs, adds = "WGMMA", f"%{count}", '"l"(at)', '"r"((int)adds)'
    if kind:
        name, adds = f"WGMMA_{kind}", '"r"(1)'
        options = ", 1, 1, 1" if kind == "VALUES" else options
        left = "{" + ", ".join(f"%{count + i}" for i in range(4)) + "}"
        inputs = ", ".join(f'"r"(a[{i}])' for i in range(4))
    place = count + (4 if kind else 1)
    shape = f"m64n{columns}{types}"
    operands = f"{{{sums}}}, {left}, %{place}, p{options}"
    text = f"wgmma.mma_async.sync.aligned.{shape} {operands};"
    outputs = ", ".join(f'"+{register}"(c[{i}])' for i in range(count))
    return (
        f'{name} asm volatile("{{.reg .pred p; setp.ne.b32 p, %{place + 1}, 0; {text}}}" '
        f': {outputs} : {inputs}, "l"(bt), {adds});'
    )


def wgmma_sparse(mode: Mode, columns: int) -> str:
    """The macro for one such instruction whose left factor has two numbers of every four."""
    count = columns // 2
    kind = {"float16": "f16", "bfloat16": "bf16"}[mode]
    sums = ", ".join(f"%{i}" for i in range(count))
    outputs = ", ".join(f'"+f"(c[{i}])' for i in range(count))
    text = f"wgmma.mma_async.sp.sync.aligned.m64n{columns}k32.f32.{kind}.{kind} {{{sums}}}, "
    text += ", ".join(f"%{count + i}" for i in range(4)) + ", p, 1, 1, 0, 0;"
    return (
        f'WGMMA_SPARSE asm volatile("{{.reg .pred p; setp.ne.b32 p, %{count + 4}, 0; {text}}}" '
        f': {outputs} : "l"(at), "l"(bt), "r"(places), "n"(STEP), "r"(1));'
    )


def prelude() -> str:
    """What kernels on tensor cores share; `MODE` must be defined in front of it."""
    names = ("instructions.cuh", "tensor_cores.cuh")
    return "\n".join((_HERE / name).read_text(encoding="utf-8") for name in names)


def finish(
    frame: Frame,
    text: str,
    rows: Any,
    columns: int,
    batch: int,
    tiling: Tiling,
    a: Operand,
    gpu: Gpu,
) -> Kernel:
    """The kernel; `rows` may be symbolic."""
    sizes = (tiling.threads, tiling.shared_bytes, [rows])
    if not tiling.is_streamed:
        blocks = _blocks(rows, tiling.rows) * -(-columns // tiling.columns) * tiling.split
        return frame.finish(text, [blocks, 1, batch], *sizes)
    steps = _blocks(rows, tiling.rows * tiling.share_rows)
    steps = steps * -(-columns // (tiling.columns * tiling.share_columns))
    most = resident_clusters(tiling, gpu)
    clusters = min(steps, most) if isinstance(steps, int) else tirx.min(steps, most)
    maps: list[MatrixMap | PatchMap] = []
    box_rows = tiling.rows // tiling.share_columns
    if a.is_matrix:
        place, width = frame.place(a.pointer), a.constants["A_ROW"]
        maps = [MatrixMap(place, rows, width, box_rows, tiling.row_bytes)]
    elif a.patches:
        maps = [replace(a.patches, buffer=frame.place(a.pointer), pixels=box_rows)]
    return frame.finish(text, [clusters * tiling.cluster], *sizes, maps)


def _blocks(rows: Any, size: int) -> Any:
    return (rows + (size - 1)) // size


def _sums(tiling: Tiling) -> int:
    """Registers of a thread that hold sums: twice as many, if those of each tile are added up."""
    return tiling.warp_rows * tiling.warp_columns // (64 if tiling.has_rests else 128)


def _registers(tiling: Tiling, a: Operand, mode: Mode) -> tuple[int, int]:
    """What warps that fetch and warps that multiply need; zeros, where all can have the same.

    No more than a block has at its start: three times 168, or four times 128.
    """
    sums = _sums(tiling)
    if tiling.teams == 3 and sums >= 64:
        return 40, 152
    # With two scales to multiply by, fewer sums fill what warps have at the start.
    if tiling.teams == 1 or sums < (80 if mode == "float8" else 96):
        return 0, 0
    return (40, 232) if a.is_fetched else (88, 208)
