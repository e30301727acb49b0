"""Layouts are chosen so that few tensors move, and borders so that none is written twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from builders import onnx_model
from tvm import relax

from relaxc.frontend.importer import from_onnx
from relaxc.layout import KERNEL, LAYOUTS
from relaxc.passes.fuse.group_ops import GroupOps
from relaxc.passes.layout.choose_layout import ChooseLayout
from relaxc.targets.llvm.library import LlvmKernels
from relaxc.targets.llvm.machine import Machine

LIBRARY = LlvmKernels(Machine(16, 32, 48 << 10, 1 << 20, 2))


def _layouts(graph: str, **weights: Any) -> list[tuple[str, list[str]]]:
    """(kernel, layouts of parameters and result) of every group that `main` calls, in order."""
    mod = GroupOps(LIBRARY).apply(from_onnx(onnx_model(graph, **weights)).mod)
    after = ChooseLayout(LIBRARY).apply(mod)
    relax.analysis.well_formed(after)
    results = [func.ret_ty for func in after.functions.values() if isinstance(func, relax.Function)]
    assert all(ty.shape is not None for ty in results if isinstance(ty, relax.TensorType))
    calls = [b.value for block in after["main"].body.blocks for b in block.bindings]
    groups = [after[c.op] for c in calls if isinstance(c.op, tvm.ir.GlobalVar)]
    return [(str(g.attrs[KERNEL]), [str(t) for t in g.attrs[LAYOUTS]]) for g in groups]


def _weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_convolutions_stay_blocked() -> None:
    found = _layouts(
        """g (float[1,32,8,8] x) => (float[1,32,8,8] y) {
            a = Conv <kernel_shape=[1,1]> (x, w)
            y = Conv <kernel_shape=[1,1]> (a, w)
        }""",
        w=_weight(32, 32, 1, 1),
    )
    assert [kernel for kernel, _ in found] == ["relayout", "conv2d", "conv2d", "relayout"]
    assert found[1][1] == found[2][1] == ["blocked16", "blocked16"]


def test_moves_of_rows_that_an_expression_counts() -> None:
    """A function of its own cannot know `n * 2` as a dimension; it has a symbol in its place."""
    found = _layouts(
        """g (float[n,2,4,8] x) => (float[m,1,4,8] y) <int64[4] shape = {-1,1,4,8}> {
            a = Reshape (x, shape)
            y = Conv <kernel_shape=[1,5], pads=[0,2,0,2]> (a, w)
        }""",
        w=_weight(1, 1, 1, 5),
    )
    assert [kernel for kernel, _ in found] == ["relayout", "conv2d", "relayout"]


def test_a_result_has_the_widest_border_that_a_reader_needs() -> None:
    found = _layouts(
        """g (float[1,32,16,16] x) => (float[n,c,h,w] y) {
            a = Conv <kernel_shape=[1,1]> (x, w)
            b = Conv <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]> (a, v)
            c = Conv <kernel_shape=[5,5], strides=[2,2], pads=[2,2,2,2]> (a, u)
            y = Add (b, c)
        }""",
        w=_weight(32, 32, 1, 1),
        v=_weight(16, 32, 3, 3),
        u=_weight(16, 32, 5, 5),
    )
    assert found[1][1] == ["blocked16", "blocked16+2,2,2,2"]


def test_few_channels_are_read_plain() -> None:
    found = _layouts(
        """g (float[1,3,8,8] x) => (float[n,c,h,w] y) {
            y = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w)
        }""",
        w=_weight(16, 3, 3, 3),
    )
    assert found == [("conv2d", ["plain", "blocked16"]), ("relayout", ["blocked16", "plain"])]


def test_a_wide_border_is_written_rather_than_checked() -> None:
    """Every tile at an edge is code of its own."""
    found = _layouts(
        """g (float[1,3,8,40] x) => (float[n,c,h,w] y) {
            y = Conv <kernel_shape=[1,31], pads=[0,15,0,15]> (x, w)
        }""",
        w=_weight(16, 3, 1, 31),
    )
    assert found[0] == ("relayout", ["plain", "plain+0,15,0,15"])


def test_concatenated_tensors_share_a_buffer() -> None:
    found = _layouts(
        """g (float[1,16,8,8] x) => (float[n,c,h,w] y) {
            a = Conv <kernel_shape=[1,1]> (x, w)
            b = Conv <kernel_shape=[1,1]> (x, w)
            c = Concat <axis=1> (a, b)
            y = Conv <kernel_shape=[1,1]> (c, v)
        }""",
        w=_weight(16, 16, 1, 1),
        v=_weight(16, 32, 1, 1),
    )
    results = {tuple(layouts) for kernel, layouts in found if kernel == "concat"}
    assert results == {("blocked16@0:0/32", "blocked16@0:16/32", "blocked16@0:0/32")}


@pytest.mark.parametrize("perm", ["0,2,3,1"])
def test_a_transposed_result_is_written_channels_last(perm: str) -> None:
    found = _layouts(
        f"""g (float[1,32,8,8] x) => (float[n,h,w,c] y) {{
            a = Conv <kernel_shape=[1,1]> (x, w)
            y = Transpose <perm=[{perm}]> (a)
        }}""",
        w=_weight(32, 32, 1, 1),
    )
    assert found[-2] == ("conv2d", ["blocked16", "last"])
    assert found[-1] == ("view", ["last", "plain"])
