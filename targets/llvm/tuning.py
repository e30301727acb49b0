"""Between the kernels and what was measured: which task a group is, and what to write it with."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass, replace

import tvm

from relaxc.layout import Layout
from relaxc.targets.llvm.groups.base import Group, GroupKernel
from relaxc.targets.llvm.kernels.kernel import Kernel
from relaxc.targets.llvm.machine import Machine, machine_of
from relaxc.targets.llvm.target import enabled_features
from relaxc.targets.tuning.history import Decider, Decision, same_choice
from relaxc.targets.tuning.records import Fields
from relaxc.targets.tuning.task import Choice, Task


@dataclass(frozen=True)
class Site:
    """A place in a model where a tuned kernel stands.

    Attributes:
        task: which one.
        kernel: its template.
        group: what it computes, and the choice that it was written with.
        layouts: of the parameters and of the result.
    """

    task: Task
    kernel: GroupKernel
    group: Group
    layouts: tuple[Layout, ...]

    def space(self, machine: Machine) -> list[Choice]:
        """All choices, the untuned one first."""
        return self.kernel.space(self.group, machine)

    def tensors(self, choice: Choice, machine: Machine) -> list[tuple[tuple[int, ...], Layout]]:
        """(logical shape, layout) of each parameter that a choice reads, the result last."""
        _, layouts = self.variant(choice, machine)
        domain = self.kernel.domain(self.group.result_shape)
        shapes = [tuple(p.ty.shape.values) for p in self.group.func.params]
        found = []
        for shape, layout in zip((*shapes, self.group.result_shape), layouts):
            is_plain = layout.kind == "plain" and not any(layout.border)
            dims = shape if is_plain else domain.operand_dims(shape)
            found.append((tuple(int(d) for d in dims), layout))
        return found

    def written(self, choice: Choice, machine: Machine) -> Kernel:
        """The kernel written with a choice."""
        return self.variant(choice, machine)[0]

    def variant(self, choice: Choice, machine: Machine) -> tuple[Kernel, tuple[Layout, ...]]:
        """The kernel written with a choice, and the layouts that it reads.

        A choice may need a wider border around its data than the site has.
        """
        group = replace(self.group, choice=choice)
        layouts = list(self.layouts)
        for i, demand in enumerate(self.kernel.demands(group, layouts[0], machine)):
            have = layouts[i].border
            if any(need > n for need, n in zip(demand.border, have)):
                t, left, b, r = (max(pair) for pair in zip(demand.border, have))
                layouts[i] = layouts[i].with_border((t, left, b, r))
        return self.kernel.lower(group, layouts, machine), tuple(layouts)


class Tuning:
    """Chooses parameters of kernels while a model is compiled, and remembers what it did.

    Args:
        decider: what was measured.
        target: what is compiled for.
        threads: that share a kernel's work; as many as the target has cores.

    Attributes:
        decisions: key of a task -> what was decided; None where nothing is known.
        refused: keys of tasks whose record names a choice that the kernel does not offer, and why.
    """

    def __init__(
        self, decider: Decider, target: tvm.target.Target, threads: int | None = None
    ) -> None:
        self._decider = decider
        self._machine = machine_of(target)
        self._machine_facts = {
            "mcpu": str(target.attrs["mcpu"]),
            "mtriple": str(target.attrs["mtriple"]),
            "features": _digest(sorted(enabled_features(target))),
            "cores": int(target.attrs["num-cores"]),
            "threads": threads or int(target.attrs["num-cores"]),
            "tvm": importlib.metadata.version("apache-tvm"),
        }
        self.decisions: dict[str, Decision | None] = {}
        self.refused: dict[str, str] = {}

    def context(self, space_version: int) -> Fields:
        """For whom a kernel is tuned, whose choices are of this version."""
        return {**self._machine_facts, "space": space_version}

    def known(self, task: Task) -> Choice | None:
        """What was measured to be fastest; None where nothing beats what is used without tuning."""
        if task.key not in self.decisions:
            self.decisions[task.key] = self._decider.decide(task)
        decision = self.decisions[task.key]
        return None if decision is None else decision.choice

    def task(self, kernel: GroupKernel, group: Group) -> Task | None:
        """The task that a group is; None if its kernel leaves nothing to choose."""
        workload = kernel.workload(group, self._machine)
        return None if workload is None else Task(workload, self.context(kernel.space_version))

    def choice(self, kernel: GroupKernel, group: Group, machine: Machine) -> Choice | None:
        """What to write a group's kernel with; None leaves that to the kernel."""
        task = self.task(kernel, group)
        if task is None:
            return None
        if task.key not in self.decisions:
            self.decisions[task.key] = self._allowed(task, kernel, group, machine)
        decision = self.decisions[task.key]
        return None if decision is None else decision.choice

    def _allowed(
        self, task: Task, kernel: GroupKernel, group: Group, machine: Machine
    ) -> Decision | None:
        """What the records say, unless they are of another mind than the kernel's space."""
        decision = self._decider.decide(task)
        if decision is None or decision.choice is None:
            return decision
        for choice in kernel.space(group, machine):
            if same_choice(choice, decision.choice):
                return replace(decision, choice=choice)
        self.refuse(task)
        return None

    def refuse(self, task: Task) -> None:
        """Note that a task's record is of another mind than its space."""
        self.refused[task.key] = f"the record for {task} names a choice that is no longer offered"


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(names).encode()).hexdigest()[:12]
