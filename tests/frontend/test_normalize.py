"""What passes may rely on after import."""

from __future__ import annotations

import numpy as np
from builders import conv_model, onnx_model
from tvm import IRModule, relax

from relaxc.frontend.importer import from_onnx


def names(mod: IRModule) -> list[str]:
    return [b.var.name for block in mod["main"].body.blocks for b in block.bindings]


def test_everything_pure_is_dataflow() -> None:
    mod = from_onnx(conv_model()).mod
    assert [type(block) for block in mod["main"].body.blocks] == [relax.DataflowBlock]


def test_stretches_around_an_if_are_dataflow() -> None:
    mod = from_onnx(
        onnx_model(
            """g (bool c, float[2] x) => (float[2] y) {
                a = Neg(x)
                b = If (c) <then_branch = t () => (float[2] u) { u = Relu(a) },
                            else_branch = e () => (float[2] v) { v = Abs(a) }>
                y = Exp(b)
            }"""
        )
    ).mod
    kinds = [type(block) for block in mod["main"].body.blocks]
    assert relax.DataflowBlock in kinds


def test_bindings_carry_onnx_names() -> None:
    model = conv_model()
    for index, node in enumerate(model.graph.node):
        node.name = f"layer{index}/{node.op_type}"
    found = names(from_onnx(model).mod)
    assert {"layer0/Conv", "layer2/Relu"} <= set(found)


def test_a_node_that_became_several_bindings_numbers_them() -> None:
    model = onnx_model(
        "g (float[2,4] x) => (float[2,4] y) { y = LayerNormalization(x, s, b) }",
        s=np.ones(4, np.float32),
        b=np.zeros(4, np.float32),
    )
    model.graph.node[0].name = "norm"
    found = names(from_onnx(model).mod)
    assert all(name == "norm" or name.startswith("norm.") or name == "y" for name in found)


def test_nothing_is_dead() -> None:
    model = onnx_model("g (float[2] x) => (float[2] y) { d = Exp(x)  y = Relu(x) }")
    assert len(names(from_onnx(model).mod)) == 1


def test_nothing_is_bound_that_nobody_reads() -> None:
    model = onnx_model(
        """g (float[n,m,8] x) => (float[n,k] y) {
            s = Shape(x)
            n = Gather(s, zero)
            to = Concat<axis = 0>(n, minus)
            y = Reshape(x, to)
        }""",
        zero=np.array([0]),
        minus=np.array([-1]),
    )
    func = from_onnx(model).mod["main"]
    read = set(relax.analysis.free_vars(func.body.body))
    for block in func.body.blocks:
        for binding in block.bindings:
            read.update(relax.analysis.free_vars(binding.value))
    assert {b.var for block in func.body.blocks for b in block.bindings} <= read
