"""What the outputs do when a channel gets weaker, by differences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import tvm
from builders import onnx_model
from tvm import IRModule
from virtual_machine import virtual_machine

from relaxc.errors import OptionError
from relaxc.frontend.importer import from_onnx
from relaxc.passes.prune.dependency import dependencies
from relaxc.passes.prune.fisher import fisher_importance
from relaxc.passes.prune.masking import mask_channels
from relaxc.passes.prune.segments import Arrays

RNG = np.random.default_rng(0)
WEIGHTS = {
    "w": RNG.standard_normal((6, 3, 3, 3)).astype(np.float32),
    "u": RNG.standard_normal((5, 6, 1, 1)).astype(np.float32),
    "t": RNG.standard_normal((1, 6, 1, 1)).astype(np.float32),
    "v": RNG.standard_normal((5, 1)).astype(np.float32),
}
# The first six channels are read twice; what comes before nobody differentiates.
BODY = """z = Atan(x) a = Conv(z, w) k = Atan(a) b = Tanh(k) c = Conv(b, u) d = Sigmoid(c)
    e = GlobalAveragePool(d) f = Flatten(e) g = MatMul(f, v) h = Conv(b, t)
    i = GlobalAveragePool(h) j = Flatten(i) y = Add(g, j)"""


def run(mod: IRModule, arguments: Iterable[Arrays]) -> Iterator[list[np.ndarray]]:
    vm = virtual_machine(mod)
    for arrays in arguments:
        yield [r.numpy() for r in vm["main"](*map(tvm.runtime.tensor, arrays))]


def imported(body: str, batch: str = "1") -> IRModule:
    graph = f"g (float[{batch},3,5,5] x) => (float[] y) {{ {body} }}"
    return from_onnx(onnx_model(graph, 18, **WEIGHTS)).mod


@pytest.mark.parametrize("batch", ["1", "n"])
def test_of_one_output_the_score_is_the_slopes_mean_square(batch: str) -> None:
    mod = imported(BODY, batch)
    found = dependencies(mod)
    samples: list[Arrays] = [
        [RNG.standard_normal((1, 3, 5, 5)).astype(np.float32)] for _ in range(3)
    ]
    scores = fisher_importance(mod, found, run, samples)
    assert len(scores) == 11
    masked, step = mask_channels(mod, found), 1e-2

    def strengths(channel: int, strength: float) -> list[np.ndarray]:
        pairs = zip(masked.axes, masked.shapes)
        return [np.where(a == channel, strength, 1).reshape(s).astype("f4") for a, s in pairs]

    changed = [(c, strengths(c, 1 + way * step)) for c in scores for way in (1, -1)]
    feeds = [[*sample, *masks] for _, masks in changed for sample in samples]
    values = np.array([float(out.item()) for (out,) in run(masked.mod, feeds)]).reshape(-1, 2, 3)
    slopes = (values[:, 0] - values[:, 1]) / (2 * step)
    expected = (slopes**2).mean(1)
    np.testing.assert_allclose(list(scores.values()), expected, rtol=0.02, atol=1e-6)


def test_operators_without_a_derivative_are_named() -> None:
    mod = imported("a = Conv(x, w) b = Conv(a, u) c = Atan(b) d = Flatten(c) y = Tanh(d)")
    samples: list[Arrays] = [[np.zeros((1, 3, 5, 5), np.float32)]]
    with pytest.raises(
        OptionError, match="importance `fisher` needs the derivative of `relax.atan`"
    ):
        fisher_importance(mod, dependencies(mod), run, samples)
