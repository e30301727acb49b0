"""The weights of a recurrent node as they are now, where pruning or recovery has changed them.

The importer writes a recurrent layer as a product with a bias, and a loop on its result; ONNX has
one node of both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from tvm import relax
from tvm.ir import GenericConst

from relaxc.frontend.export.site import CannotExport

_GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}


def recurrent_inputs(
    node: onnx.NodeProto, bindings: Sequence[relax.Binding]
) -> dict[int, np.ndarray]:
    """Constant inputs of a node, by position, as the bindings that it has become have them.

    Raises:
        CannotExport: the node is no recurrent one, or the bindings are no longer those of one.
    """
    values = {b.var: b.value for b in bindings}
    loops = [v for v in values.values() if _is(v, "call_tir") and _gives_several(v)]
    if node.op_type not in _GATES or len(loops) != 1:
        raise _changed()
    gates = _GATES[node.op_type]
    projected, recurrent, *rest = loops[0].args[1].fields
    r = _array(recurrent)
    directions, _, hidden = r.shape
    weight, bias = _projection(values, projected)
    w = np.ascontiguousarray(weight.T).reshape(directions, gates * hidden, -1)
    whole = np.zeros((2, directions, gates * hidden), r.dtype)
    whole[0] = bias.reshape(-1, gates * hidden)
    if gates == 3:  # behind the reset gate, so that it is not among the other biases
        whole[1, :, 2 * hidden :] = _array(rest[0])
    found = {1: w, 2: r, 3: np.concatenate(list(whole), axis=1)}
    batch_first = any(a.name == "layout" and a.i for a in node.attribute)
    states = rest[-2:] if gates == 4 else rest[-1:]
    for position, state in enumerate(states, 5):
        if _has(node, position) and isinstance(state, GenericConst):
            array = _array(state)
            found[position] = array.transpose(1, 0, 2) if batch_first else array
    if _has(node, 7):
        found[7] = _array(rest[0])
    return found


def _projection(
    values: dict[relax.Var, relax.Expr], projected: relax.Expr
) -> tuple[np.ndarray, np.ndarray]:
    """The matrix that inputs are multiplied by, and all that is added to the product."""
    bias = np.zeros(1, np.float32)
    value = values.get(projected)
    while value is not None and _is(value, "add"):
        data, vector = value.args
        added = _array(vector)
        if added.size != added.shape[-1]:
            raise _changed()
        bias, value = bias.astype(added.dtype) + added.reshape(-1), values.get(data)
    if value is None or not _is(value, "matmul"):
        raise _changed()
    weight = _array(value.args[1])
    return weight, np.broadcast_to(bias, weight.shape[1:])


def _is(value: relax.Expr, op: str) -> bool:
    return isinstance(value, relax.Call) and getattr(value.op, "name", "") == f"relax.{op}"


def _gives_several(value: relax.Expr) -> bool:
    return isinstance(value.ty, relax.TupleType)


def _has(node: onnx.NodeProto, position: int) -> bool:
    return position < len(node.input) and bool(node.input[position])


def _array(expr: relax.Expr) -> np.ndarray:
    if not isinstance(expr, GenericConst):
        raise _changed()
    return np.asarray(expr.value.numpy())


def _changed() -> CannotExport:
    return CannotExport("its weights were changed")
