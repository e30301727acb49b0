"""What the walk over blocks keeps and what it replaces."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from relaxc.passes.blocks import rewrite_main


@I.ir_module
class Chain:
    @R.function
    def main(x: R.Tensor((2,), "float32")) -> R.Tensor((2,), "float32"):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            a = R.nn.relu(x)
            b = R.nn.relu(a)
            R.output(b)
        return b


def test_an_identity_rewrite_changes_nothing() -> None:
    builder = relax.BlockBuilder(Chain)
    tvm.ir.assert_structural_equal(rewrite_main(builder, lambda block: block.bindings), Chain)


def test_bindings_are_replaced_and_kinds_of_blocks_stay() -> None:
    def only_last(block: relax.BindingBlock) -> list[relax.Binding]:
        last = block.bindings[-1]
        return [relax.VarBinding(last.var, relax.op.nn.relu(Chain["main"].params[0]))]

    main = rewrite_main(relax.BlockBuilder(Chain), only_last)["main"]
    assert isinstance(main.body.blocks[0], relax.DataflowBlock)
    assert len(main.body.blocks[0].bindings) == 1
    assert main.attrs["num_input"] == 1
