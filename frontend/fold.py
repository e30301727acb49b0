"""Compute at compile time what does not depend on the inputs, shape arithmetic included.

Shapes become constants through ONNX's own shape inference (with data propagation); the nodes
that follow are evaluated by the ONNX reference implementation. Both repeat until nothing changes,
because a folded Reshape reveals the shapes behind it.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from relaxc.frontend.branches import with_branches_chosen
from relaxc.frontend.load import OnnxModel
from relaxc.frontend.slopes import refuse_wide_slopes

# A fold may not blow the model up: a result above this size must not exceed its inputs.
_MAX_GROWN_BYTES = 1 << 20
_MAX_ROUNDS = 16
_RECURRENT = ("GRU", "LSTM", "RNN")
# What exporters put between stored weights and recurrent layers.
_MOVES = ("Concat", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
_RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli")
) | {"Multinomial", "Dropout"}


def fold_constants(model: OnnxModel) -> None:
    """Replace nodes with known results by initializers, in place.

    Values with non-finite results or failing evaluation are left to the runtime.

    Raises:
        ModelError: the slope of a PRelu does not fit its data, so that inferred shapes are wrong.
    """
    for _ in range(_MAX_ROUNDS):
        infer_shapes(model)
        refuse_wide_slopes(model.proto)
        if not _fold_once(model):
            return


def infer_shapes(model: OnnxModel) -> None:
    """Annotate intermediate shapes; a model that contradicts itself keeps what it had."""
    model.proto = annotated(model.proto)


def annotated(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with intermediate shapes; as it is where it contradicts itself."""
    try:
        return onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return proto


def _fold_once(model: OnnxModel) -> bool:
    graph = model.proto.graph
    known = {t.name: numpy_helper.to_array(t) for t in graph.initializer} | model.weights
    shapes = static_shapes(graph)
    sizes = _known_sizes(graph)
    floats = _recurrent_weights(graph)
    opsets = list(model.proto.opset_import)
    renamed: dict[str, str] = {}
    outputs = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    folded = False
    for node in with_branches_chosen(graph, known):
        _rename_inputs(node, renamed)
        if node.op_type == "Identity" and not node.domain and node.output[0] not in outputs:
            renamed[node.output[0]] = node.input[0]
            if node.input[0] in known:
                known[node.output[0]] = known[node.input[0]]
            folded = True
            continue
        values = _evaluate(node, known, shapes, opsets, floats) or _chosen_sizes(node, known, sizes)
        if values is None:
            kept.append(node)
            continue
        folded = True
        for name, value in values.items():
            known[name] = value
            _add_constant(model, name, value)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(copies)
    return folded


def _rename_inputs(node: onnx.NodeProto, renamed: dict[str, str]) -> None:
    if not renamed:
        return
    for i, name in enumerate(node.input):
        while name in renamed:
            name = renamed[name]
        node.input[i] = name
    for attr in node.attribute:
        for sub in ([attr.g] if attr.HasField("g") else []) + list(attr.graphs):
            for inner in sub.node:
                _rename_inputs(inner, renamed)


def static_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Names of tensors whose every dimension is known, with their shapes."""
    shapes: dict[str, tuple[int, ...]] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in tensor.shape.dim)
    for init in graph.initializer:
        shapes[init.name] = tuple(init.dims)
    return shapes


def _known_sizes(graph: onnx.GraphProto) -> dict[str, list[int | None]]:
    """The dimensions that each Shape in the graph returns, as far as they are known."""
    dims: dict[str, list[int | None]] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape"):
            dims[value.name] = [
                d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim
            ]
    return {
        node.output[0]: dims[node.input[0]]
        for node in graph.node
        if node.op_type == "Shape" and not node.attribute and node.input[0] in dims
    }


def _chosen_sizes(
    node: onnx.NodeProto, known: dict[str, np.ndarray], sizes: dict[str, list[int | None]]
) -> dict[str, np.ndarray] | None:
    """The output of a Gather from a shape whose other dimensions may be open."""
    if node.op_type != "Gather" or node.domain or node.input[0] not in sizes:
        return None
    listed, index = sizes[node.input[0]], known.get(node.input[1])
    if index is None or ((index < -len(listed)) | (index >= len(listed))).any():
        return None
    chosen = [listed[int(i)] for i in index.flat]
    if any(size is None for size in chosen):
        return None
    return {node.output[0]: np.array(chosen, np.int64).reshape(index.shape)}


def _evaluate(
    node: onnx.NodeProto,
    known: dict[str, np.ndarray],
    shapes: dict[str, tuple[int, ...]],
    opsets: list[onnx.OperatorSetIdProto],
    floats: set[str],
) -> dict[str, np.ndarray] | None:
    """Return the outputs of `node` by name, or None when they are not known yet."""
    if node.domain or node.op_type in _RANDOM:
        return None
    if node.op_type == "Shape" and node.input[0] in shapes:
        attrs = {a.name: a.i for a in node.attribute}
        dims = shapes[node.input[0]][attrs.get("start", 0) : attrs.get("end")]
        return {node.output[0]: np.array(dims, np.int64)}
    if node.op_type == "Size" and node.input[0] in shapes:
        return {node.output[0]: np.array(np.prod(shapes[node.input[0]], dtype=np.int64))}
    if any(a.HasField("g") or a.graphs for a in node.attribute):
        return None
    if any(name and name not in known for name in node.input):
        return None
    feeds = {name: known[name] for name in node.input if name}
    limit = max(_MAX_GROWN_BYTES, sum(value.nbytes for value in feeds.values()))
    if node.op_type == "DequantizeLinear" and _is_weight(known[node.input[0]]):
        if node.output[0] not in floats:
            return None
        limit = max(limit, 4 * known[node.input[0]].nbytes)
        # The reference implementation has it in this version and later ones, which read older
        # nodes alike.
        opsets = [helper.make_opsetid("", max(19, *(o.version for o in opsets if not o.domain)))]
    if any(np.prod(shapes.get(out, ()), dtype=np.float64) * 4 > limit for out in node.output):
        return None
    try:
        results = _reference(node, feeds, opsets)
    except Exception:
        # The reference implementation lacks a case: the runtime will compute the node instead.
        return None
    if not all(isinstance(value, np.ndarray | np.generic) for value in results.values()):
        return None
    arrays = {name: np.asarray(value) for name, value in results.items()}
    if any(a.nbytes > limit or a.dtype.kind in "OUS" for a in arrays.values()):
        return None
    return arrays


def _recurrent_weights(graph: onnx.GraphProto) -> set[str]:
    """Names of what recurrent layers alone read, which have kernels for floats only."""
    found: set[str] = set()
    taken = {value.name for value in graph.output}
    for node in reversed(graph.node):
        is_recurrent = node.op_type in _RECURRENT or (
            node.op_type in _MOVES and set(node.output) <= found - taken
        )
        (found if is_recurrent and not node.domain else taken).update(node.input)
        for attr in node.attribute:
            for sub in ([attr.g] if attr.HasField("g") else []) + list(attr.graphs):
                taken.update(name for inner in sub.node for name in inner.input)
    return found - taken


def _is_weight(integers: np.ndarray) -> bool:
    """Whether passes want these as they are, to multiply integers."""
    return integers.ndim > 1 and integers.dtype.itemsize == 1


def _reference(
    node: onnx.NodeProto,
    feeds: dict[str, np.ndarray],
    opsets: list[onnx.OperatorSetIdProto],
) -> dict[str, np.ndarray]:
    outputs = [name for name in node.output if name]
    graph = helper.make_graph(
        [node],
        "fold",
        [onnx.ValueInfoProto(name=name) for name in feeds],
        [onnx.ValueInfoProto(name=name) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=opsets)
    with np.errstate(all="ignore"):
        return dict(zip(outputs, ReferenceEvaluator(model).run(outputs, feeds)))


def _add_constant(model: OnnxModel, name: str, value: np.ndarray) -> None:
    graph = model.proto.graph
    if value.nbytes <= 1024:
        graph.initializer.append(numpy_helper.from_array(value, name))
        return
    model.weights[name] = value
    dtype = helper.np_dtype_to_tensor_dtype(value.dtype)
    graph.input.append(helper.make_tensor_value_info(name, dtype, list(value.shape)))
