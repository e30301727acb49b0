"""The ONNX-level clean-up before import."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import dense_model, onnx_model, relu_model
from onnx import helper, parser

from relaxc.errors import ModelError, OptionError
from relaxc.frontend.importer import from_onnx
from relaxc.frontend.load import OnnxModel, read_model
from relaxc.frontend.simplify import OPSET, Shape, nodes, opset, simplify


def simplified(
    proto: onnx.ModelProto,
    shapes: Mapping[str, Shape] | None = None,
    inline: frozenset[str] = frozenset(),
) -> OnnxModel:
    model = read_model(proto)
    simplify(model, shapes or {}, lambda op_type: op_type not in inline)
    return model


def operators(model: OnnxModel) -> list[str]:
    return [node.op_type for node in nodes(model.proto.graph)]


def input_dims(model: OnnxModel, index: int = 0) -> list[int | str]:
    dims = model.proto.graph.input[index].type.tensor_type.shape.dim
    return [dim.dim_value or dim.dim_param for dim in dims]


def test_an_invalid_model_is_refused() -> None:
    model = relu_model()
    model.graph.node[0].input.append("nosuch")
    with pytest.raises(ModelError, match="`g` is not a valid ONNX model"):
        simplified(model)


def test_a_reason_over_several_lines_is_whole() -> None:
    model = relu_model()
    model.graph.node[0].input[0] = "nosuch"
    with pytest.raises(ModelError, match=r"input 'nosuch' of node: .* not output of any previous"):
        simplified(model)


def test_an_opset_of_the_future() -> None:
    model = relu_model()
    model.opset_import[0].version = 99
    with pytest.raises(ModelError, match=r"`g` uses opset 99, the installed onnx .* up to \d+; u"):
        simplified(model)


def test_old_models_are_converted() -> None:
    model = simplified(onnx_model("g (float[2] x) => (float[2] y) { y = Relu(x) }", opset=8))
    assert opset(model.proto) == OPSET


def test_newer_models_are_left_alone() -> None:
    assert opset(simplified(relu_model()).proto) == 18


def test_the_default_domain_has_two_spellings() -> None:
    model = relu_model()
    model.opset_import[0].domain = "ai.onnx"
    model.graph.node[0].domain = "ai.onnx"
    assert simplified(model).proto.graph.node[0].domain == ""


def test_local_functions_are_inlined() -> None:
    model = parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 18, "mine" : 1]>
        g (float[2] x) => (float[2] y) { y = mine.twice(x) }
        <domain: "mine", opset_import: ["" : 18]> twice (a) => (b) { b = Add(a, a) }"""
    )
    assert operators(simplified(model)) == ["Add"]


def test_operators_without_a_converter_become_their_function_body() -> None:
    model = onnx_model("g (float[2] x) => (float[2] y) { y = Celu(x) }")
    assert "Celu" not in operators(simplified(model, inline=frozenset({"Celu"})))


def test_unnamed_dimensions_get_names_of_their_own() -> None:
    model = onnx_model(
        "g (float[?,3] x, float[?,3] z) => (float[?,3] y, float[?,3] u) { y = Relu(x) u = Relu(z) }"
    )
    result = simplified(model)
    assert input_dims(result, 0) == ["x_dim0", 3]
    assert input_dims(result, 1) == ["z_dim0", 3]


def test_dead_nodes_and_weights_go() -> None:
    proto = dense_model()
    proto.graph.node.append(helper.make_node("MatMul", ["x", "v"], ["unused"]))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 300)), "v"))
    model = simplified(proto)
    assert operators(model) == ["MatMul"]
    assert list(model.weights) == ["w"]


# Input shapes.


def test_a_symbolic_dimension_can_be_fixed() -> None:
    model = simplified(relu_model(), {"x": (2, 3)})
    assert input_dims(model) == [2, 3]


def test_a_dimension_can_be_renamed() -> None:
    model = simplified(relu_model(), {"x": ("batch", 3)})
    assert input_dims(model) == ["batch", 3]


def test_shapes_behind_a_fixed_dimension_are_known() -> None:
    model = simplified(
        onnx_model("g (float[n,3] x) => (int64[2] y) { y = Shape(x) }"), {"x": (2, 3)}
    )
    assert operators(model) == []


def test_a_shape_for_an_unknown_input() -> None:
    with pytest.raises(OptionError, match=r"`z`, but the model's inputs are `x`"):
        simplified(relu_model(), {"z": (2, 3)})


def test_a_shape_of_another_rank() -> None:
    with pytest.raises(OptionError, match="input `x` has 2 dimensions, but the shape given has 3"):
        simplified(relu_model(), {"x": (1, 2, 3)})


def test_a_fixed_dimension_stays() -> None:
    with pytest.raises(OptionError, match="dimension 1 of input `x` is fixed to 3 in the model"):
        simplified(relu_model(), {"x": (1, 4)})


def shared_symbol_model() -> onnx.ModelProto:
    return onnx_model("g (float[n,3] x, float[n,3] z) => (float[n,3] y) { y = Add(x, z) }")


@pytest.mark.parametrize("size", [2, "batch"])
def test_other_inputs_with_the_symbol_follow(size: int | str) -> None:
    model = simplified(shared_symbol_model(), {"x": (size, 3)})
    assert input_dims(model, 0) == input_dims(model, 1) == [size, 3]


def test_one_symbol_cannot_become_two_sizes() -> None:
    message = "dimension 0 of input `z` is `n`, which is 2 in another input; it cannot be 4"
    with pytest.raises(OptionError, match=message):
        simplified(shared_symbol_model(), {"x": (2, 3), "z": (4, 3)})


def test_an_unknown_element_type_is_refused() -> None:
    model = relu_model()
    model.graph.input[0].type.tensor_type.elem_type = 1 << 30
    with pytest.raises(ModelError, match="element type 1073741824, which ONNX does not have"):
        from_onnx(model)


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    data = relu_model().SerializeToString().replace(b"Relu", b"Re\xb1u")
    (tmp_path / "bad.onnx").write_bytes(data)
    with pytest.raises(ModelError, match="bad"):
        from_onnx(tmp_path / "bad.onnx")


def test_more_outputs_than_a_split_makes_are_refused() -> None:
    """ONNX's shape inference would end the process."""
    graph = "g (float[4] x) => (float[a] y, float[b] z) { y, z = Split<axis=0, num_outputs=1>(x) }"
    with pytest.raises(ModelError, match="a Split makes 1 outputs and has 2, the first `y`"):
        from_onnx(onnx_model(graph, 18))
