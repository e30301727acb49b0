"""Recurrent layers with other weights, and fewer units, as ONNX."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import onnx_model
from prune_reference import run

from relaxc.frontend.export.exporter import to_onnx
from relaxc.frontend.importer import from_onnx
from relaxc.options import Diagnostics
from relaxc.pass_runner import PassRunner
from relaxc.passes.pipeline import graph_passes
from relaxc.passes.prune.dependency import dependencies
from relaxc.passes.prune.remove import remove_channels

RNG = np.random.default_rng(0)
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
HIDDEN = 6
CASES = [
    ("RNN", "", "b"),
    ("GRU", ", direction='bidirectional', linear_before_reset=1", "b,,h0"),
    ("LSTM", "", ""),
    ("LSTM", ", direction='bidirectional'", "b,,h0,c0"),
    ("LSTM", ", clip=0.8", "b,l,h0,c0,p"),
]


def weight(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.7).astype(np.float32)


@pytest.mark.parametrize(("op", "attrs", "more"), CASES)
def test_fewer_units(op: str, attrs: str, more: str) -> None:
    directions, gates = 2 if "bidirectional" in attrs else 1, GATES[op]
    both = directions * HIDDEN
    weights = {
        "w": weight(directions, gates * HIDDEN, 4),
        "r": weight(directions, gates * HIDDEN, HIDDEN),
        "b": weight(directions, 2 * gates * HIDDEN),
        "l": np.array([3, 5], np.int32),
        "h0": weight(directions, 2, HIDDEN),
        "c0": weight(directions, 2, HIDDEN),
        "p": weight(directions, 3 * HIDDEN),
    }
    attrs, inputs = attrs.replace("'", '"'), f"x, w, r, {more}".rstrip(", ")
    graph = f"""g (float[5,2,4] x) => (float[5,2,3] z) {{
        y = {op}<hidden_size={HIDDEN}{attrs}>({inputs})
        t = Transpose<perm=[0,2,1,3]>(y)  m = Reshape(t, shape)  z = MatMul(m, v)
    }}"""
    used = {name: weights[name] for name in ("w", "r", *more.split(",")) if name}
    shape = np.array([0, 0, both])
    model = onnx_model(graph, 17, **used, v=weight(both, 3), shape=shape)
    imported = from_onnx(model, keeps_source=True)
    mod = PassRunner(Diagnostics()).run(graph_passes(), imported.mod)
    found = dependencies(mod)
    small = remove_channels(mod, found, found.groups[0].channels[::3])
    result = to_onnx(imported, mod, small)
    onnx.checker.check_model(result, full_check=True)
    (layer,) = [node for node in result.graph.node if node.op_type == op]
    assert {a.name: a.i for a in layer.attribute}["hidden_size"] == 4
    x = weight(5, 2, 4)
    session = onnxruntime.InferenceSession(result.SerializeToString())
    np.testing.assert_allclose(session.run(None, {"x": x})[0], run(small, x), atol=1e-5)
    assert np.abs(run(mod, x) - run(small, x)).max() > 1e-3
