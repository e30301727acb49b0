"""What models of old operator sets mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import onnx_model

import relaxc
from relaxc.errors import ModelError
from relaxc.frontend.legacy import update_slopes


def model(shape: str) -> onnx.ModelProto:
    graph = f"g (float{shape} x, float[3] s) => (float{shape} y) {{ y = PRelu (x, s) }}"
    return onnx_model(graph, 6)


@pytest.mark.parametrize("shape", ["[2,3,3]", "[n,3,4,5]", "[2,3]"])
def test_slopes_were_per_channel(compiled: Callable[..., Path], shape: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 3, 3)[: shape.count(",") + 1])
    x = np.resize(x, tuple(int(d) if d.isdigit() else 2 for d in shape[1:-1].split(",")))
    x, slope = x.astype(np.float32), np.array([0.1, 0.2, 0.3], np.float32)
    got = relaxc.load(compiled(model(shape)))(x, slope)
    per_channel = slope.reshape(1, 3, *[1] * (x.ndim - 2))
    np.testing.assert_allclose(got, np.where(x < 0, x * per_channel, x), rtol=1e-6)


def test_newer_slopes_stay(compiled: Callable[..., Path]) -> None:
    proto = model("[2,3,3]")
    before = proto.SerializeToString()
    update_slopes(proto, 7)
    assert proto.SerializeToString() == before


def test_a_slope_for_data_of_unknown_rank_is_refused() -> None:
    proto = model("[2,3,3]")
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match=r"`PRelu` \(node `y`\) of opset 6 reads .* unknown rank"):
        update_slopes(proto, 6)
