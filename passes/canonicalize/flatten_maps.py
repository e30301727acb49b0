"""Compute on maps with one or three spatial axes as on maps with two, which have kernels.

Before:                                      After:
    lv = R.nn.conv1d(x, w)                       lv = R.expand_dims(x, 2)
    lv1 = R.add(lv, bias)                        lv1 = R.nn.conv2d(lv, w')
    gv = R.nn.relu(lv1)                          lv2 = R.add(lv1, bias')
                                                 lv3 = R.nn.relu(lv2)
                                                 gv = R.squeeze(lv3, [2])

Fires when: 1. it is a convolution (transposed or not) or a 1-D pooling, whose weights are constant
               and whose dimensions but the batch are static;
            2. or an elementwise operator or a concatenation of channels that follows one; what else
               an elementwise operator reads gets its 2-D form, where that moves nothing (lines).
Between such operators tensors stay in their 2-D form (see `map_forms`).
Exact | volumes: products are summed in another order.
Must run after: fold-batch-norm, which knows convolutions of any rank. Must run before: group-ops.
Gains: these operators have no kernels of their own; they ran as plain loop nests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar

import tvm
from tvm import IRModule, relax, tirx
from tvm.ir import GenericConst

from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_functions
from relaxc.passes.canonicalize.map_forms import Emitter, Form, Line, Volume
from relaxc.passes.canonicalize.sink_permute import ELEMENTWISE

_CONVOLUTIONS = {
    "relax.nn.conv1d": ("NCW", "OIW"),
    "relax.nn.conv1d_transpose": ("NCW", "IOW"),
    "relax.nn.conv3d": ("NCDHW", "OIDHW"),
    "relax.nn.conv3d_transpose": ("NCDHW", "IODHW"),
}
# The number of a binding of an ONNX node, and the first that is surely free.
_PART, _FIRST = re.compile(r"\.\d+$"), 100
_POOLS = frozenset({"relax.nn.max_pool1d", "relax.nn.avg_pool1d"})


@dataclass(frozen=True)
class FlattenMaps(Pass):
    """Rewrite 1-D and 3-D convolutions, and what follows them, as 2-D ones."""

    name: ClassVar[str] = "flatten-maps"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite the dataflow blocks of every function."""
        return relax.transform.DeadCodeElimination()(rewrite_functions(mod, _rewrite))


def _rewrite(builder: relax.BlockBuilder, block: relax.BindingBlock) -> list[relax.Binding]:
    if not isinstance(block, relax.DataflowBlock):
        return list(block.bindings)
    rewriter = _Rewriter(Emitter(builder))
    for binding in block.bindings:
        rewriter.binding(binding)
    return rewriter.b.bindings


@dataclass
class _Rewriter:
    b: Emitter
    flat: dict[relax.Expr, tuple[relax.Var, Form]] = field(default_factory=dict)

    def binding(self, binding: relax.Binding) -> None:
        """Emit a binding; where it has a 2-D form, that first, and then the way back from it."""
        call = getattr(binding, "value", None)
        found = None
        if isinstance(call, relax.Call) and isinstance(call.op, tvm.ir.Op):
            found = self._flatten(call)
        if found is None:
            self.b.bindings.append(binding)
            return
        value, form = found
        bound = isinstance(value, relax.Var)
        # Numbered, as all but the last binding of an ONNX node are: users know it by its name.
        name = f"{_PART.sub('', binding.var.name)}.{_FIRST + len(self.b.bindings)}"
        var = value if bound else self.b.emit(value, name)
        self.flat[binding.var] = var, form
        back = form.restore(var, binding.var.ty.shape.values, self.b)
        self.b.bindings.append(relax.VarBinding(binding.var, self.b.builder.normalize(back)))

    def _flatten(self, call: relax.Call) -> tuple[relax.Expr, Form] | None:
        name = str(call.op.name)
        if name in _CONVOLUTIONS:  # 1.
            if not _is_static(call) or not isinstance(call.args[1], GenericConst):
                return None
            if (str(call.attrs.data_layout), str(call.attrs.kernel_layout)) != _CONVOLUTIONS[name]:
                return None
            x, form = self._data(call.args[0])
            return form.convolve(self.b, x, call)
        if name in _POOLS:
            if not _is_static(call) or str(call.attrs.layout) != "NCW":
                return None
            x, form = self._data(call.args[0])
            assert isinstance(form, Line)
            return form.pool(x, call), form
        if name in ELEMENTWISE:  # 2.
            return self._elementwise(call)
        if name == "relax.concat":
            return self._concat(call)
        return None

    def _data(self, value: relax.Expr) -> tuple[relax.Expr, Form]:
        if value in self.flat:
            return self.flat[value]
        dims = value.ty.shape.values
        form: Form = Line() if len(dims) == 3 else Volume(int(dims[2]))
        flat = form.flatten(self.b, value)
        self.flat[value] = flat, form
        return flat, form

    def _elementwise(self, call: relax.Call) -> tuple[relax.Expr, Form] | None:
        forms = {self.flat[a][1] for a in call.args if a in self.flat}
        if len(forms) != 1:
            return None
        form = forms.pop()
        args = [self._operand(arg, form) for arg in call.args]
        if None in args:
            return None
        return relax.Call(call.op, args, call.attrs, call.ty_args, call.span), form

    def _operand(self, arg: relax.Expr, form: Form) -> relax.Expr | None:
        if arg in self.flat:
            return self.flat[arg][0]
        if not isinstance(arg.ty, relax.TensorType) or arg.ty.ndim == 0:
            return arg
        if not isinstance(arg, GenericConst):
            return self._data(arg)[0] if form == Line() and arg.ty.ndim == form.rank else None
        array = arg.value.numpy()
        array = array.reshape((1,) * (form.rank - array.ndim) + array.shape)
        flat = form.constant(array)
        return None if flat is None else relax.const(flat, flat.dtype.name)

    def _concat(self, call: relax.Call) -> tuple[relax.Expr, Form] | None:
        fields = call.args[0].fields if isinstance(call.args[0], relax.Tuple) else []
        found = [self.flat.get(f) for f in fields]
        if int(call.attrs.axis or 0) != 1 or None in found or len({f[1] for f in found if f}) != 1:
            return None
        known = [f for f in found if f is not None]
        return relax.op.concat([var for var, _ in known], 1), known[0][1]


def _is_static(call: relax.Call) -> bool:
    """Whether all dimensions are static, but for the batch, which may be a name."""
    shapes = [t.shape for t in (call.args[0].ty, call.ty)]
    if not all(isinstance(s, relax.ShapeExpr) for s in shapes):
        return False
    batch = shapes[0].values[0]
    return isinstance(batch, tirx.IntImm | tirx.Var) and all(
        isinstance(d, tirx.IntImm) for s in shapes for d in s.values[1:]
    )
