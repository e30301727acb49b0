"""From ONNX to Relax: signatures, names and refusals."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import dense_model, onnx_model, relu_model
from onnx import helper
from tvm import IRModule, relax, tirx

from relaxc.errors import ModelError, UnsupportedOpError
from relaxc.frontend.convert import identifier
from relaxc.frontend.importer import from_onnx


def shapes(mod: IRModule) -> list[list[str]]:
    dims = [list(p.ty.shape.values) for p in mod["main"].params]
    return [[d.name if isinstance(d, tirx.Var) else str(int(d)) for d in row] for row in dims]


def test_the_signature_is_that_of_the_model() -> None:
    imported = from_onnx(dense_model())
    assert imported.inputs == ("x",)
    assert imported.outputs == ("y",)
    assert shapes(imported.mod) == [["n", "4"]]
    assert imported.opset == 18


def test_equal_names_are_one_symbol_and_unnamed_ones_are_not() -> None:
    model = onnx_model(
        """g (float[n] a, float[n] b, float[?] c, float[?] d) => (float[n] y) { y = Add(a, b) }"""
    )
    dims = [p.ty.shape.values[0] for p in from_onnx(model).mod["main"].params]
    assert dims[0].same_as(dims[1])
    assert not dims[2].same_as(dims[3])


def test_weights_are_constants() -> None:
    params = from_onnx(dense_model()).mod["main"].params
    assert [p.name for p in params] == ["x"]


def test_names_that_are_no_identifiers() -> None:
    assert identifier("input:0") == "input_0"
    assert identifier("0") == "n_0"
    assert identifier("größe/x") == "gr_e_x"


def test_a_model_of_constants_has_no_inputs() -> None:
    model = onnx_model("g () => (float[2] y) { y = Add(c, c) }", c=np.ones(2, np.float32))
    assert from_onnx(model).inputs == ()


def test_control_flow_becomes_relax_if() -> None:
    model = onnx_model(
        """g (bool c, float[2] x) => (float[2] y) {
            y = If (c) <then_branch = t () => (float[2] u) { u = Relu(x) },
                        else_branch = e () => (float[2] v) { v = Neg(x) }>
        }"""
    )
    values = [b.value for block in from_onnx(model).mod["main"].body.blocks for b in block.bindings]
    assert any(isinstance(value, relax.If) for value in values)


def test_a_reshape_to_a_computed_shape_is_symbolic() -> None:
    model = onnx_model(
        """g (float[n,3,4] x) => (float[m,12] y) {
            s = Shape(x)  k = Gather(s, zero)  kk = Unsqueeze(k, axis)
            t = Concat<axis=0>(kk, rest)  y = Reshape(x, t) }""",
        zero=np.array(0),
        axis=np.array([0]),
        rest=np.array([-1]),
    )
    result = from_onnx(model).mod["main"].ret_ty.shape.values
    assert isinstance(result[0], tirx.Var)
    assert int(result[1]) == 12


# Refusals.


def test_all_unsupported_operators_are_listed_at_once() -> None:
    model = onnx_model(
        """g (float[2,2] x) => (float[2,2] y, float[2,2] e) {
            a = Relu(x)  d = Relu(a)  e = Neg(x)  y = Add(a, d) }"""
    )
    model.opset_import.append(helper.make_opsetid("com.acme", 1))
    for node in model.graph.node[:3]:
        node.domain = "com.acme"
    model.graph.node[0].name = "first/noise"
    with pytest.raises(UnsupportedOpError) as caught:
        from_onnx(model)
    assert "`com.acme::Relu` (node `first/noise`, `d`)" in str(caught.value)
    assert "`com.acme::Neg` (node `e`)" in str(caught.value)


def test_an_operator_of_a_foreign_domain_is_not_mistaken_for_onnx() -> None:
    model = relu_model()
    model.opset_import.append(helper.make_opsetid("com.acme", 1))
    model.graph.node[0].domain = "com.acme"
    with pytest.raises(UnsupportedOpError, match=r"`com.acme::Relu` \(node `y`\)"):
        from_onnx(model)


def test_a_foreign_operator_inside_of_a_branch() -> None:
    model = onnx_model(
        """g (bool c, float[2] x) => (float[2] y) {
            y = If (c) <then_branch = t () => (float[2] u) { u = Relu(x) },
                        else_branch = e () => (float[2] v) { v = Neg(x) }>
        }"""
    )
    model.opset_import.append(helper.make_opsetid("com.acme", 1))
    model.graph.node[0].attribute[0].g.node[0].domain = "com.acme"
    with pytest.raises(UnsupportedOpError, match="com.acme::"):
        from_onnx(model)


def unranked_model() -> onnx.ModelProto:
    model = relu_model()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def test_an_input_of_unknown_rank() -> None:
    with pytest.raises(ModelError, match='unknown rank; give its shape, .* --input-shapes "x:'):
        from_onnx(unranked_model())


def test_an_input_of_unknown_rank_takes_the_shape_given() -> None:
    imported = from_onnx(unranked_model(), {"x": ("n", 5)})
    assert shapes(imported.mod) == [["n", "5"]]
    assert len(imported.mod["main"].ret_ty.shape.values) == 2


def test_a_model_that_needs_the_host_is_no_single_module() -> None:
    model = onnx_model("g (string[2] s, float[2] x) => (float[2] y) { y = Relu(x) }")
    with pytest.raises(ModelError, match=r"strings .* run on the host; this is not supported here"):
        from_onnx(model)


def test_a_shape_that_depends_on_data() -> None:
    model = onnx_model("g (float[6] x, int64[k] s) => (float[a,b] y) { y = Reshape(x, s) }")
    with pytest.raises(
        UnsupportedOpError, match=r"`Reshape` \(node `y`, opset 18\) .*known length"
    ):
        from_onnx(model)


def test_an_output_that_no_node_computes() -> None:
    model = relu_model()
    model.graph.output[0].name = "nosuch"
    with pytest.raises(ModelError):
        from_onnx(model)


def test_converters_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx_model("g (float[6] x, int64[k] s) => (float[a,b] y) { y = Reshape(x, s) }")
    with pytest.raises(UnsupportedOpError):
        from_onnx(model)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("graph", "weight", "reason"),
    [
        ("y = MatMul(x, w)", np.ones((4, 4)), r"B has inconsistent type tensor\(double\)"),
        ("y = Add(x, w)", np.ones(3, np.float32), "Incompatible dimensions"),
    ],
)
def test_a_model_that_contradicts_itself(graph: str, weight: np.ndarray, reason: str) -> None:
    """ONNX's own words, which name what is in the file, not TVM's."""
    model = onnx_model(f"g (float[4] x) => (float[4] y) {{ {graph} }}", w=weight)
    with pytest.raises(UnsupportedOpError, match=rf"\(node `y`, opset 18\) cannot .*: {reason}$"):
        from_onnx(model)


def test_a_contradiction_beside_an_operator_without_a_converter() -> None:
    model = onnx_model(
        "g (float[1] x) => (float[a] y, float[b,c] w) { y = Mish (x) }", w=np.array(1, np.float32)
    )
    with pytest.raises(ModelError, match="Mish. cannot be expanded.*differ in rank"):
        from_onnx(model)


def test_impossible_sizes() -> None:
    model = relu_model()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1 << 62
    model.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match="impossible dimensions"):
        from_onnx(model)


def test_an_impossible_multiple_of_a_symbol() -> None:
    model = onnx_model(
        "g (float[n,2] x) => (float[a,b] y) { y = Tile(x, r) }", r=np.array([1 << 40, 1])
    )
    with pytest.raises(UnsupportedOpError, match="`y`.*impossible dimensions"):
        from_onnx(model)


def test_an_impossible_result() -> None:
    model = onnx_model(
        "g (int64[2] x) => (float[a,b] y) { y = OneHot(x, d, v) }",
        d=np.array(1 << 58),
        v=np.array([0, 1], np.float32),
    )
    with pytest.raises(UnsupportedOpError, match="`y`.*impossible dimensions"):
        from_onnx(model)


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        ("y = ReduceMax<keepdims=7>(x)", "`keepdims` is 0 or 1, not 7"),
        ("y = Or(x, x)", "takes booleans only"),
        ("y = MaxPool<kernel_shape=[5]>(x)", r"impossible dimensions: \[1, 2, -2\]"),
    ],
)
def test_what_makes_no_sense(graph: str, reason: str) -> None:
    model = onnx_model(f"g (float[1,2,2] x) => (float[a,b,c] y) {{ {graph} }}")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(UnsupportedOpError, match=reason):
        from_onnx(model)


def test_a_result_of_unknown_shape() -> None:
    model = onnx_model("g (float[n,2] x, float[m,2] s) => (float[a,b] y) { y = PRelu(x, s) }")
    with pytest.raises(UnsupportedOpError, match="`y`.*shape of its result does not follow"):
        from_onnx(model)


def test_an_input_of_no_type() -> None:
    model = onnx_model("g (float[2] x, float[2] unused) => (float[2] y) { y = Relu(x) }")
    model.graph.input[1].type.tensor_type.elem_type = 0
    with pytest.raises(ModelError, match="`unused` has element type 0"):
        from_onnx(model)


def test_a_slope_that_makes_its_data_grow() -> None:
    """ONNX Runtime lets it; inferred shapes, which follow the standard, would be wrong."""
    model = onnx_model(
        "g (float[2,1,1] x, float[m,k] s) => (int64[3] y) { t = PRelu(x, s) y = Shape(t) }"
    )
    with pytest.raises(ModelError, match="slope of shape .* does not broadcast"):
        from_onnx(model)
