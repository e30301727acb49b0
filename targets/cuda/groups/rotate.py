"""Rotary position embeddings, read through views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from tvm import relax

from relaxc.layout import Layout
from relaxc.targets.cuda.groups.base import is_float
from relaxc.targets.cuda.kernels import gemm
from relaxc.targets.cuda.kernels.elements import type_of
from relaxc.targets.cuda.kernels.frame import Frame
from relaxc.targets.cuda.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.constants import is_constant
from relaxc.targets.llvm.kernels.strided import Strided, resolve, row_major, static_shape

_HERE = Path(gemm.__file__).parent
_THREADS, _VECTOR = 256, 8


def has_rotary(func: relax.Function) -> bool:
    """Whether a group has a kernel: static shapes of up to four dimensions, in whole vectors."""
    return _parts(func) is not None


def lower(func: relax.Function, layouts: Sequence[Layout]) -> Kernel:
    """Write the kernel."""
    views = _parts(func)
    assert views is not None
    shape = static_shape(func.body.body)
    assert shape is not None
    frame = Frame("rotate", func, layouts)
    dims = (*(1,) * (4 - len(shape)), *shape)
    constants = {"DEPTH": dims[-1], "D1": dims[1], "D2": dims[2], "V": _VECTOR}
    count = math.prod(dims) // (2 * _VECTOR)
    constants["COUNT"] = count
    lines = ["#define MODE 0"]
    for side, view in views.items():
        lines.append(f"#define {side}_POINTER {frame.pointer(view.base)}")
        constants[f"{side}_OFFSET"] = view.offset
        constants |= {f"{side}_S{axis}": stride for axis, stride in enumerate(view.strides[:-1])}
    lines += [gemm.prelude(), f"typedef {type_of(layouts[-1].element)} T;"]
    lines += [f"constexpr int {name} = {value};" for name, value in constants.items()]
    lines.append((_HERE / "rotate.cu").read_text(encoding="utf-8"))
    return frame.finish("\n".join(lines), [-(-count // _THREADS)], _THREADS, 0)


def _parts(func: relax.Function) -> dict[str, Strided] | None:
    """What x, cosines and sines are views of, in four dimensions."""
    producers = {b.var: b.value for block in func.body.blocks for b in block.bindings}
    shape = static_shape(func.body.body)
    if shape is None or len(shape) > 4 or shape[-1] % (2 * _VECTOR) or not is_float(func.body.body):
        return None
    last = producers[func.body.body]
    products = [producers[arg] for arg in last.args]
    is_turned = [any(_is_concat(producers, arg) for arg in call.args) for call in products]
    if is_turned.count(True) != 1:
        return None
    plain, turned = products[is_turned.index(False)], products[is_turned.index(True)]
    t = next(arg for arg in turned.args if _is_concat(producers, arg))
    x = producers[producers[t].args[0].fields[1]].args[0]
    found: dict[str, Strided] = {}
    for side, expr in (("X", x), ("COS", _other(plain, x)), ("SIN", _other(turned, t))):
        own = static_shape(expr)
        if own is None or own[-1:] != shape[-1:]:
            return None
        view = resolve(expr, producers)
        if view is None or view.scale != 1.0:
            return None
        if not isinstance(view.base, relax.Var) and not is_constant(view.base):
            return None
        padded = (*(1,) * (4 - len(own)), *own)
        strides = (*row_major(padded)[: 4 - len(own)], *view.strides)
        spread = tuple(s if n > 1 else 0 for n, s in zip(padded[:-1], strides[:-1]))
        whole = (view.offset, *spread)
        if strides[-1] != 1 or any(value % _VECTOR for value in whole):
            return None
        found[side] = Strided(view.base, padded, (*spread, 1), view.offset)
    return found


def _is_concat(producers: dict[relax.Var, relax.Expr], arg: relax.Expr) -> bool:
    call = producers.get(arg) if isinstance(arg, relax.Var) else None
    return call is not None and str(call.op.name) == "relax.concat"


def _other(call: relax.Call, known: relax.Expr) -> relax.Expr:
    return call.args[1] if call.args[0].same_as(known) else call.args[0]
