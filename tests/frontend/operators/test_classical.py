"""ai.onnx.ml against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from kernels import check_model
from onnx import TensorProto, helper


def one_node(op: str, out: int, kind: int = TensorProto.FLOAT, **attrs: object) -> onnx.ModelProto:
    node = helper.make_node(op, ["x"], ["y"], domain="ai.onnx.ml", **attrs)
    dims = ["n", 3]
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", kind, dims)],
        [helper.make_tensor_value_info("y", out, None)],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def floats() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_normalizer(norm: str) -> None:
    # ONNX Runtime's MAX is of the elements, ONNX's of their magnitudes.
    x = np.abs(floats())
    check_model(one_node("Normalizer", TensorProto.FLOAT, norm=norm), {"x": x})


def test_scaler() -> None:
    model = one_node("Scaler", TensorProto.FLOAT, offset=[1.0, 2.0, 3.0], scale=[0.5, 2.0, 1.0])
    check_model(model, {"x": floats()})


def test_binarizer() -> None:
    check_model(one_node("Binarizer", TensorProto.FLOAT, threshold=0.1), {"x": floats()})


def test_linear_regressor() -> None:
    model = one_node(
        "LinearRegressor",
        TensorProto.FLOAT,
        coefficients=[1.0, 2.0, 3.0, -1.0, 0.5, 0.0],
        intercepts=[0.25, 1.0],
        targets=2,
    )
    check_model(model, {"x": floats()})


def test_one_hot_encoder() -> None:
    model = one_node(
        "OneHotEncoder", TensorProto.FLOAT, kind=TensorProto.INT64, cats_int64s=[0, 2, 5]
    )
    check_model(model, {"x": np.array([[0, 5, 1], [2, 2, 7]])})


def test_label_encoder() -> None:
    model = one_node(
        "LabelEncoder",
        TensorProto.FLOAT,
        kind=TensorProto.INT64,
        keys_int64s=[1, 4],
        values_floats=[0.5, -1.0],
        default_float=9.0,
    )
    check_model(model, {"x": np.array([[1, 4, 5], [4, 4, 0]])})


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
def test_tree_ensemble_regressor(aggregate: str) -> None:
    model = one_node(
        "TreeEnsembleRegressor",
        TensorProto.FLOAT,
        n_targets=1,
        aggregate_function=aggregate,
        nodes_treeids=[0, 0, 0, 1, 1, 1],
        nodes_nodeids=[0, 1, 2, 0, 1, 2],
        nodes_featureids=[0, 0, 0, 2, 0, 0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"] * 2,
        nodes_values=[0.1, 0.0, 0.0, -0.2, 0.0, 0.0],
        nodes_truenodeids=[1, 0, 0, 1, 0, 0],
        nodes_falsenodeids=[2, 0, 0, 2, 0, 0],
        target_treeids=[0, 0, 1, 1],
        target_nodeids=[1, 2, 1, 2],
        target_ids=[0, 0, 0, 0],
        target_weights=[1.0, 2.0, -3.0, 5.0],
    )
    check_model(model, {"x": floats()})
