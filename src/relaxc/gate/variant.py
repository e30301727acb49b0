"""One way to compile a model, as a list of calls of kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import IRModule, relax

from relaxc.passes.analysis.kernels import all_bindings, kernel_calls, kernel_costs

Feed = Mapping[str, np.ndarray]
# Times of kernels by their keys.
Seconds = Mapping[str, float]
_UNSIGNED = (1 << 64) - 1
# What the virtual machine takes for a call and for each of its arguments (Zen 5): integer kernels
# have more of them, which is all that matters in networks of tiny layers.
_CALL_S, _ARGUMENT_S = 100e-9, 35e-9


@dataclass(frozen=True)
class Call:
    """A kernel's call.

    Attributes:
        key: knows the kernel's code.
        nodes: that it computes; none for conversions.
        sources: earlier calls whose results it reads, by their places.
        overhead_s: seconds of calling it.
    """

    key: str
    nodes: tuple[str, ...]
    sources: frozenset[int]
    overhead_s: float = 0.0

    def cost(self, seconds: Seconds) -> float:
        """Seconds of calling and running it."""
        return seconds[self.key] + self.overhead_s


@dataclass(frozen=True, eq=False)
class Variant:
    """A model after all passes.

    Attributes:
        mod: the module.
        kernels: as the manifest lists them.
        calls: likewise.
    """

    mod: IRModule
    kernels: list[dict[str, Any]]
    calls: tuple[Call, ...]

    @staticmethod
    def of(source: IRModule, mod: IRModule, feed: Feed) -> Variant:
        """Describe a finished module by the nodes of the one that it was made from."""
        kernels = kernel_costs(source, mod)
        shapes = {name: array.shape for name, array in feed.items()}
        makers: dict[relax.Var, frozenset[int]] = {}
        calls: list[Call] = []
        bindings = {binding.var: i for i, binding in enumerate(kernel_calls(mod))}
        for binding in all_bindings(mod["main"].body):
            read = relax.analysis.free_vars(binding.value)
            sources = frozenset[int]().union(*(makers.get(var, frozenset()) for var in read))
            if binding.var in bindings:
                nodes = tuple(kernels[len(calls)]["nodes"])
                key = _key(mod[binding.value.args[0]], binding.value, shapes)
                sources, number = frozenset({len(calls)}), sources
                overhead_s = _CALL_S + _ARGUMENT_S * len(binding.value.args[1].fields)
                calls.append(Call(key, nodes, number, overhead_s))
            makers[binding.var] = sources
        return Variant(mod, kernels, tuple(calls))

    def total(self, seconds: Seconds) -> float:
        """All kernels, and calling them."""
        return sum(call.cost(seconds) for call in self.calls)


def _key(func: tvm.tirx.PrimFunc, call: relax.Call, shapes: Mapping[str, Sequence[int]]) -> str:
    code = tvm_ffi.structural_hash(func.without_attr("global_symbol"))
    types = [call.ty, *(arg.ty for arg in call.args[1].fields)]
    is_static = all(isinstance(dim, tvm.tirx.IntImm) for ty in types for dim in _dims(ty))
    # Where sizes are symbolic, they are those of the inputs.
    return f"{code & _UNSIGNED:016x}" + ("" if is_static else f" {shapes}")


def _dims(ty: tvm.ir.Type) -> list[Any]:
    if isinstance(ty, relax.TupleType):
        return [dim for field in ty.fields for dim in _dims(field)]
    known = isinstance(ty, relax.TensorType) and isinstance(ty.shape, relax.ShapeExpr)
    return list(ty.shape.values) if known else [None]
