"""PrimFuncs taken apart, inlined, and refused where they are something else."""

# mypy: ignore-errors
from __future__ import annotations

import tvm
from tvm import tirx
from tvm.script import tirx as T

from relaxc.targets.llvm.machine import Machine
from relaxc.targets.llvm.schedule.inline import inline, is_contraction
from relaxc.targets.llvm.schedule.nest import read_program
from relaxc.targets.llvm.schedule.schedule import ATTRIBUTE, schedule, shared_axes

MACHINE = Machine(16, 32, 48 << 10, 1 << 20, 2)


@T.prim_func(private=True, s_tir=True)
def scaled_mean(
    x: T.Buffer((T.int64(4), T.int64(8)), "float32"), y: T.Buffer((T.int64(4),), "float32")
):
    T.func_attr({"tirx.noalias": True})
    doubled = T.sblock_alloc_buffer((T.int64(4), T.int64(8)))
    total = T.sblock_alloc_buffer((T.int64(4),))
    for i, j in T.grid(T.int64(4), T.int64(8)):
        with T.sblock("doubled"):
            vi, vj = T.axis.remap("SS", [i, j])
            doubled[vi, vj] = x[vi, vj] * T.float32(2)
    for i, j in T.grid(T.int64(4), T.int64(8)):
        with T.sblock("total"):
            vi, vj = T.axis.remap("SR", [i, j])
            with T.init():
                total[vi] = T.float32(0)
            total[vi] = total[vi] + doubled[vi, vj]
    for i in range(T.int64(4)):
        with T.sblock("mean"):
            vi = T.axis.remap("S", [i])
            y[vi] = total[vi] / T.float32(8)


@T.prim_func(private=True, s_tir=True)
def sliding(x: T.Buffer((T.int64(9),), "float32"), y: T.Buffer((T.int64(9),), "float32")):
    padded = T.sblock_alloc_buffer((T.int64(11),))
    for i in range(T.int64(11)):
        with T.sblock("padded"):
            vi = T.axis.remap("S", [i])
            padded[vi] = T.if_then_else(
                T.int64(1) <= vi and vi < T.int64(10), x[vi - T.int64(1)], T.float32(0)
            )
    for i, k in T.grid(T.int64(9), T.int64(3)):
        with T.sblock("sum"):
            vi, vk = T.axis.remap("SR", [i, k])
            with T.init():
                y[vi] = T.float32(0)
            y[vi] = y[vi] + padded[vi + vk]


@T.prim_func(private=True, s_tir=True)
def doubled_rows(
    x: T.Buffer((T.int64(4), T.int64(40)), "float32"),
    y: T.Buffer((T.int64(4), T.int64(40)), "float32"),
):
    T.func_attr({"tirx.noalias": True})
    for i, j in T.grid(T.int64(4), T.int64(40)):
        with T.sblock("doubled"):
            vi, vj = T.axis.remap("SS", [i, j])
            y[vi, vj] = x[vi, vj] * T.float32(2)


@T.prim_func(private=True)
def doubled_flat(
    x: T.Buffer((T.int64(4), T.int64(40)), "float32", layout=None),
    y: T.Buffer((T.int64(4), T.int64(40)), "float32", layout=None),
):
    T.func_attr({"schedule": "one by one", "tirx.is_scheduled": True, "tirx.noalias": True})
    x_flat = T.decl_buffer((T.int64(160),), data=x.data)
    y_flat = T.decl_buffer((T.int64(160),), data=y.data)
    for i in range(T.int64(160)):
        y_flat[i] = x_flat[i] * T.float32(2)


@T.prim_func(private=True)
def opaque(x: T.Buffer((T.int64(4),), "float32"), y: T.Buffer((T.int64(4),), "float32")):
    for i in range(T.int64(4)):
        y[i] = x[i]


def test_cheap_producer_and_epilogue() -> None:
    program = read_program(scaled_mean)
    assert program is not None and len(program.nests) == 3
    (nest,) = inline(program).nests
    assert len(nest.spatial) == len(nest.reduction) == len(nest.finals) == 1
    assert str(nest.finals[0].buffer) == "y" and not inline(program).internal
    assert not is_contraction(nest)


def test_a_padded_map_under_a_window_stays() -> None:
    program = read_program(sliding)
    assert program is not None
    assert len(inline(program).nests) == 2
    assert shared_axes(program) == 0  # the window reaches over


def test_golden() -> None:
    tvm.ir.assert_structural_equal(schedule(doubled_rows, MACHINE), doubled_flat)


def test_the_input_is_not_changed() -> None:
    text = scaled_mean.script()
    schedule(scaled_mean, MACHINE)
    assert scaled_mean.script() == text


def test_what_is_no_sequence_of_nests_is_left_alone_and_says_so() -> None:
    after = schedule(opaque, MACHINE)
    assert isinstance(after, tirx.PrimFunc) and after.body.same_as(opaque.body)
    assert str(after.attrs[ATTRIBUTE]).startswith("none")
