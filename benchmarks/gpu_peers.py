"""What torch is measured with: recorded calls, and its products of few bits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

_SIZE = 4096


def recorded(call: Callable[[], Any]) -> Callable[[], None]:
    """A call as a CUDA graph."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = call()
    graph.kept = kept
    return graph.replay  # type: ignore[no-any-return]


def _sparse() -> Callable[[], Any]:
    import torch
    from gpu_builders import pruned

    torch.sparse.SparseSemiStructuredTensor._FORCE_CUTLASS = False
    values = torch.randn(_SIZE, _SIZE).numpy()
    weight = torch.from_numpy(pruned(values)).half().cuda().t().contiguous()
    sparse = torch.sparse.to_sparse_semi_structured(weight)
    data = torch.randn(_SIZE, _SIZE, device="cuda").half()
    return lambda: torch.nn.functional.linear(data, sparse)


def products(precision: str) -> dict[str, Callable[[], None]]:
    """Torch's products of square matrices in eight bits, or 2:4; none for other precisions."""
    import torch

    shape = (_SIZE, _SIZE)
    if precision == "int8":
        a, b = (torch.randint(-127, 128, shape, dtype=torch.int8, device="cuda") for _ in "ab")
        return {"torch _int_mm": recorded(lambda: torch._int_mm(a, b.t()))}
    if precision == "2:4":
        return {"torch cuSPARSELt": recorded(_sparse())}
    if precision != "float8":
        return {}
    a, b = (torch.randn(shape, device="cuda").to(torch.float8_e4m3fn) for _ in "ab")
    one = torch.ones((), device="cuda")
    multiply = partial(torch._scaled_mm, a, b.t(), one, one, out_dtype=torch.float16)
    return {
        "torch _scaled_mm": recorded(partial(multiply, use_fast_accum=False)),
        "torch _scaled_mm fast": recorded(partial(multiply, use_fast_accum=True)),
    }
