"""What each kernel of the finished module computes: its nodes, arithmetic and memory traffic.

Nothing has to be carried through the passes but names: a kernel's result is called after the last
operator that it computes, as the importer named it; several are joined by commas, and whatever else
a pass makes of a node's result is called `name.something`. Its other operators are found in the
imported module, backwards from there to where another kernel's result is read. Kernels that answer
to no operator, such as copies into another layout, have no nodes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import tvm
from tvm import IRModule, relax
from tvm.ir import GlobalVar

from relaxc.layout import ARITHMETIC, IMAGE, SPARSITY, TASK, TRAFFIC
from relaxc.passes.analysis.cost import macs, size
from relaxc.passes.analysis.expression import as_text

_IN_PLACE = "relax.call_tir_inplace"
_CALLS = ("relax.call_tir", _IN_PLACE)
# One node may be several bindings: `name.1`, `name.0`, `name`.
_PART = re.compile(r"\.\d+$")
# What a kernel computes for some images of a batch, after the same for others.
_PART_OF_BATCH = re.compile(rf"\.{IMAGE}\d+$")
# These read as much of their tables as they return.
_LOOKUPS = ("relax.take", "relax.gather_elements", "relax.gather_nd", "relax.strided_slice")


def kernel_costs(imported: IRModule, final: IRModule) -> list[dict[str, Any]]:
    """Describe every kernel of `main`, in the order of execution.

    Args:
        imported: the module before all passes.
        final: the module after them, in which kernels are called by `call_tir`.

    Returns:
        Entries of `name` (the PrimFunc's), `nodes` (what the importer called them), `flops` (of
        matrix products and convolutions, as if computed directly), `bytes` (arguments and results,
        each once), `dtype` (of the arithmetic), where tuning has a say `task`, and where weights
        have many zeros `sparsity`: how many, and what becomes of them. Both numbers may be
        expressions of symbolic dimensions, or None where they cannot be written down.
    """
    names = (b.var.name for b in all_bindings(final["main"].body))
    graph = _Graph(imported, {_PART_OF_BATCH.sub("", name) for name in names})
    calls = kernel_calls(final)
    parts = Counter(_PART_OF_BATCH.sub("", b.var.name) for b in calls if _is_part(b))
    shared: dict[str, list[relax.Binding]] = {}
    entries = []
    for binding in calls:
        call, name = binding.value, binding.var.name
        of, count = name, 1
        if _is_part(binding):  # all parts do the same work, each a share of it
            of = _PART_OF_BATCH.sub("", name)
            count = parts[of]
        members = shared[of] if count > 1 and of in shared else graph.claim(of)
        shared[of] = members
        flops = 2 * sum((macs(imported, m.value) for m in members), 0)
        stated = final[call.args[0]].attrs.get(TRAFFIC)
        entries.append(
            {
                "name": call.args[0].name_hint,
                "nodes": list(dict.fromkeys(_PART.sub("", m.var.name) for m in members)),
                "flops": as_text(flops if count == 1 else flops // count),
                "bytes": as_text(_traffic(call, members) if stated is None else int(stated)),
                "dtype": _arithmetic(call, final[call.args[0]]),
                **_attributes(final[call.args[0]]),
            }
        )
    return entries


def kernel_calls(final: IRModule) -> list[relax.Binding]:
    """The bindings of `main` that call a kernel, in the order of execution."""
    return [
        binding
        for binding in all_bindings(final["main"].body)
        if isinstance(binding.value, relax.Call)
        and isinstance(binding.value.op, tvm.ir.Op)
        and binding.value.op.name in _CALLS
        and isinstance(binding.value.args[0], GlobalVar)
    ]


def _is_part(binding: relax.Binding) -> bool:
    """Whether a kernel computes some images of a batch."""
    return _PART_OF_BATCH.search(binding.var.name) is not None


class _Graph:
    """The imported operators, each of which belongs to one kernel at most."""

    def __init__(self, imported: IRModule, results: set[str]) -> None:
        # As the passes do: of equal operators only the first is computed.
        unique = relax.transform.EliminateCommonSubexpr()(imported)
        self.order = {b.var: (i, b) for i, b in enumerate(all_bindings(unique["main"].body))}
        self.named = {var.name: var for var in self.order}
        self.results = results
        self.claimed: set[relax.Var] = set()

    def claim(self, name: str) -> list[relax.Binding]:
        """The operators behind the result called `name` (or `a,b` of several), in order."""
        roots = (self._named(part) for part in (name, *name.split(",")))
        pending = [var for var in roots if var is not None]
        found: list[relax.Var] = []
        while pending:
            var = pending.pop()
            if var in self.claimed:
                continue
            self.claimed.add(var)
            found.append(var)
            for used in relax.analysis.free_vars(self.order[var][1].value):
                if used in self.order and used.name not in self.results:
                    pending.append(used)
        return [self.order[var][1] for var in sorted(found, key=lambda var: self.order[var][0])]

    def _named(self, name: str) -> relax.Var | None:
        """The variable of that name, or the one that it was derived from."""
        while name not in self.named and "." in name:
            name = name.rpartition(".")[0]
        return self.named.get(name)


def all_bindings(body: relax.Expr) -> Iterator[relax.Binding]:
    """All bindings that hold a value, those of branches included."""
    if not isinstance(body, relax.SeqExpr):
        return
    for block in body.blocks:
        for binding in block.bindings:
            value = getattr(binding, "value", None)
            if isinstance(value, relax.If):
                yield from all_bindings(value.true_branch)
                yield from all_bindings(value.false_branch)
            if value is not None:
                yield binding


def _traffic(call: relax.Call, members: list[relax.Binding]) -> Any:
    """Bytes read and written, each tensor once."""
    args = list(call.args[1].fields)
    result = size(call.ty)
    if call.op.name == _IN_PLACE:
        # The buffer is shared: this kernel writes the part that the last operator computes.
        args = [
            arg for i, arg in enumerate(args) if i not in set(map(int, call.attrs.inplace_indices))
        ]
        result = size(members[-1].value.ty) if members else result
    is_lookup = any(
        isinstance(m.value, relax.Call)
        and isinstance(m.value.op, tvm.ir.Op)
        and m.value.op.name in _LOOKUPS
        for m in members
    )
    read = [size(arg.ty) for arg in args]
    if is_lookup:
        read = [tvm.tirx.min(bytes_, result) for bytes_ in read]
    return sum(read, result)


def _attributes(func: tvm.tirx.PrimFunc) -> dict[str, Any]:
    """What the target's library has to say about a kernel."""
    found: dict[str, Any] = {}
    if func.attrs and TASK in func.attrs:
        found["task"] = str(func.attrs[TASK])
    if func.attrs and SPARSITY in func.attrs:
        stated = func.attrs[SPARSITY]
        found["sparsity"] = {
            str(key): str(value) if key == "method" else round(float(value), 3)
            for key, value in stated.items()
        }
    return found


def _arithmetic(call: relax.Call, func: tvm.tirx.PrimFunc) -> str:
    """The type of the multiplications, by the types of the operands unless the kernel says it."""
    if func.attrs and ARITHMETIC in func.attrs:
        return str(func.attrs[ARITHMETIC])
    types = {
        str(a.ty.dtype.dtype) for a in call.args[1].fields if isinstance(a.ty, relax.TensorType)
    }
    if types & {"int8", "uint8"}:
        return "int8"
    return next((t for t in ("bfloat16", "float16", "float64") if t in types), "float32")
