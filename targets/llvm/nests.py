"""Loop nests without a kernel of ours, as tuning sees them.

Their choices are the schedule that is used without tuning, and traces of MetaSchedule's space.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import tvm
import tvm_ffi
from tvm import IRModule, relax, tirx
from tvm.tirx.buffer import BufferType

from relaxc.layout import PLAIN, TASK, Layout
from relaxc.targets.llvm.kernels.domain import as_int
from relaxc.targets.llvm.kernels.kernel import Kernel
from relaxc.targets.llvm.machine import Machine
from relaxc.targets.llvm.schedule.schedule import schedule
from relaxc.targets.llvm.schedule.traces import replay, sample
from relaxc.targets.llvm.tuning import Tuning
from relaxc.targets.tuning.task import Choice, Task

NAME = "nest"
# Bumped whenever a trace comes to mean other code.
VERSION = 1
_OWN: Choice = {"schedule": "own"}
_SAMPLES = 48
_UNSIGNED = (1 << 64) - 1
_NUMBER = re.compile(r"\d+$")

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class NestSite:
    """A place in a model where a loop nest stands.

    Attributes:
        task: which one.
        func: as blocks under plain loops.
        target: what it is compiled for.
        shapes: of its parameters, the result's last.
    """

    task: Task
    func: tirx.PrimFunc
    target: tvm.target.Target
    shapes: Shapes

    def space(self, machine: Machine) -> list[Choice]:
        """All choices, the untuned one first."""
        traces = sample(self.func, self.target, _SAMPLES)
        return [_OWN, *({"schedule": "trace", "trace": trace} for trace in traces)]

    def tensors(self, choice: Choice, machine: Machine) -> list[tuple[tuple[int, ...], Layout]]:
        """(shape, layout) of each parameter, the result last."""
        return [(shape, PLAIN) for shape in self.shapes]

    def written(self, choice: Choice, machine: Machine) -> Kernel:
        """The nest with a choice."""
        if choice["schedule"] == "own":
            return Kernel(NAME, schedule(self.func, machine), [])
        return Kernel(NAME, replay(self.func, str(choice["trace"]), self.target), [])


def nest_task(func: tirx.PrimFunc, name: str, tuning: Tuning) -> Task | None:
    """The task that a loop nest is; None for one that cannot be run alone on floats."""
    shapes = _shapes(func)
    if shapes is None:
        return None
    code = tvm_ffi.structural_hash(func.without_attr("global_symbol")) & _UNSIGNED
    workload = {
        "kernel": NAME,
        "name": _NUMBER.sub("", name),
        "shapes": ["x".join(map(str, shape)) or "1" for shape in shapes],
        "code": f"{code:016x}",
        "epilogue": [],
    }
    return Task(workload, tuning.context(VERSION))


def _shapes(func: tirx.PrimFunc) -> Shapes | None:
    """Static shapes of tensors of float32; None for other parameters."""
    if not func.attrs or "tirx.is_scheduled" in func.attrs or len(func.params) < 2:
        return None
    shapes = []
    for param in func.params:
        if not isinstance(param.ty, BufferType) or str(param.dtype) != "float32":
            return None
        dims = [as_int(dim) for dim in param.shape]
        if None in dims or 0 in dims:
            return None
        shapes.append(tuple(d for d in dims if d is not None))
    return tuple(shapes)


def _calls(mod: IRModule) -> Iterator[tvm.ir.GlobalVar]:
    """What is called for one result, without sizes as arguments; in order."""
    for block in mod["main"].body.blocks:
        for value in (b.value for b in block.bindings if isinstance(b, relax.VarBinding)):
            if not isinstance(value, relax.Call) or not isinstance(value.op, tvm.ir.Op):
                continue
            is_plain = len(value.args) == 2 and isinstance(value.ty, relax.TensorType)
            if str(value.op.name) == "relax.call_tir" and is_plain:
                yield value.args[0]


def nest_sites(mod: IRModule, tuning: Tuning, target: tvm.target.Target) -> list[NestSite]:
    """The places in a module of loop nests that tuning has a say in, in order."""
    found = []
    for gvar in _calls(mod):
        func = mod[gvar]
        if not isinstance(func, tirx.PrimFunc):
            continue
        task, shapes = nest_task(func, gvar.name_hint, tuning), _shapes(func)
        if task is not None and shapes is not None:
            found.append(NestSite(task, func, target, shapes))
    return found


def mark_nests(mod: IRModule, tuning: Tuning) -> IRModule:
    """Note the task of each nest, so that the profile of the model tells what it takes."""
    out = mod.clone()
    for gvar in _calls(mod):
        func = mod[gvar]
        task = nest_task(func, gvar.name_hint, tuning) if isinstance(func, tirx.PrimFunc) else None
        if task is not None:
            out[gvar] = func.with_attr(TASK, task.key)
    return out


def replay_nests(tuning: Tuning | None, target: tvm.target.Target) -> tvm.transform.Pass:
    """The pass that gives nests the schedules that were measured to be faster."""

    @tvm.transform.module_pass(opt_level=0, name="replay-nests")
    def run(mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        if tuning is None:
            return mod
        out = mod.clone()
        for gvar in _calls(mod):
            func = mod[gvar]
            if isinstance(func, tirx.PrimFunc):
                bare = func.without_attr(TASK) if TASK in (func.attrs or {}) else func
                chosen = _replayed(bare, gvar.name_hint, tuning, target)
                if chosen is not None:
                    out[gvar] = chosen.with_attrs({**dict(func.attrs), "tirx.is_scheduled": True})
        return out

    return run


def _replayed(
    func: tirx.PrimFunc, name: str, tuning: Tuning, target: tvm.target.Target
) -> tirx.PrimFunc | None:
    task = nest_task(func, name, tuning)
    choice = None if task is None else tuning.known(task)
    if task is None or choice is None or choice.get("schedule") != "trace":
        return None
    trace = str(choice["trace"])
    if trace not in sample(func, target, _SAMPLES):  # TVM would crash on what does not fit
        tuning.refuse(task)
        return None
    return replay(func, trace, target)
