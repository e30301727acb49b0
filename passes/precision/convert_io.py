"""Give inputs and outputs of a model another float type.

Before:                                   After:
    x: R.Tensor((n, 8), "float32")            x: R.Tensor((n, 8), "float16")
    gv = R.nn.relu(x)                         x_1 = R.astype(x, "float32")
                                              gv_1 = R.nn.relu(x_1)
                                              gv = R.astype(gv_1, "float16")

For callers that hold their data as float16 already, as trtexec's `--inputIOFormats` has it. The
model computes as before.

Leaves alone: what is no float (indices, masks of booleans), and float64.
Changes results by: 2**-11 relative per input and output.
Runs before everything else: it is the model that changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tvm import IRModule, relax

from relaxc.layout import Element
from relaxc.passes.base import Pass
from relaxc.passes.blocks import add_private

_FLOATS = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class ConvertIo(Pass):
    """Convert at the edges of `main`.

    Attributes:
        element: float32, float16 or bfloat16.
    """

    element: Element

    name: ClassVar[str] = "convert-io"
    opt_level: ClassVar[int] = 0

    def apply(self, mod: IRModule) -> IRModule:
        """Wrap `main`, and inline it."""
        inner = mod["main"].without_attr("global_symbol")
        rest = {g: f for g, f in mod.functions_items() if g.name_hint != "main"}
        builder = relax.BlockBuilder(IRModule(rest, attrs=mod.attrs))
        gvar = add_private(builder, inner, "main_inner")
        params = [relax.Var(p.name, self._type(p.ty)) for p in inner.params]
        with builder.function("main", params, dict(inner.attrs.items())):
            with builder.dataflow():
                given = [
                    new if new.ty == old.ty else builder.emit(relax.op.astype(new, _dtype(old)))
                    for new, old in zip(params, inner.params)
                ]
                result = builder.emit(relax.Call(gvar, given))
                is_tuple = isinstance(result.ty, relax.TupleType)
                count = len(result.ty.fields) if is_tuple else 1
                ends = [builder.emit(result[i]) for i in range(count)] if is_tuple else [result]
                ends = [self._converted(builder, end) for end in ends]
                end = builder.emit_output(relax.Tuple(ends) if is_tuple else ends[0])
            builder.emit_func_output(end)
        out = relax.transform.InlinePrivateFunctions()(builder.get())
        return relax.transform.CanonicalizeBindings()(out)

    def _type(self, ty: relax.Type) -> relax.Type:
        if not isinstance(ty, relax.TensorType) or str(ty.dtype.dtype) not in _FLOATS:
            return ty
        return relax.TensorType(ty.shape, self.element)

    def _converted(self, builder: relax.BlockBuilder, value: relax.Var) -> relax.Expr:
        same = self._type(value.ty) == value.ty
        return value if same else builder.emit(relax.op.astype(value, self.element))


def _dtype(value: relax.Expr) -> str:
    return str(value.ty.dtype.dtype)
