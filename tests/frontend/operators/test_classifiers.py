"""Classifiers of ai.onnx.ml against ONNX Runtime; where it leaves ONNX, against the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from kernels import check_model
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import relaxc
from relaxc.errors import UnsupportedOpError

X = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
TREE: dict[str, Any] = {
    "nodes_treeids": [0] * 5,
    "nodes_nodeids": [0, 1, 2, 3, 4],
    "nodes_featureids": [0, 1, 0, 0, 0],
    "nodes_values": [0.1, -0.2, 0.0, 0.0, 0.0],
    "nodes_modes": ["BRANCH_LEQ", "BRANCH_LT", "LEAF", "LEAF", "LEAF"],
    "nodes_truenodeids": [1, 3, 0, 0, 0],
    "nodes_falsenodeids": [2, 4, 0, 0, 0],
}


def leaves(*classes: int, weights: list[float]) -> dict[str, Any]:
    """The same classes in each of the three leaves."""
    count = len(classes)
    nodes = [node for node in (2, 3, 4) for _ in classes]
    ids = {"class_ids": list(classes) * 3, "class_treeids": [0] * (3 * count)}
    return {**TREE, **ids, "class_nodeids": nodes, "class_weights": weights}


def classifier(op: str, kind: int = TensorProto.FLOAT, **attrs: Any) -> onnx.ModelProto:
    node = helper.make_node(op, ["x"], ["y", "z"], "the_node", domain="ai.onnx.ml", **attrs)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", kind, ["n", 3])],
        [
            helper.make_tensor_value_info("y", TensorProto.INT64, None),
            helper.make_tensor_value_info("z", TensorProto.FLOAT, None),
        ],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


THREE: dict[str, Any] = {
    "coefficients": [1.0, 2.0, 3.0, -4.0, 5.0, 6.0, 1.0, 1.0, 1.0],
    "intercepts": [0.5, -0.5, 0.0],
    "classlabels_ints": [3, 1, 2],
}
TWO: dict[str, Any] = {
    "coefficients": [1.0, 2.0, 3.0],
    "intercepts": [0.5],
    "classlabels_ints": [5, 7],
}


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC"])
def test_linear_models(transform: str) -> None:
    check_model(classifier("LinearClassifier", post_transform=transform, **THREE), {"x": X})


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC"])
def test_linear_models_of_one_score(transform: str) -> None:
    check_model(classifier("LinearClassifier", post_transform=transform, **TWO), {"x": X})


def test_linear_models_of_doubles() -> None:
    model = classifier("LinearClassifier", TensorProto.DOUBLE, **THREE)
    check_model(model, {"x": X.astype(np.float64)})


NEGATIVE = [-0.5, 0.2, -0.1, 0.3, -0.3, 0.1, -1.0, -2.0, -3.0]
FORESTS: dict[str, dict[str, Any]] = {
    "every class": {"classlabels_int64s": [7, 1, 3], **leaves(0, 1, 2, weights=NEGATIVE)},
    "shares": {
        "classlabels_int64s": [7, 1, 3],
        "post_transform": "SOFTMAX",
        **leaves(0, 1, 2, weights=NEGATIVE),
    },
    "base values": {
        "classlabels_int64s": [7, 1, 3],
        "base_values": [0.1, 0.2, 0.9],
        **leaves(0, 1, 2, weights=NEGATIVE),
    },
    "one share": {"classlabels_int64s": [4, 9], **leaves(0, weights=[0.1, 0.7, 0.9])},
    "one score": {"classlabels_int64s": [4, 9], **leaves(0, weights=[-0.1, 0.7, -0.9])},
    "one logit": {
        "classlabels_int64s": [4, 9],
        "post_transform": "LOGISTIC",
        **leaves(0, weights=[-0.1, 0.7, -0.9]),
    },
}


@pytest.mark.parametrize("name", FORESTS)
def test_trees(name: str) -> None:
    check_model(classifier("TreeEnsembleClassifier", **FORESTS[name]), {"x": X})


def test_trees_that_vote_for_both_of_two_classes(tmp_path: Path) -> None:
    """ONNX Runtime takes the second one whenever anything speaks for it."""
    weights = leaves(0, 1, weights=[0.5, 0.4, 0.2, 0.8, 0.9, 0.1])
    model = classifier("TreeEnsembleClassifier", classlabels_int64s=[7, 1], **weights)
    relaxc.compile(model, tmp_path / "a.rxc")
    found = relaxc.load(tmp_path / "a.rxc").run({"x": X})
    label, scores = ReferenceEvaluator(model).run(None, {"x": X})
    np.testing.assert_array_equal(found["y"], label)
    np.testing.assert_allclose(found["z"], scores, rtol=1e-6)


@pytest.mark.parametrize(
    ("op", "attrs", "message"),
    [
        (
            "LinearClassifier",
            {**TWO, "post_transform": "SOFTMAX"},
            "`SOFTMAX` of two classes is not supported",
        ),
        (
            "TreeEnsembleClassifier",
            {"classlabels_int64s": [4, 9], **leaves(1, weights=[0.1, 0.7, 0.9])},
            "the second of two classes alone",
        ),
        (
            "TreeEnsembleClassifier",
            {"classlabels_int64s": [4, 9, 1], **leaves(0, 2, weights=NEGATIVE[:6])},
            "supported if all are positive",
        ),
    ],
)
def test_what_is_refused(op: str, attrs: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOpError, match=message):
        relaxc.compile(classifier(op, **attrs), tmp_path / "a.rxc")
