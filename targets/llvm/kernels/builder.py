"""Writes one kernel as TIR: explicit vectors, flat buffers, registers, Python-level unrolling.

A kernel template reads like the loop nest that it emits:

    with b.parallel(rows) as r:
        acc = b.register()
        acc.set(b.splat(0.0))
        with b.loop(depth) as k:
            acc.set(acc.get() + b.broadcast(x, r * depth + k) * b.load(w, k * lanes))
        b.store(y, r * lanes, acc.get())
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx import BufferLoad, BufferStore, ForKind, IntImm, Ramp

from relaxc.layout import Quantization
from relaxc.targets.llvm.kernels import intrinsics, piecewise, rounding

# Tasks of a parallel loop; the thread pool gives each thread an equal share of neighbours.
PARTS = 16
# Bytes of a cache line.
LINE = 64

Expr = Any  # a scalar or vector tirx expression
Index = Any  # an int or an int64 expression


def vector(dtype: str, lanes: int) -> str:
    """The type of a vector; of a scalar for one lane."""
    return f"{dtype}x{lanes}" if lanes > 1 else dtype


def index(value: Index) -> Expr:
    """An int64 index expression."""
    return IntImm("int64", value) if isinstance(value, int) else value


@dataclass(frozen=True)
class Buffer:
    """A parameter or workspace, addressed by a flat element index.

    Attributes:
        data: the TIR buffer.
        dtype: of the values that kernels compute with.
        shape: sizes.
        is_bfloat16: whether float32 values are stored as the bits of bfloat16 (uint16).
        quantization: how float32 values are stored as uint8, if they are.
    """

    data: Any
    dtype: str
    shape: tuple[Any, ...]
    is_bfloat16: bool = False
    quantization: Quantization | None = None


class Register:
    """One vector that LLVM keeps in a register.

    A buffer of one vector each: anything above 1 KiB, or of scope "local", would become heap
    workspace with a call per tile (TVM's LLVM backend promotes small default-scope buffers only).
    """

    def __init__(self, builder: KernelBuilder, buffer: Any, lanes: int) -> None:
        self._builder = builder
        self._buffer = buffer
        self._index = [Ramp(index(0), index(1), lanes)] if lanes > 1 else [index(0)]

    def get(self) -> Expr:
        """The current value."""
        return BufferLoad(self._buffer, self._index)

    def set(self, value: Expr) -> None:
        """Assign."""
        self._builder.emit(BufferStore(self._buffer, value, self._index))


class KernelBuilder:
    """Collects parameters and statements of one PrimFunc.

    Attributes:
        name: symbol of the function.
        lanes: float32 elements per vector register.
        byte_products: the instruction that dot products of bytes are made of.
    """

    def __init__(self, name: str, lanes: int, byte_products: str | None = None) -> None:
        self.name = name
        self.lanes = lanes
        self.byte_products = byte_products
        self._params: list[Any] = []
        self._blocks: list[list[Any]] = [[]]
        self._count = 0
        self._definitions: dict[str, None] = {}

    # -- buffers ---------------------------------------------------------------------------

    def param(self, name: str, shape: Sequence[Any], dtype: str = "float32") -> Buffer:
        """Declare the next parameter, a tensor; the flat view of it is returned."""
        shape = tuple(index(d) for d in shape)
        quantization = Quantization.of(dtype)
        stored = "uint8" if quantization else "uint16" if dtype == "bfloat16" else dtype
        buffer = tirx.decl_buffer(shape, stored, name)
        self._params.append(buffer)
        size = index(1)
        for dim in shape:
            size = size * dim
        flat = tirx.decl_buffer((size,), stored, f"{name}_flat")
        self.emit(tirx.DeclBuffer(flat, data=buffer.data))
        if dtype == "bfloat16":
            return Buffer(flat, "float32", shape, is_bfloat16=True)
        if quantization:
            return Buffer(flat, "float32", shape, quantization=quantization)
        return Buffer(flat, dtype, shape)

    def grouped(self, buffer: Buffer, group: int) -> Buffer:
        """The same memory as int32, each of which holds `group` neighbouring elements."""
        flat = tirx.decl_buffer(
            (buffer.data.shape[0] // group,), "int32", f"{buffer.data.name}_grouped"
        )
        self.emit(tirx.DeclBuffer(flat, data=buffer.data.data))
        return Buffer(flat, "int32", buffer.shape)

    def scalar_param(self, name: str, before_last: bool = False) -> Expr:
        """Declare the next parameter, an int64; or the one before the last declared."""
        var = tirx.Var(name, "int64")
        self._params.insert(len(self._params) - before_last, var)
        return var

    def workspace(self, size: Index, dtype: str = "float32", name: str = "work") -> Buffer:
        """Scratch memory for the enclosing scope."""
        self._count += 1
        buffer = tirx.decl_buffer((index(size),), dtype, f"{name}{self._count}")
        self.emit(tirx.AllocBuffer(buffer))
        return Buffer(buffer, dtype, (size,))

    def register(self, dtype: str = "float32", lanes: int | None = None) -> Register:
        """A fresh vector register."""
        lanes = self.lanes if lanes is None else lanes
        self._count += 1
        buffer = tirx.decl_buffer((lanes,), dtype, f"acc{self._count}")
        self.emit(tirx.AllocBuffer(buffer))
        return Register(self, buffer, lanes)

    # -- control flow ----------------------------------------------------------------------

    @contextlib.contextmanager
    def loop(self, extent: Index, kind: ForKind = ForKind.SERIAL) -> Iterator[Expr]:
        """A counted loop; yields its variable. A loop of one iteration disappears."""
        if isinstance(extent, int) and extent == 1 and kind == ForKind.SERIAL:
            yield index(0)
            return
        self._count += 1
        var = tirx.Var(f"i{self._count}", "int64")
        self._blocks.append([])
        yield var
        body = self._sequence(self._blocks.pop())
        self.emit(tirx.For(var, index(0), index(extent), kind, body))

    @contextlib.contextmanager
    def parallel(self, extent: Index, finish: Callable[[], None] | None = None) -> Iterator[Expr]:
        """A loop whose iterations the thread pool shares out, in equal contiguous parts.

        `finish` writes what follows the last iteration of a part.

        Parts differ by one iteration at most: TVM's own split rounds their size up, so that seven
        pairs of rows would be shared four to three.
        """
        parts = min(extent, PARTS) if isinstance(extent, int) else PARTS
        with self.loop(parts, ForKind.PARALLEL) as part:
            if parts == extent:
                yield part
            else:
                low = self.let(part * extent // parts)
                count = self.let((part + 1) * extent // parts - low)
                with self.loop(count) as i:
                    yield self.let(low + i)
            if finish is not None:
                finish()

    @contextlib.contextmanager
    def when(self, condition: Expr | None, repeats: bool = False) -> Iterator[None]:
        """Run the body only if `condition` holds, or as long as it does; None means always."""
        if condition is None:
            yield
            return
        self._blocks.append([])
        yield
        body = self._sequence(self._blocks.pop())
        self.emit(
            tirx.While(condition, body) if repeats else tirx.IfThenElse(condition, body, None)
        )

    def each_of(self, values: Sequence[Expr], rolled: bool) -> Iterator[tuple[Index, Expr]]:
        """Visit vectors with their positions: unrolled, or in a loop over a copy of them.

        What the caller emits between two steps goes into the loop's body. Rolling keeps the code
        of a long epilogue small; at most 1 KiB of values, which stays on the stack.
        """
        if not rolled or len(values) < 3:
            yield from ((i, value) for i, value in enumerate(values))
            return
        # LLVM aligns elements that are vectors; else every other one would straddle a line.
        scratch = self.workspace(len(values), f"float32x{self.lanes}", "tile")
        for i, value in enumerate(values):
            self.store(scratch, i, value, 1)
        with self.loop(len(values)) as i:
            yield i, self.let(self.load(scratch, i, 1))

    # -- values ----------------------------------------------------------------------------

    def emit(self, statement: Any) -> None:
        """Append a statement."""
        self._blocks[-1].append(statement)

    def let(self, value: Expr, name: str = "t") -> Expr:
        """Name a value, so that it is computed once."""
        if isinstance(value, int | IntImm | tirx.Var):
            return index(value)
        self._count += 1
        var = tirx.Var(f"{name}{self._count}", value.ty)
        self.emit(tirx.Bind(var, value))
        return var

    def opaque(self, value: Expr) -> Expr:
        """Name an int64 value so that TVM's simplifier does not look into it, in a register.

        It would expand a named value wherever it is used, and prove what it can about the whole:
        minutes for addresses over symbolic dimensions.
        """
        if isinstance(value, int | IntImm | tirx.Var):
            return index(value)
        register = self.register("int64", 1)
        register.set(value)
        return self.let(register.get())

    def held(self, value: Expr, lanes: int) -> Expr:
        """Name float32 numbers so that TVM's simplifier does not look into them, in a register.

        A polynomial of a polynomial of a polynomial has a million terms where it is written out.
        """
        register = self.register(lanes=lanes)
        register.set(value)
        return self.let(register.get())

    def splat(self, value: float | Expr, lanes: int | None = None, dtype: str = "float32") -> Expr:
        """A vector of equal elements; `dtype` is that of a Python number."""
        lanes = self.lanes if lanes is None else lanes
        if isinstance(value, int | float):
            is_float = dtype == "float32"
            value = tirx.FloatImm(dtype, float(value)) if is_float else IntImm(dtype, int(value))
        return tirx.Broadcast(value, lanes) if lanes > 1 else value

    def load(self, buffer: Buffer, at: Index, lanes: int | None = None) -> Expr:
        """Load consecutive elements."""
        lanes = self.lanes if lanes is None else lanes
        where = Ramp(index(at), index(1), lanes) if lanes > 1 else index(at)
        value = BufferLoad(buffer.data, [where])
        if buffer.quantization is not None:
            return rounding.dequantized(value, buffer.quantization, lanes)
        return intrinsics.from_bfloat16(value, lanes) if buffer.is_bfloat16 else value

    def broadcast(self, buffer: Buffer, at: Index, lanes: int | None = None) -> Expr:
        """Load one element into all lanes."""
        lanes = self.lanes if lanes is None else lanes
        value = self.load(buffer, at, 1)
        return tirx.Broadcast(value, lanes) if lanes > 1 else value

    def store(self, buffer: Buffer, at: Index, value: Expr, lanes: int | None = None) -> None:
        """Store consecutive elements."""
        lanes = self.lanes if lanes is None else lanes
        where = Ramp(index(at), index(1), lanes) if lanes > 1 else index(at)
        if buffer.is_bfloat16:
            value = self.to_bfloat16(value, lanes)
        if buffer.quantization is not None:
            stored = rounding.quantized(value, buffer.quantization, lanes)
            value = tirx.Cast(vector("uint8", lanes), stored)
        self.emit(BufferStore(buffer.data, value, [where]))

    def store_partial(self, buffer: Buffer, at: Index, value: Expr, count: int) -> None:
        """Store the first `count` lanes of a vector, in pieces of powers of two."""
        if count == self.lanes:
            self.store(buffer, at, value)
            return
        done = 0
        while done < count:
            piece = 1 << ((count - done).bit_length() - 1)
            lanes = [IntImm("int32", done + i) for i in range(piece)]
            self.store(buffer, at + done, tirx.Shuffle([value], lanes), piece)
            done += piece

    def load_partial(self, buffer: Buffer, at: Index, count: int, fill: float = 0.0) -> Expr:
        """Load `count` elements into the first lanes of a vector; the others are `fill`."""
        if count == self.lanes:
            return self.load(buffer, at)
        pieces: list[Expr] = []
        done = 0
        while done < count:
            piece = 1 << ((count - done).bit_length() - 1)
            pieces.append(self.load(buffer, at + done, piece))
            done += piece
        pieces.append(self.splat(fill, self.lanes - count, buffer.dtype))
        return tirx.Shuffle(pieces, [IntImm("int32", i) for i in range(self.lanes)])

    def keep(self, value: Expr, count: int) -> Expr:
        """The first `count` lanes of a vector; the others become zero."""
        if count == self.lanes:
            return value
        zeros = self.splat(0.0)
        lanes = [i if i < count else self.lanes + i for i in range(self.lanes)]
        return tirx.Shuffle([value, zeros], [IntImm("int32", i) for i in lanes])

    def dot_uint8(self, total: Expr, a: Expr, b: Expr) -> Expr:
        """`intrinsics.dot_uint8`."""
        assert self.byte_products is not None, "this CPU multiplies no bytes"
        self._definitions[intrinsics.byte_products(self.lanes, self.byte_products)] = None
        return intrinsics.dot_uint8(total, a, b)

    def dot_bfloat16(self, total: Expr, a: Expr, b: Expr) -> Expr:
        """`intrinsics.dot_bfloat16`."""
        self._definitions[intrinsics.DOT_BFLOAT16] = None
        return intrinsics.dot_bfloat16(total, a, b)

    def bfloat16_pairs(self, low: Expr, high: Expr) -> Expr:
        """`intrinsics.bfloat16_pairs`."""
        self._definitions[intrinsics.BFLOAT16_PAIRS] = None
        return intrinsics.bfloat16_pairs(low, high)

    def to_bfloat16(self, value: Expr, lanes: int) -> Expr:
        """`intrinsics.to_bfloat16`."""
        self._definitions[intrinsics.bfloat16_rounding(lanes)] = None
        return intrinsics.to_bfloat16(value, lanes)

    def activation(self, name: str, x: Expr) -> Expr:
        """`piecewise.activation`."""
        self._definitions[piecewise.definition(name)] = None
        return piecewise.activation(name, x)

    def define(self, text: str) -> None:
        """Make what a text of LLVM IR defines callable."""
        self._definitions[text] = None

    def nibble(self, bits: Expr, zero_point: int) -> Expr:
        """The lowest four bits of each int32, less a zero point, as float32."""
        if self.lanes == 16:
            self._definitions[intrinsics.nibble_table(zero_point)] = None
            return intrinsics.nibble(bits, zero_point)
        low = tirx.bitwise_and(bits, self.splat(15, dtype="int32"))
        value = tirx.Cast(vector("float32", self.lanes), low)
        return value - self.splat(zero_point) if zero_point else value

    def prefetch(self, buffer: Buffer, at: Index, locality: int = 2, writes: bool = False) -> None:
        """Ask for the cache line of an element, to write it; `locality` 3 is L1, 2 is L2."""
        address = tirx.call_intrin(
            "handle", "tirx.address_of", BufferLoad(buffer.data, [index(at)])
        )
        hint = [IntImm("int32", v) for v in (int(writes), locality, 1)]
        self.emit(tirx.Evaluate(tirx.call_intrin("void", "tirx.prefetch", address, *hint)))

    # -- result ----------------------------------------------------------------------------

    @staticmethod
    def _sequence(statements: list[Any]) -> Any:
        if not statements:
            return tirx.Evaluate(IntImm("int32", 0))
        return statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)

    def body(self) -> Any:
        """What has been emitted, as one statement."""
        body = self._sequence(self._blocks[0])
        return intrinsics.with_definitions(body, self._definitions) if self._definitions else body

    def finish(self, public: bool = False) -> tirx.PrimFunc:
        """The finished kernel; a public one keeps its name, for use outside of a Relax module."""
        func = tirx.PrimFunc(self._params, self.body())
        func = func.with_attrs({"tirx.noalias": True, "tirx.is_scheduled": True})
        return func.with_attr("global_symbol", self.name) if public else func


def even_tiles(extent: int, largest: int) -> list[tuple[int, int, int]]:
    """Split an extent into tiles of at most two neighbouring sizes.

    Returns:
        (start, tile size, number of tiles) per size; balanced, so that no tile is a mere remnant.
    """
    tiles = -(-extent // largest)
    small, larger = divmod(extent, tiles)
    groups = []
    if larger:
        groups.append((0, small + 1, larger))
    if tiles - larger:
        groups.append((larger * (small + 1), small, tiles - larger))
    return groups
