"""Models of one node, compared with ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

import relaxc

Arrays = Mapping[str, "np.ndarray | None"]


def node_model(
    op_type: str,
    inputs: Arrays,
    outputs: Mapping[str, type | None],
    *,
    constants: Sequence[str] = (),
    symbols: Mapping[str, Mapping[int, str]] | None = None,
    domain: str = "com.microsoft",
    **attrs: Any,
) -> onnx.ModelProto:
    """A model of one node.

    Args:
        op_type: the operator.
        inputs: name -> value, in order; None where an optional input is absent.
        outputs: name -> element type, in order; None where an optional output is absent.
        constants: inputs that become initializers.
        symbols: input -> axis -> the name of its symbolic dimension.
        domain: of the operator.
        attrs: its attributes.
    """
    given = {n: a for n, a in inputs.items() if a is not None}
    values = []
    for name, array in given.items():
        if name in constants:
            continue
        named = (symbols or {}).get(name, {})
        shape = [named.get(axis, size) for axis, size in enumerate(array.shape)]
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        values.append(helper.make_tensor_value_info(name, kind, shape))
    results = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(np.dtype(t)), None)
        for n, t in outputs.items()
        if t is not None
    ]
    node = helper.make_node(
        op_type,
        [n if a is not None else "" for n, a in inputs.items()],
        [n if t is not None else "" for n, t in outputs.items()],
        "the_node",
        domain=domain,
        **attrs,
    )
    stored = [numpy_helper.from_array(given[n], n) for n in constants if n in given]
    graph = helper.make_graph([node], "one", values, results, stored)
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=10)


def check_node(
    op_type: str,
    inputs: Arrays,
    outputs: Mapping[str, type | None],
    *,
    rtol: float = 2e-5,
    steps: int = 0,
    **how: Any,
) -> None:
    """Compare a node's results with ONNX Runtime's.

    Args:
        op_type: the operator.
        inputs: see `node_model`.
        outputs: see `node_model`.
        rtol: the largest difference of floats, relative to the largest element.
        steps: the largest difference of integers.
        how: see `node_model`.
    """
    model = node_model(op_type, inputs, outputs, **how)
    constants = how.get("constants", ())
    feeds = {n: a for n, a in inputs.items() if a is not None and n not in constants}
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [value.name for value in session.get_outputs()]
    expected = dict(zip(names, session.run(None, feeds)))
    with tempfile.TemporaryDirectory(prefix="relaxc-") as folder:
        path = Path(folder, "one.rxc")
        relaxc.compile(model, path)
        actual = relaxc.load(path, threads=1, cache_dir=folder).run(feeds)
    for name, want in expected.items():
        got = np.asarray(actual[name])
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        if want.dtype.kind == "f":
            limit = rtol * max(float(np.abs(want.astype(np.float64)).max(initial=0)), 1e-6)
        else:
            limit = steps
        np.testing.assert_allclose(
            got.astype(np.float64), want.astype(np.float64), rtol=0, atol=limit, err_msg=name
        )
