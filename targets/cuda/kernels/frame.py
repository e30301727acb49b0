"""Declares the parameters of a kernel in CUDA C++ in order, and finishes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax

from relaxc.layout import ROWS_E4M3, Element, Layout
from relaxc.targets.cuda.kernels.elements import declaration, type_of
from relaxc.targets.cuda.kernels.kernel import Kernel
from relaxc.targets.cuda.kernels.launch import MatrixMap, PatchMap, launch
from relaxc.targets.cuda.kernels.packing import Packed
from relaxc.targets.llvm.kernels.constants import array_of, is_constant


def as_element(array: np.ndarray, element: Element) -> np.ndarray:
    """Float32 values as they are stored; bfloat16 as its bits."""
    if element == "bfloat16":
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
        nearest_even = 0x7FFF + ((bits >> 16) & 1)
        return ((bits + nearest_even) >> 16).astype(np.uint16)
    if element == ROWS_E4M3:  # bits already: their scales are elsewhere
        return np.ascontiguousarray(array, np.uint8)
    return np.ascontiguousarray(array, np.dtype(element))


class Frame:
    """A group's kernel under construction.

    Attributes:
        label: what profiles show behind the name, such as sizes.
        names: C++ pointers of the group's parameters.
        elements: how each parameter is stored.
        result: how the result is.
    """

    def __init__(
        self, name: str, func: relax.Function, layouts: Sequence[Layout], dims: Sequence[Any] = ()
    ) -> None:
        self.name = name
        self.label = ""
        self._buffers: list[tuple[Sequence[Any], str]] = []
        self._parameters: list[str] = []
        self._constants: list[np.ndarray] = []
        self._packed: dict[int, Packed] = {}
        self.names: dict[relax.Expr, str] = {}
        self.elements: dict[relax.Expr, str] = {}
        for i, (param, layout) in enumerate(zip(func.params, layouts)):
            self.names[param] = f"x{i}"
            self.elements[param] = layout.element
            self._declare(f"x{i}", _physical(param.ty, layout), layout, "const ")
        self.result = layouts[-1]
        self._result_shape = _physical(func.ret_ty, layouts[-1])

    def _declare(self, name: str, shape: Sequence[Any], layout: Layout, const: str) -> None:
        self._buffers.append((shape, layout.storage))
        self._parameters.append(f"{const}{type_of(layout.element)}* __restrict__ {name}")

    def constant(
        self, array: np.ndarray, element: Element = "float32", packed: Packed | None = None
    ) -> str:
        """Declare a constant parameter, which may be a packed matrix; returns its pointer."""
        name = f"c{len(self._constants)}"
        if packed is not None:
            self._packed[len(self._constants)] = packed
        stored = as_element(array, element)
        self._constants.append(stored)
        self._declare(name, stored.shape, Layout(element=element), "const ")
        return name

    def pointer(self, expr: relax.Expr) -> str:
        """The pointer of a parameter or, declared now, of a constant."""
        for known, name in self.names.items():
            if known.same_as(expr):
                return name
        assert is_constant(expr), "operands are parameters or constants"
        self.names[expr] = self.constant(array_of(expr).astype(np.float32))
        self.elements[expr] = "float32"
        return self.names[expr]

    def element_of(self, expr: relax.Expr) -> str:
        """How a parameter is stored."""
        return next(element for known, element in self.elements.items() if known.same_as(expr))

    def place(self, pointer: str) -> int:
        """Which of the parameters has this name."""
        return next(i for i, p in enumerate(self._parameters) if p.split()[-1] == pointer)

    def finish(
        self,
        source: str,
        grid: Sequence[Any],
        threads: int,
        shared_bytes: int,
        scalars: Sequence[Any] = (),
        maps: Sequence[MatrixMap | PatchMap] = (),
    ) -> Kernel:
        """Declare the result, `y`; `PARAMETERS` in the source becomes what was declared."""
        self._declare("y", self._result_shape, self.result, "")
        stored = [*self.elements.values(), self.result.element]
        declared = dict.fromkeys(filter(None, map(declaration, stored)))
        text = source.replace("PARAMETERS", ", ".join(self._parameters))
        text = "\n".join([*declared, text])
        name = f"{self.name}_{self.label}" if self.label else self.name
        func = launch(name, text, self._buffers, grid, threads, shared_bytes, scalars, maps)
        return Kernel(self.name, func, self._constants, packed=self._packed)


def _physical(ty: relax.TensorType, layout: Layout) -> list[Any]:
    return list(layout.physical_shape(list(ty.shape.values)))
