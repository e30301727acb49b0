"""What every target must offer, and what it gives back."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import tvm
from tvm import IRModule

from relaxc.layout import Precision
from relaxc.targets.tuning.history import Decider


@dataclass(frozen=True)
class CompiledModule:
    """Machine code, and what a machine must offer to run it.

    Attributes:
        libraries: file name -> contents of the shared libraries; `model.so` holds the model.
        requirements: JSON-able facts checked at load time (architecture, CPU features, ...).
        workspace: memory that the code takes after the weights, as the manifest describes it.
        unaligned_inputs: positions of inputs that the code reads wherever they lie in memory.
        listing: assembly of the kernels, for `--dump-dir`; empty unless asked for.
    """

    libraries: dict[str, bytes]
    requirements: dict[str, object] = field(default_factory=dict)
    workspace: dict[str, Any] = field(default_factory=lambda: {"storages": [], "tensors": []})
    unaligned_inputs: tuple[int, ...] = ()
    listing: str = ""


class Backend(abc.ABC):
    """Strategy that turns a fused module into machine code for one kind of target."""

    target: tvm.target.Target
    # Whether the kernels multiply quantized tensors.
    has_integer_kernels: ClassVar[bool] = True
    # Quantization schemes that a backend with such kernels has none for.
    missing_schemes: ClassVar[frozenset[str]] = frozenset()
    # Whether code runs on a device that this machine may lack: what is measured, is on the CPU.
    needs_device: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def channel_multiple(self) -> int:
        """Counts of channels that kernels like are multiples of it."""

    @property
    def compilers(self) -> dict[str, str]:
        """Name -> version of compilers beside TVM that make the code, for the manifest."""
        return {}

    @property
    def block_outputs(self) -> int | None:
        """Outputs whose weights for an input are left out together where all are zero."""
        return None

    @property
    @abc.abstractmethod
    def kernels(self) -> Any:
        """The kernel library that the grouping, layout and lowering passes ask."""

    @abc.abstractmethod
    def with_precision(self, precision: Precision) -> Backend:
        """This backend, with kernels that store and multiply tensors like this.

        Raises:
            OptionError: they cannot; the missing feature is named.
        """

    def with_records(self, decider: Decider) -> Backend:
        """This backend, with kernels as what was measured says; itself where nothing is tuned."""
        return self

    def marked(self, mod: IRModule) -> IRModule:
        """A module that all passes have run on, with the tuning tasks that its loop nests are."""
        return mod

    @property
    def refused_records(self) -> list[str]:
        """Why records that fit a kernel were not used, after a module was built."""
        return []

    @abc.abstractmethod
    def require_tools(self) -> None:
        """Fail, before any work, unless this machine can link for the target.

        Raises:
            TargetError: a compiler or a library is missing.
        """

    @abc.abstractmethod
    def lowering_passes(self) -> Sequence[tuple[str, tvm.transform.Pass]]:
        """Named TVM passes from fused PrimFuncs to VM code; none of them is optional."""

    @abc.abstractmethod
    def build(self, mod: IRModule, listing: bool = False) -> CompiledModule:
        """Generate machine code and link it."""

    @abc.abstractmethod
    def describe(self) -> dict[str, object]:
        """The target as the manifest shows it."""
