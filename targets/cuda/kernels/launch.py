"""PrimFuncs that launch kernels written in CUDA C++.

Passes see an ordinary PrimFunc over buffers, marked as scheduled. Its body runs on the CPU and
launches the kernel; the kernel's source travels as an attribute until the backend compiles it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import IRModule, tirx

_SOURCE = "relaxc.cuda"
_MAP = "tensormap"
# TVM asks the driver for descriptions of matrices only: patches.c does for patches.
DESCRIBE_PATCHES = "relaxc.describe_patches"
_TAGS = ("blockIdx.x", "blockIdx.y", "blockIdx.z", "threadIdx.x")
# TVM's spelling. Kernels that begin early wait for their predecessors; see instructions.cuh.
_OVERLAPS = "tirx.use_programtic_dependent_launch"
_WAITS = "  wait_for_predecessor();"
_FIRST_TO_OVERLAP = 90


@dataclass(frozen=True)
class KernelSource:
    """One kernel in CUDA C++.

    Attributes:
        name: of the `extern "C"` function.
        source: the whole translation unit.
        arguments: TVM's types of the arguments: `handle` for pointers, `tensormap` for what tells
            the copy engine how a matrix lies in memory.
    """

    name: str
    source: str
    arguments: tuple[str, ...]

    def architecture(self, arch: str) -> str:
        """What to compile for: `sm_90a` has instructions that no other GPU will ever have."""
        return f"{arch}a" if "#define WGMMA " in self.source else arch

    def overlaps(self, arch: str) -> bool:
        """Whether the kernel may begin before the one in front of it has ended."""
        return int(arch.removeprefix("sm_")) >= _FIRST_TO_OVERLAP and _WAITS in self.source

    def as_module(self, cubin: bytes, arch: str) -> tvm.runtime.Module:
        """The compiled kernel as TVM launches it."""
        info = {
            "name": "",
            "arg_types": ["handle" if a == _MAP else a for a in self.arguments],
            "arg_extra_tags": [int(a == _MAP) for a in self.arguments],
            "launch_param_tags": [
                *(*_TAGS, *([_OVERLAPS] if self.overlaps(arch) else [])),
                "tirx.use_dyn_shared_memory",
            ],
        }
        text = json.dumps({"tvm_version": tvm.__version__, "func_info": {self.name: info}})
        functions = tvm_ffi.get_global_func("runtime.LoadMetaDataFromJSON")(text)
        return tvm_ffi.get_global_func("ffi.Module.create.cuda")(cubin, "cubin", functions, {})


@dataclass(frozen=True)
class MatrixMap:
    """What the copy engine must know of a matrix, to fetch tiles of it as wgmma wants them.

    Attributes:
        buffer: which of the kernel's buffers it is.
        rows, columns: of the matrix; rows may be symbolic.
        box_rows: of what is fetched at once.
        row_bytes: how much of each row is: 128 or 64.
    """

    buffer: int
    rows: Any
    columns: int
    box_rows: int
    row_bytes: int = 128


@dataclass(frozen=True)
class PatchMap:
    """What the copy engine must know of a channels-last map, to fetch pixels of many patches.

    Pairs are of columns, then rows.

    Attributes:
        buffer: which of the kernel's buffers it is.
        images, height, width, channels: of the map; images may be symbolic.
        strides: from one patch to the next.
        lower: where the first patch of an image begins.
        upper: where the last one does, counted from the last pixel.
        pixels: of so many patches one is fetched at once.
        row_bytes: how much of its channels is: 128 or 64.
    """

    buffer: int
    images: Any
    height: int
    width: int
    channels: int
    strides: tuple[int, int]
    lower: tuple[int, int]
    upper: tuple[int, int]
    pixels: int = 0
    row_bytes: int = 128


def launch(
    name: str,
    source: str,
    buffers: Sequence[tuple[Sequence[Any], str]],
    grid: Sequence[Any],
    threads: int,
    shared_bytes: int = 0,
    scalars: Sequence[Any] = (),
    maps: Sequence[MatrixMap | PatchMap] = (),
) -> tirx.PrimFunc:
    """A PrimFunc that launches a kernel.

    Args:
        name: what profiles show.
        source: CUDA C++ with one `extern "C" __global__ void KERNEL(...)`; `KERNEL` becomes a name
            that no other source has.
        buffers: shape and dtype of each parameter; the kernel gets pointers in this order.
        grid: blocks in up to three dimensions; may depend on symbolic dimensions of the buffers.
        threads: per block.
        shared_bytes: dynamic shared memory of a block.
        scalars: further arguments, of type int, which may be symbolic.
        maps: the last arguments.
    """
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    unique = f"{name}_{digest}"
    declared = [
        tirx.decl_buffer(list(shape), dtype, name=f"b{i}")
        for i, (shape, dtype) in enumerate(buffers)
    ]
    blocks = [*grid, *([1] * (3 - len(grid)))]
    numbers = [tirx.Cast("int32", s) if isinstance(s, tirx.Expr) else s for s in scalars]
    described = [_describe(m, declared[m.buffer], buffers[m.buffer][1]) for m in maps]
    arguments = [b.data for b in declared] + [_int(s) for s in numbers]
    arguments += [var for var, _ in described]
    call = tirx.call_packed(
        unique, *arguments, *(_int(b) for b in blocks), _int(threads), _int(shared_bytes)
    )
    kinds = ("handle",) * len(buffers) + ("int32",) * len(numbers) + (_MAP,) * len(maps)
    attrs = {"name": unique, "source": source.replace("KERNEL", unique), "arguments": list(kinds)}
    attrs["launch"] = _described_launch(buffers, blocks, threads, shared_bytes, scalars, maps)
    statements = [*(s for _, those in described for s in those), tirx.Evaluate(call)]
    body = tirx.SeqStmt(statements) if maps else statements[0]
    func = tirx.PrimFunc(declared, body)
    return func.with_attrs({"tirx.is_scheduled": True, "tirx.noalias": True, _SOURCE: attrs})


# CUDA's numbers for tiles of so many bytes whose chunks are permuted, and for how much the
# second-level cache fetches at once.
_SWIZZLES, _FETCH_256 = {64: 2, 128: 3}, 3


def _describe(m: MatrixMap | PatchMap, buffer: Any, dtype: str) -> tuple[Any, list[Any]]:
    """A variable for a description, and the statements that make it."""
    ty = tvm.ir.PointerType(tirx.TensorMapType())
    var = tirx.Var("map", ty)
    size = np.dtype("uint16" if dtype == "uint16" else dtype).itemsize
    made = tirx.Bind(var, tirx.tvm_stack_alloca("tensormap", 1))
    if isinstance(m, PatchMap):
        numbers: list[Any] = [size, m.channels, m.width, m.height, m.images]
        numbers += [*m.strides, *m.lower, *m.upper, m.pixels, m.row_bytes]
        call = tirx.call_packed(DESCRIBE_PATCHES, var, buffer.data, *map(_long, numbers))
        return var, [made, tirx.Evaluate(call)]
    encode = tirx.tensormap_encode_tiled(
        *(var, buffer.data, *map(_long, (m.columns, m.rows, m.columns * size))),
        *map(_long, (m.row_bytes // size, m.box_rows, 1, 1)),
        descriptor_dtype=dtype,
        rank=2,
        swizzle=_SWIZZLES[m.row_bytes],
        l2_promotion=_FETCH_256,
    )
    return var, [made, tirx.Evaluate(encode)]


def _long(value: Any) -> Any:
    return tirx.IntImm("int64", value) if isinstance(value, int) else tirx.Cast("int64", value)


def _described_launch(
    buffers: Sequence[tuple[Sequence[Any], str]],
    grid: Sequence[Any],
    threads: int,
    shared_bytes: int,
    scalars: Sequence[Any],
    maps: Sequence[MatrixMap | PatchMap],
) -> str:
    """A launch as JSON, for those who launch without TVM; empty where sizes are not known."""
    about = {
        "buffers": [[[_size(d) for d in shape], dtype] for shape, dtype in buffers],
        "grid": [_size(n) for n in grid],
        "threads": threads,
        "shared": shared_bytes,
        "scalars": [_size(n) for n in scalars],
        "maps": [{k: _size(v) for k, v in asdict(m).items()} for m in maps],
    }
    try:
        return json.dumps(about)
    except TypeError:  # a symbol
        return ""


def _size(value: Any) -> Any:
    return int(value) if isinstance(value, tirx.IntImm) else value


def launch_of(func: tirx.PrimFunc) -> dict[str, Any] | None:
    """How a kernel is launched: its buffers, grid, threads and the rest; None if sizes are open."""
    text = str(func.attrs[_SOURCE]["launch"])
    return json.loads(text) if text else None


def source_of(func: tirx.PrimFunc) -> KernelSource:
    """The source that a PrimFunc launches."""
    attrs = func.attrs[_SOURCE]
    kinds = tuple(str(kind) for kind in attrs["arguments"])
    return KernelSource(str(attrs["name"]), str(attrs["source"]), kinds)


def take_sources(mod: IRModule) -> tuple[IRModule, list[KernelSource]]:
    """Take the sources out of a module; kernels that occur several times come once."""
    out = mod.clone()
    found: dict[str, KernelSource] = {}
    for gvar, func in mod.functions_items():
        if isinstance(func, tirx.PrimFunc) and _SOURCE in func.attrs:
            source = source_of(func)
            found[source.name] = source
            out[gvar] = func.without_attr(_SOURCE)
    return out, [found[name] for name in sorted(found)]


def _int(value: Any) -> Any:
    return tirx.IntImm("int32", value) if isinstance(value, int) else value
