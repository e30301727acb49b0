"""Schedules of a loop nest from TVM's MetaSchedule: sampled, written down as traces, replayed.

Its rules for CPUs without tensor instructions: tiles on several levels, reductions in parts,
threads, vectors, unrolling. Only its space is used; measuring, records and the search are ours.
"""

from __future__ import annotations

import contextlib
import json
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

import tvm
from tvm import IRModule, s_tir, tirx
from tvm.s_tir import meta_schedule as ms

_RULES, _POSTPROCS = ms.schedule_rule, ms.postproc
_TILES = "SSRSRS"
_INTRINSICS = "tvm.s_tir.tensor_intrin"


def sample(func: tirx.PrimFunc, target: tvm.target.Target, count: int) -> list[str]:
    """At most `count` different traces, always the same ones; none where no rule applies."""
    context = _context(func, target)
    found: dict[str, None] = {}
    for _ in range(2 * count):
        for schedule in context.generate_design_space():
            found.setdefault(json.dumps(_plain(schedule.trace.as_json())))
        if len(found) >= count:
            break
    return list(found)[:count]


def replay(func: tirx.PrimFunc, trace: str, target: tvm.target.Target) -> tirx.PrimFunc:
    """The scheduled function.

    Args:
        func: as it was given to `sample`.
        trace: one of those that `sample` gave; TVM crashes on others.
        target: what is compiled for.
    """
    context = _context(func, target)
    schedule = s_tir.Schedule(context.mod, seed=1)
    s_tir.schedule.Trace.apply_json_to_schedule(json.loads(trace), schedule)
    for step in context.space_generator.postprocs:
        step.apply(schedule)
    return schedule.mod["main"].without_attr("global_symbol")


def _context(func: tirx.PrimFunc, target: tvm.target.Target) -> ms.TuneContext:
    rules = [
        _RULES.InlineConstantScalars(),
        _RULES.AutoInline(
            into_producer=False,
            into_consumer=True,
            inline_const_tensor=True,
            disallow_if_then_else=True,
            require_injective=True,
            require_ordered=True,
            disallow_op=["tirx.exp"],
        ),
        _RULES.AddRFactor(max_jobs_per_core=16, max_innermost_factor=64),
        _RULES.MultiLevelTiling(
            structure=_TILES,
            max_innermost_factor=64,
            reuse_write=_RULES.ReuseType(req="may", levels=[1, 2], scope="global"),
        ),
        _RULES.ParallelizeVectorizeUnroll(
            max_jobs_per_core=16,
            max_vectorize_extent=64,
            unroll_max_steps=[0, 16, 64, 512],
            unroll_explicit=True,
        ),
        _RULES.RandomComputeLocation(),
    ]
    postprocs = [
        _POSTPROCS.DisallowDynamicLoop(),
        _POSTPROCS.RewriteParallelVectorizeUnroll(),
        _POSTPROCS.RewriteReductionBlock(),
    ]
    space = ms.space_generator.PostOrderApply(
        sch_rules=rules, postprocs=postprocs, mutator_probs={}
    )
    mod = IRModule({"main": func.with_attr("global_symbol", "main")})
    with _without_intrinsics():
        return ms.TuneContext(
            mod=mod, target=target, space_generator=space, rand_state=1, num_threads=1
        )


@contextlib.contextmanager
def _without_intrinsics() -> Iterator[None]:
    """MetaSchedule imports tensor instructions of all targets, which takes 11 s; we use none."""
    if _INTRINSICS in sys.modules:
        yield
        return
    sys.modules[_INTRINSICS] = types.ModuleType(_INTRINSICS)
    try:
        yield
    finally:
        del sys.modules[_INTRINSICS]


def _plain(value: Any) -> Any:
    """JSON of TVM's arrays."""
    if isinstance(value, tirx.IntImm):
        return int(value)
    if isinstance(value, tirx.FloatImm):
        return float(value)
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    raise TypeError(f"a trace holds a {type(value).__name__}")
