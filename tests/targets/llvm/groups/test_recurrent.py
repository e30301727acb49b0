"""LSTM in every direction, by the kernel and by the plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from builders import onnx_model
from kernels import check_model


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("hidden, kernel", [(32, "lstm"), (20, "lstm"), (64, "lstm")])
@pytest.mark.parametrize("batch", [1, 3])
def test_matches_onnxruntime(direction: str, hidden: int, kernel: str, batch: int) -> None:
    rng = np.random.default_rng(0)
    d = 2 if direction == "bidirectional" else 1

    def random(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.3).astype(np.float32)

    model = onnx_model(
        f"""g (float[s,b,24] x, float[{d},b,{hidden}] h0, float[{d},b,{hidden}] c0)
              => (float[s,{d},b,{hidden}] y, float[{d},b,{hidden}] h, float[{d},b,{hidden}] c) {{
            y, h, c = LSTM <hidden_size={hidden}, direction="{direction}"> (x, w, r, bias, , h0, c0)
        }}""",
        w=random(d, 4 * hidden, 24),
        r=random(d, 4 * hidden, hidden),
        bias=random(d, 8 * hidden),
    )
    feed = {
        "x": random(7, batch, 24),
        "h0": random(d, batch, hidden),
        "c0": random(d, batch, hidden),
    }
    check_model(model, feed, kernels={kernel})
