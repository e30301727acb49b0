"""Loop nests of `max` and `min`: TVM's own start at the largest finite number, not at infinity.

The maximum of a row of -inf, such as a fully masked row of attention, is -inf.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax, te, tirx


def _extremum(join: Callable[[Any, Any], Any], is_max: bool) -> Callable[..., relax.Expr]:
    name = "max" if is_max else "min"

    def identity(dtype: str) -> Any:
        if "float" in dtype:
            return tirx.const(float("-inf" if is_max else "inf"), dtype)
        return tirx.min_value(dtype) if is_max else tirx.max_value(dtype)

    # TVM counts the parameters of what joins: a partial or built-in function would not do.
    reducer = te.comm_reducer(lambda a, b: join(a, b), identity, name=name)

    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        rank, listed = int(call.args[0].ty.ndim), call.attrs.axis
        axes = {int(a) % rank for a in listed} if listed is not None else set(range(rank))
        keep = bool(call.attrs.keepdims)
        if not axes:
            return call.args[0]

        def compute(x: te.Tensor) -> te.Tensor:
            loops = {a: te.reduce_axis((0, x.shape[a]), name=f"r{a}") for a in sorted(axes)}
            shape = [1 if a in axes else d for a, d in enumerate(x.shape) if keep or a not in axes]

            def element(*i: Any) -> Any:
                kept = iter(v for k, v in enumerate(i) if not keep or k not in axes)
                at = [loops[a] if a in axes else next(kept) for a in range(rank)]
                return reducer(x(*at), axis=list(loops.values()))

            return te.compute(shape, element, name=f"{name}_of")

        return builder.call_te(compute, call.args[0], primfunc_name_hint=name)

    return legalize


EXTREMUM_RULES = {
    "relax.max": _extremum(tirx.max, True),
    "relax.min": _extremum(tirx.min, False),
}
