"""The best few of an axis: by a kernel, or by sorting."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from builders import onnx_model
from kernels import TARGETS, check_model
from tvm.script import ir as I
from tvm.script import relax as R

from relaxc.passes.lower.lower_top_k import LowerTopK


@I.ir_module
class Before:
    @R.function
    def main(x: R.Tensor(("n", 9), "float32")) -> R.Tensor(("n", 2), "int64"):
        with R.dataflow():
            gv = R.topk(x, k=2, axis=1, ret_type="indices", largest=True, dtype="int64")
            R.output(gv)
        return gv


@I.ir_module
class Expected:
    @R.function
    def main(x: R.Tensor(("n", 9), "float32")) -> R.Tensor(("n", 2), "int64"):
        with R.dataflow():
            order = R.argsort(x, axis=1, descending=True, dtype="int64")
            gv = R.strided_slice(order, axes=[1], begin=[0], end=[2], strides=[1])
            R.output(gv)
        return gv


class Sorting:
    """A target without a kernel."""

    def lower_top_k(self, *_args: object) -> None:
        return None


def test_sorts_where_there_is_no_kernel(golden: Callable[..., None]) -> None:
    golden(LowerTopK(Sorting()), Before, Expected)


def test_leaves_sorting_alone(golden: Callable[..., None]) -> None:
    golden(LowerTopK(Sorting()), Expected, Expected)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", ["float", "int64", "uint8"])
@pytest.mark.parametrize("largest", [0, 1])
def test_kernel_finds_what_onnxruntime_finds(kind: str, largest: int, target: str) -> None:
    """Ties, any axis, and elements that come in the worst order."""
    model = onnx_model(
        f"""g ({kind}[n,4,300] x) => ({kind}[n,4,7] v, int64[n,4,7] i,
                {kind}[n,1,300] w, int64[n,1,300] j) {{
            v, i = TopK<axis=2, largest={largest}>(x, seven)
            w, j = TopK<axis=1, largest={largest}>(x, one)
        }}""",
        seven=np.array([7]),
        one=np.array([1]),
    )
    x = np.random.default_rng(0).integers(0, 60, (3, 4, 300))
    x[0, 0], x[0, 1] = np.sort(x[0, 0]), np.sort(x[0, 1])[::-1]
    types = {"float": np.float32, "int64": np.int64, "uint8": np.uint8}
    check_model(model, {"x": x.astype(types[kind])}, target, kernels={"top_k"})
