"""Modules as TVM itself runs them: code that is slow, and quickly made."""

from __future__ import annotations

import tvm
from tvm import IRModule, relax

_PLAIN = tvm.target.Target({"kind": "llvm", "opt-level": 0})


def virtual_machine(mod: IRModule) -> relax.VirtualMachine:
    """Compile a module without optimizing its machine code, which takes half of the time."""
    return relax.VirtualMachine(tvm.compile(mod, target=_PLAIN), tvm.cpu())
