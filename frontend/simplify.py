"""The ONNX-level clean-up before import: one spelling per meaning, constants computed.

Stages, in order (each leaves a valid model):
    give ranks            to inputs that have none, as the caller asked
    check                 the graph is well formed, every operator and domain is known
    inline functions      of the model
    convert opset         up to `OPSET`, so that converters see current semantics only
    extend                by preprocessing and postprocessing, as the caller asked
    fix input shapes      as the caller asked
    name dimensions       every unnamed dynamic dimension becomes a symbol of its own
    expand bodies         of operators that ONNX defines by a function
    unroll                Scans of a known length
    fold constants        including shape arithmetic, to a fixed point with shape inference
    eliminate             Identity, dead nodes, unused initializers
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx.inliner
import onnx.shape_inference
from onnx import numpy_helper, version_converter

from relaxc.errors import ModelError, OptionError, near_matches
from relaxc.frontend.extension import NOTHING, Extension
from relaxc.frontend.fold import fold_constants
from relaxc.frontend.function_bodies import has_body, inline_bodies
from relaxc.frontend.legacy import resized, restore_resize_modes, update_slopes
from relaxc.frontend.load import OnnxModel
from relaxc.frontend.operators.base import operator_name
from relaxc.frontend.unroll import unroll_scans

Shape = Sequence["int | str"]

# Converters are written against this opset; older models are converted up to it.
OPSET = 17
DOMAINS = ("", "ai.onnx")
# Bodies hold operators with bodies of their own, to this depth at most.
_MAX_NESTING = 8


def simplify(
    model: OnnxModel,
    input_shapes: Mapping[str, Shape],
    is_supported: Callable[[str], bool],
    extension: Extension = NOTHING,
) -> None:
    """Bring `model` (changed in place) into the form that the importer expects.

    Args:
        model: what `read_model` returned.
        input_shapes: input name -> dimensions; an int fixes a dimension, a string names it.
        is_supported: whether an operator has a converter; others are expanded to the function
            body that ONNX defines them with, if there is one.
        extension: what the model does besides: preprocessing, postprocessing.

    Raises:
        ModelError: the checker, the inliner or the version converter refuses the model.
        OptionError: `input_shapes` does not fit the model's inputs.
    """
    merge_domain_spellings(model.proto)
    give_ranks(model, input_shapes)
    check(model)
    inline_functions(model)
    convert_opset(model)
    extension.add_to(model.proto, [value.name for value in real_inputs(model)])
    fix_input_shapes(model, input_shapes)
    name_dimensions(model)
    expand_bodies(model, is_supported)
    model.proto = unroll_scans(model.proto)
    fold_constants(model)
    eliminate_dead_nodes(model)


# ONNX Runtime's tools write these into the default domain, which does not have them.
_MISPLACED = frozenset({"SimplifiedLayerNormalization"})


def merge_domain_spellings(proto: onnx.ModelProto) -> None:
    """Write the default domain as the empty string everywhere, and only for what belongs to it."""
    for entry in proto.opset_import:
        if entry.domain == "ai.onnx":
            entry.domain = ""
    for node in nodes(proto.graph):
        if node.domain == "ai.onnx":
            node.domain = ""
        if not node.domain and node.op_type in _MISPLACED:
            node.domain = "com.microsoft"
    if any(node.domain == "com.microsoft" for node in nodes(proto.graph)) and not any(
        entry.domain == "com.microsoft" for entry in proto.opset_import
    ):
        proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes of a graph and of its subgraphs, in order."""
    for node in graph.node:
        yield node
        for attr in node.attribute:
            for sub in ([attr.g] if attr.HasField("g") else []) + list(attr.graphs):
                yield from nodes(sub)


def give_ranks(model: OnnxModel, shapes: Mapping[str, Shape]) -> None:
    """Give a shape to every input of unknown rank, or refuse it."""
    for value in real_inputs(model):
        tensor = value.type.tensor_type
        if not value.type.HasField("tensor_type") or tensor.HasField("shape"):
            continue
        if value.name not in shapes:
            raise ModelError(
                f"input `{value.name}` has an unknown rank; give its shape, "
                f'for example --input-shapes "{value.name}:[1,3,224,224]"'
            )
        tensor.shape.dim.extend(onnx.TensorShapeProto.Dimension() for _ in shapes[value.name])
        tensor.shape.SetInParent()


def check(model: OnnxModel) -> None:
    """Run the ONNX checker."""
    version, latest = opset(model.proto), onnx.defs.onnx_opset_version()
    if version > latest:  # which the checker lets pass
        raise ModelError(
            f"`{model.name}` uses opset {version}, the installed onnx knows them up to {latest}; "
            "update `onnx`, or export the model with an older opset"
        )
    outputs = [value.type.tensor_type for value in model.proto.graph.output]
    # The checker insists on what the format leaves open; results get their shapes by inference.
    unshaped = [tensor for tensor in outputs if tensor.elem_type and not tensor.HasField("shape")]
    for tensor in unshaped:
        tensor.shape.SetInParent()
    try:
        onnx.checker.check_model(model.proto)
        check_element_types(model)
        _check_splits(model)
    except UnicodeDecodeError as err:  # from a message of the checker's, which quotes the file
        raise ModelError(f"`{model.name}` holds names that are not UTF-8") from err
    except onnx.checker.ValidationError as err:
        raise ModelError(f"`{model.name}` is not a valid ONNX model: {first_line(err)}") from err
    for tensor in unshaped:
        tensor.ClearField("shape")


def _check_splits(model: OnnxModel) -> None:
    """Refuse outputs that a Split does not have; ONNX's shape inference ends the process there."""
    for node in nodes(model.proto.graph):
        for attr in node.attribute:
            wanted, found = attr.i, len(node.output)
            if node.op_type == "Split" and attr.name == "num_outputs" and wanted != found:
                raise ModelError(
                    f"`{model.name}` is not a valid ONNX model: a Split makes {wanted} outputs and "
                    f"has {found}, the first `{node.output[0]}`"
                )


def check_element_types(model: OnnxModel) -> None:
    """Refuse element types that ONNX does not have, which the checker lets pass."""
    known = set(onnx.TensorProto.DataType.values())
    graph = model.proto.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.tensor_type.elem_type
        if kind not in known:
            raise ModelError(
                f"`{value.name}` has the element type {kind}, which ONNX does not have"
            )


def first_line(err: BaseException) -> str:
    """The first line of an exception's text, without the final full stop.

    A line that ends in a colon is no sentence yet; what follows belongs to it.
    """
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    if not lines:
        return type(err).__name__
    return (" ".join(lines) if lines[0].endswith(":") else lines[0]).rstrip(".")


def type_complaint(model: OnnxModel) -> str:
    """What ONNX's inference finds wrong with types and shapes; empty if nothing.

    It knows fewer shapes than the importer and costs time, so that it is asked only to explain why
    something else failed.
    """
    try:
        onnx.shape_inference.infer_shapes(model.proto, check_type=True, strict_mode=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as err:
        return re.sub(r"\[\w+Error\] |Inference error\(s\): ", "", first_line(err))
    return ""


def inline_functions(model: OnnxModel) -> None:
    """Expand model-local functions."""
    if not model.proto.functions:
        return
    try:
        model.proto = onnx.inliner.inline_local_functions(model.proto)
    except (RuntimeError, ValueError) as err:
        raise ModelError(
            f"functions of `{model.name}` cannot be inlined: {first_line(err)}"
        ) from err


def expand_bodies(model: OnnxModel, is_supported: Callable[[str], bool]) -> None:
    """Expand operators without a converter that ONNX defines by a function."""
    versions = {entry.domain: int(entry.version) for entry in model.proto.opset_import}
    for _ in range(_MAX_NESTING):
        used = {operator_name(n) for n in nodes(model.proto.graph)}
        names = {name for name in used if not is_supported(name) and has_body(name, versions)}
        if not names:
            return
        try:
            model.proto = inline_bodies(model.proto, frozenset(names), versions)
        except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as err:
            raise ModelError(
                f"operators of `{model.name}` ({', '.join(sorted(names))}) cannot be expanded, "
                f"which is not supported: {first_line(err)}"
            ) from err


def convert_opset(model: OnnxModel) -> None:
    """Convert models older than `OPSET` up to it."""
    version = opset(model.proto)
    if version >= OPSET:
        return
    if version < 9 and any(n.op_type == "Scan" for n in nodes(model.proto.graph)):
        raise ModelError(
            f"`{model.name}` uses `Scan` of opset 8, which is not supported; "
            "export it again with a newer opset"
        )
    update_slopes(model.proto, version)
    grows = resized(nodes(model.proto.graph), version)
    try:
        model.proto = version_converter.convert_version(model.proto, OPSET)
    except (RuntimeError, ValueError, TypeError) as err:
        raise ModelError(
            f"`{model.name}` uses opset {version} and cannot be converted to {OPSET}: "
            f"{first_line(err)}; export it again with a newer opset"
        ) from err
    graph = model.proto.graph
    restore_resize_modes(list(nodes(graph)), graph.initializer, grows)


def opset(proto: onnx.ModelProto) -> int:
    """The version of the default operator set that the model imports."""
    return int(next((e.version for e in proto.opset_import if e.domain in DOMAINS), OPSET))


def real_inputs(model: OnnxModel) -> list[onnx.ValueInfoProto]:
    """The graph inputs that a user feeds: neither initializers nor weights taken out."""
    constants = {t.name for t in model.proto.graph.initializer} | set(model.weights)
    return [value for value in model.proto.graph.input if value.name not in constants]


def fix_input_shapes(model: OnnxModel, shapes: Mapping[str, Shape]) -> None:
    """Give inputs the shapes that the caller asked for."""
    inputs = {value.name: value for value in real_inputs(model)}
    renamed: dict[str, int | str] = {}
    for name, shape in shapes.items():
        if name not in inputs:
            known = ", ".join(f"`{n}`" for n in inputs)
            raise OptionError(
                f"input shape given for `{name}`, but the model's inputs are {known}"
                f"{near_matches(name, inputs)}"
            )
        tensor = inputs[name].type.tensor_type
        if tensor.HasField("shape") and len(tensor.shape.dim) != len(shape):
            raise OptionError(
                f"input `{name}` has {len(tensor.shape.dim)} dimensions, "
                f"but the shape given has {len(shape)}: {list(shape)}"
            )
        for axis, (dim, new) in enumerate(zip(tensor.shape.dim, shape)):
            if dim.dim_value and isinstance(new, int) and dim.dim_value != new:
                raise OptionError(
                    f"dimension {axis} of input `{name}` is fixed to {dim.dim_value} in the model; "
                    f"it cannot become {new}"
                )
            if dim.dim_param and renamed.setdefault(dim.dim_param, new) != new:
                raise OptionError(
                    f"dimension {axis} of input `{name}` is `{dim.dim_param}`, which is "
                    f"{renamed[dim.dim_param]} in another input; it cannot be {new}"
                )
            _set_dimension(dim, new)
    # Equal names are equal sizes: other inputs follow.
    for name, value in inputs.items():
        if name not in shapes:
            for dim in value.type.tensor_type.shape.dim:
                _set_dimension(dim, renamed.get(dim.dim_param, dim.dim_param or dim.dim_value))
    # Shapes recorded for the old dimensions would contradict the new ones.
    if shapes:
        del model.proto.graph.value_info[:]
        for value in model.proto.graph.output:
            value.type.tensor_type.ClearField("shape")


def _set_dimension(dim: onnx.TensorShapeProto.Dimension, new: int | str) -> None:
    if isinstance(new, str):
        dim.dim_param = new
    elif new:
        dim.dim_value = new


def name_dimensions(model: OnnxModel) -> None:
    """Make every unnamed dynamic dimension of an input a symbol of its own."""
    for value in real_inputs(model):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_value < 0:  # some exporters write -1 for "any"
                dim.ClearField("dim_value")
            if not dim.HasField("dim_value") and not dim.dim_param:
                dim.dim_param = f"{value.name}_dim{axis}"


def eliminate_dead_nodes(model: OnnxModel) -> None:
    """Drop nodes whose results nobody reads, and initializers and weights nobody uses."""
    graph = model.proto.graph
    live = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if live.intersection(node.output):
            kept.append(node)
            live.update(used_names(node))
    kept.reverse()
    replace_nodes(graph, kept)
    for tensor in [t for t in graph.initializer if t.name not in live]:
        graph.initializer.remove(tensor)
    for name in set(model.weights) - live:
        del model.weights[name]
        for value in [v for v in graph.input if v.name == name]:
            graph.input.remove(value)


def used_names(node: onnx.NodeProto) -> set[str]:
    """Names that a node reads, those captured by its subgraphs included."""
    names = {name for name in node.input if name}
    for attr in node.attribute:
        for sub in ([attr.g] if attr.HasField("g") else []) + list(attr.graphs):
            names.update(value.name for value in sub.output)
            for inner in sub.node:
                names |= used_names(inner)
    return names


def replace_nodes(graph: onnx.GraphProto, kept: Sequence[onnx.NodeProto]) -> None:
    """Make `kept` the nodes of the graph."""
    copies = [onnx.NodeProto() for _ in kept]
    for copy, node in zip(copies, kept):
        copy.CopyFrom(node)
    del graph.node[:]
    graph.node.extend(copies)


def constants(model: OnnxModel) -> dict[str, np.ndarray]:
    """Every constant of the main graph by name."""
    small = {t.name: numpy_helper.to_array(t) for t in model.proto.graph.initializer}
    return small | model.weights
