"""The pass contract: a frozen dataclass from IRModule to IRModule."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm import IRModule

from relaxc.errors import register_with_tvm

register_with_tvm()


@dataclass(frozen=True)
class Pass(abc.ABC):
    """A named, pure transformation of a Relax module. Its fields are its options.

    Attributes:
        name: kebab-case name, as in `--disabled-pass` and dump files.
        opt_level: the lowest `-O` at which the pass runs.
        required: whether the module cannot be built without it.
    """

    name: ClassVar[str]
    opt_level: ClassVar[int] = 1
    required: ClassVar[bool] = False

    @abc.abstractmethod
    def apply(self, mod: IRModule) -> IRModule:
        """Return the transformed module. `mod` is never mutated."""

    def as_tvm(self) -> tvm.transform.Pass:
        """Wrap for `tvm.transform.Sequential`, so that PassContext instruments see it."""

        @tvm.transform.module_pass(opt_level=0, name=self.name)
        def run(mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
            return self.apply(mod)

        return run
