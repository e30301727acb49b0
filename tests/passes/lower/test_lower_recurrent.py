"""Recurrent loops give way to the target's kernel where it has one."""

from __future__ import annotations

import numpy as np
import pytest
from builders import onnx_model
from kernels import run_model

from relaxc.frontend.importer import from_onnx
from relaxc.passes.lower.lower_recurrent import LowerRecurrent


def _model(hidden: int) -> object:
    rng = np.random.default_rng(0)

    def random(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    return onnx_model(
        f"""g (float[5,1,8] x) => (float[s,d,b,h] y) {{
            y = LSTM <hidden_size={hidden}> (x, w, r)
        }}""",
        w=random(1, 4 * hidden, 8),
        r=random(1, 4 * hidden, hidden),
    )


class NoKernels:
    """A target without recurrent kernels."""

    def lower_recurrent(self, *_args: object) -> None:
        return None


def test_keeps_the_loops_without_a_kernel() -> None:
    before = from_onnx(_model(16)).mod
    after = LowerRecurrent(NoKernels()).apply(before)
    assert [g.name_hint for g in after.get_global_vars()] == [
        g.name_hint for g in before.get_global_vars()
    ]


@pytest.mark.parametrize("hidden", [16, 10])
def test_kernel_and_loops_agree(hidden: int) -> None:
    feed = {"x": np.ones((5, 1, 8), np.float32)}
    fast, _ = run_model(_model(hidden), feed)
    assert np.isfinite(fast[0]).all() and fast[0].shape == (5, 1, 1, hidden)
