"""The operator that annotation leaves behind: an identity that says "quantize this value".

`R.call_pure_packed("relaxc.fake_quantize", value, kind, number)` where `kind` is "activation" and
`number` says which observer's range it takes, or "weight" and `number` is the channel axis (-1:
one scale for the whole tensor). It exists between annotate and calibrate only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tvm
from tvm import relax

_FUNCTION = "relaxc.fake_quantize"

Kind = Literal["activation", "weight"]


@dataclass(frozen=True)
class Marker:
    """A marker, taken apart.

    Attributes:
        value: what is to be quantized.
        kind: whether it changes from call to call.
        number: the observer of an activation, the channel axis of a weight.
    """

    value: relax.Expr
    kind: Kind
    number: int

    @property
    def axis(self) -> int | None:
        """The channel axis of a weight with a scale per channel."""
        return self.number if self.kind == "weight" and self.number >= 0 else None

    def as_call(self) -> relax.Expr:
        """The marker as an expression."""
        return relax.op.call_pure_packed(
            _FUNCTION,
            self.value,
            tvm.ir.StringImm(self.kind),
            tvm.tirx.IntImm("int64", self.number),
            ty_args=self.value.ty,
        )


def read_marker(binding: relax.Binding) -> Marker | None:
    """The marker that a binding holds, if it holds one."""
    call = getattr(binding, "value", None)
    if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.Op):
        return None
    if call.op.name != "relax.call_pure_packed" or call.args[0].global_symbol != _FUNCTION:
        return None
    _, value, kind, number = call.args
    return Marker(value, "weight" if kind.value == "weight" else "activation", int(number))
