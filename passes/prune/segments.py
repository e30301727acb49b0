"""Running a module piece by piece, with the values between two pieces at hand.

Calibration data flows through the bindings once; whoever looks at a value may change what comes
after it before it runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from tvm import IRModule, relax, tirx
from tvm.ir import GenericConst

from relaxc.passes.blocks import substitute

Arrays = Sequence[np.ndarray]
# Compiles a module whose `main` gives a tuple, and runs it on each set of arguments.
Run = Callable[[IRModule, Iterable[Arrays]], Iterator[list[np.ndarray]]]


def bindings_of(mod: IRModule) -> list[relax.Binding]:
    """All bindings of `main`, in order."""
    return [b for block in mod["main"].body.blocks for b in block.bindings]


def piece(
    mod: IRModule,
    bindings: Sequence[relax.Binding],
    wanted: Sequence[relax.Var],
) -> tuple[IRModule, list[relax.Var]]:
    """A module of some bindings.

    Args:
        mod: has the functions that they call.
        bindings: in order.
        wanted: what `main` of the piece returns.

    Returns:
        The module, and the variables that its parameters stand for.
    """
    defined = {b.var for b in bindings}
    needed: dict[relax.Var, None] = {}
    for binding in bindings:
        for var in relax.analysis.free_vars(binding.value):
            # Symbolic dimensions come with the tensors that have them.
            if var not in defined and isinstance(var.ty, relax.TensorType):
                needed[var] = None
    needed |= {var: None for var in wanted if var not in defined}
    inner: dict[relax.Var, relax.Expr] = {v: relax.Var(v.name, v.ty) for v in needed}
    builder = relax.BlockBuilder()
    params = [inner[v] for v in needed]
    with builder.function("main", params):
        with builder.dataflow():
            for binding in bindings:
                value = substitute(binding.value, inner)
                if isinstance(binding, relax.MatchCast):  # says what symbols are
                    inner[binding.var] = builder.match_cast(value, binding.ty, binding.var.name)
                else:
                    inner[binding.var] = builder.emit(value, binding.var.name)
            result = builder.emit_output(relax.Tuple([inner[v] for v in wanted]))
        builder.emit_func_output(result)
    out = mod.clone()
    out["main"] = builder.get()["main"]
    return relax.transform.CanonicalizeBindings()(out), list(needed)


def with_new_variables(mod: IRModule, params: Sequence[relax.Var] | None = None) -> IRModule:
    """The same module, whose bindings bind other variables.

    Args:
        mod: the module.
        params: parameters that take the place of its own, which stay otherwise.
    """
    main = mod["main"]
    params = list(main.params if params is None else params)
    names: dict[relax.Var, relax.Expr] = dict(zip(main.params, params, strict=True))
    blocks = []
    for block in main.body.blocks:
        bindings = []
        for binding in block.bindings:
            value = substitute(binding.value, names)
            var = type(binding.var)(binding.var.name, binding.var.ty)
            is_cast = isinstance(binding, relax.MatchCast)
            bindings.append(
                relax.MatchCast(var, value, binding.ty) if is_cast else relax.VarBinding(var, value)
            )
            names[binding.var] = var
        blocks.append(type(block)(bindings))
    body = relax.SeqExpr(blocks, substitute(main.body.body, names))
    body = relax.BlockBuilder().normalize(body)
    out = mod.clone()
    out["main"] = relax.Function(params, body, main.ret_ty, main.is_pure, main.attrs)
    return out


def common_shapes(mod: IRModule, samples: Sequence[Arrays]) -> dict[str, int]:
    """What the symbols in the parameters' shapes are in most of the samples.

    Pieces of a module cannot tell symbols from values whose shapes are sums of them; where no
    symbol is left, they need not.
    """
    shapes = Counter(tuple(np.shape(array) for array in sample) for sample in samples)
    most = shapes.most_common(1)[0][0]
    return {
        str(dim.name): int(size)
        for param, shape in zip(mod["main"].params, most, strict=True)
        for dim, size in zip(param.ty.shape.values, shape, strict=True)
        if isinstance(dim, tirx.Var)
    }


def of_shapes(mod: IRModule, sizes: Mapping[str, int], samples: Sequence[Arrays]) -> list[Arrays]:
    """The samples whose shapes are the parameters' with these symbols."""
    shapes = [
        tuple(sizes[d.name] if isinstance(d, tirx.Var) else int(d) for d in param.ty.shape.values)
        for param in mod["main"].params
    ]
    return [sample for sample in samples if [np.shape(array) for array in sample] == shapes]


def with_constants(mod: IRModule, other: IRModule) -> IRModule:
    """A module with the constants that another one has in the same operators of `main`."""
    main, values = mod["main"], iter([b.value for b in bindings_of(other)])
    blocks = []
    for block in main.body.blocks:
        bindings = []
        for binding in block.bindings:
            old, new = binding.value, next(values)
            if isinstance(old, relax.Call) and any(isinstance(a, GenericConst) for a in old.args):
                pairs = zip(old.args, new.args, strict=True)
                args = [n if isinstance(o, GenericConst) else o for o, n in pairs]
                value = relax.Call(old.op, args, old.attrs, old.ty_args)
                binding = relax.VarBinding(binding.var, relax.BlockBuilder().normalize(value))
            bindings.append(binding)
        blocks.append(type(block)(bindings))
    body = relax.BlockBuilder().normalize(relax.SeqExpr(blocks, main.body.body))
    out = mod.clone()
    out["main"] = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs)
    return out


class Values:
    """What the bindings run so far have given, for every sample, as long as someone needs it."""

    def __init__(self, mod: IRModule, run: Run, inputs: Mapping[relax.Var, list[np.ndarray]]):
        self._mod = mod
        self._run = run
        self._held = dict(inputs)

    def __getitem__(self, var: relax.Var) -> list[np.ndarray]:
        held: list[np.ndarray] = self._held[var]
        return held

    def advance(
        self,
        bindings: Sequence[relax.Binding],
        later: Iterable[relax.Binding],
        looked_at: Iterable[relax.Var],
    ) -> None:
        """Run bindings, keep what the later ones and the caller need, and drop the rest."""
        used = {v for b in later for v in relax.analysis.free_vars(b.value)} | set(looked_at)
        wanted = [b.var for b in bindings if b.var in used]
        if wanted:
            module, arguments = piece(self._mod, bindings, wanted)
            count = len(next(iter(self._held.values())))
            feeds = ([self._held[v][i] for v in arguments] for i in range(count))
            columns: list[list[np.ndarray]] = [[] for _ in wanted]
            for results in self._run(module, feeds):
                for column, array in zip(columns, results, strict=True):
                    column.append(array)
            self._held.update(zip(wanted, columns))
        self._held = {v: a for v, a in self._held.items() if v in used}
