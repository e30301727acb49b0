"""Products around a softmax become one group, with copies of the views around them."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from relaxc.layout import ATTENTION, KERNEL
from relaxc.passes.fuse.group_attention import GroupAttention


class Library:
    """Takes everything, unless told otherwise."""

    def __init__(self, takes: bool = True, joins: bool = False) -> None:
        self.takes = takes
        self.joins_keys = joins

    def has_attention(self, func: relax.Function) -> bool:
        return self.takes

    def is_score_operator(self, call: relax.Call) -> bool:
        return call.op.name in ("relax.add", "relax.multiply")


@I.ir_module
class Before:
    @R.function
    def main(
        x: R.Tensor((2, 5, 24), "float32"), mask: R.Tensor((2, 1, 1, 5), "float32")
    ) -> R.Tensor((2, 5, 2, 4), "float32"):
        with R.dataflow():
            lv = R.reshape(x, R.shape([2, 5, 3, 2, 4]))
            lv1 = R.permute_dims(lv, axes=[2, 0, 3, 1, 4])
            q = R.squeeze(
                R.strided_slice(lv1, (0,), (0,), (1,), (1,), assume_inbound=True), axis=[0]
            )
            k = R.squeeze(
                R.strided_slice(lv1, (0,), (1,), (2,), (1,), assume_inbound=True), axis=[0]
            )
            v = R.squeeze(
                R.strided_slice(lv1, (0,), (2,), (3,), (1,), assume_inbound=True), axis=[0]
            )
            kt = R.permute_dims(k, axes=[0, 1, 3, 2])
            s = R.matmul(q, kt)
            s1 = R.multiply(s, R.const(0.5, "float32"))
            s2 = R.add(s1, mask)
            p = R.nn.softmax(s2, axis=-1)
            o = R.matmul(p, v)
            gv = R.permute_dims(o, axes=[0, 2, 1, 3])
            R.output(gv)
        return gv


@I.ir_module
class ScoresEscape:
    @R.function
    def main(
        q: R.Tensor((1, 2, 5, 4), "float32"), k: R.Tensor((1, 2, 4, 5), "float32")
    ) -> R.Tensor((1, 2, 5, 5), "float32"):
        with R.dataflow():
            s = R.matmul(q, k)
            p = R.nn.softmax(s, axis=-1)
            o = R.matmul(p, p)
            gv = R.add(o, s)
            R.output(gv)
        return gv


def _group(mod: tvm.IRModule) -> relax.Function | None:
    found = [
        func
        for _, func in mod.functions_items()
        if isinstance(func, relax.Function) and func.attrs and KERNEL in func.attrs
    ]
    return found[0] if found else None


def test_groups_everything_from_projection_to_output() -> None:
    after = GroupAttention(Library()).apply(Before)
    relax.analysis.well_formed(after)
    group = _group(after)
    assert group is not None and group.attrs[KERNEL] == ATTENTION
    assert len(group.params) == 2
    main = after["main"].body.blocks[0].bindings
    assert [type(b.value.op) for b in main] == [tvm.ir.GlobalVar]


def test_leaves_scores_that_are_read_elsewhere_alone() -> None:
    assert _group(GroupAttention(Library()).apply(ScoresEscape)) is None


def test_leaves_what_the_target_cannot_do_alone() -> None:
    after = GroupAttention(Library(takes=False)).apply(Before)
    tvm.ir.assert_structural_equal(after, Before)


@I.ir_module
class Cached:
    @R.function
    def main(
        q: R.Tensor((1, 2, 1, 4), "float32"),
        past: R.Tensor((1, 2, 5, 4), "float32"),
        new: R.Tensor((1, 1, 2, 4), "float32"),
    ):
        with R.dataflow():
            n = R.permute_dims(new, axes=[0, 2, 1, 3])
            k = R.concat((past, n), axis=2)
            kt = R.permute_dims(k, axes=[0, 1, 3, 2])
            s = R.matmul(q, kt)
            p = R.nn.softmax(s, axis=-1)
            o = R.matmul(p, k)
            R.output(o)
        return o


@pytest.mark.parametrize("joins", [False, True])
def test_keys_of_earlier_positions_are_joined_where_the_target_can(joins: bool) -> None:
    mod = GroupAttention(Library(joins=joins)).apply(Cached)
    (call,) = (b.value for b in mod["main"].body.blocks[0].bindings[-1:])
    group = mod[call.op]
    ops = [str(b.value.op.name) for b in group.body.blocks[0].bindings]
    assert ("relax.concat" in ops) == joins
    assert len(call.args) == (3 if joins else 2)
    assert (len(mod["main"].body.blocks[0].bindings) == 1) == joins
