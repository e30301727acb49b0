"""Check indices on the GPU, where they are.

The frontend writes the check as a loop on the CPU, whose assertion becomes an error of the model. A
GPU cannot report errors like that: the kernel prints the message and stops the GPU's context, so
that the call, or the next one that waits for the GPU, fails.
"""

from __future__ import annotations

import json
from typing import Any

import tvm
from tvm import IRModule, tirx

from relaxc.layout import CHECKS_INDICES
from relaxc.targets.cuda.kernels.launch import launch

_THREADS = 256
_SOURCE = """
extern "C" int printf(const char*, ...);
extern "C" __global__ void KERNEL(const long long* __restrict__ indices,
                                  const long long* __restrict__ sizes,
                                  long long* __restrict__ valid, int count) {
  int i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= count) return;
  long long index = indices[i], size = sizes[i % PERIOD];
  if (index < -size || index >= size) {
    printf("%s\\n", MESSAGE);
    __trap();
  }
  valid[i] = index < 0 ? index + size : index;
}
"""


@tvm.transform.module_pass(opt_level=0, name="check-indices")
def check_indices(mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
    """Replace the loops that check indices by kernels that do."""
    out = mod.clone()
    for gvar, func in mod.functions_items():
        if isinstance(func, tirx.PrimFunc) and CHECKS_INDICES in (func.attrs or {}):
            out[gvar] = _kernel(func, str(func.attrs[CHECKS_INDICES]))
    return out


def _kernel(func: tirx.PrimFunc, message: str) -> tirx.PrimFunc:
    buffers = list(func.params)
    shape: list[Any] = list(buffers[0].shape)
    count = shape[0] * shape[1]
    text = _SOURCE.replace("THREADS", str(_THREADS)).replace("PERIOD", str(int(shape[1])))
    text = text.replace("MESSAGE", json.dumps(message))
    kinds = [(list(b.shape), str(b.dtype)) for b in buffers]
    blocks = (count + (_THREADS - 1)) // _THREADS
    return launch("check_indices", text, kinds, [tirx.Cast("int32", blocks)], _THREADS, 0, [count])
