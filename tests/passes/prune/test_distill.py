"""A small model learns from a large one, keeps its zeros, and goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tvm
from builders import onnx_model
from tvm import IRModule
from virtual_machine import virtual_machine

from relaxc.errors import InputError, OptionError
from relaxc.frontend.importer import from_onnx
from relaxc.options import DistillOptions
from relaxc.passes.prune.augment import augmented
from relaxc.passes.prune.distill import Distillation, distill
from relaxc.passes.prune.products import products_of
from relaxc.passes.prune.prune_weights import PruneWeights, Unstructured
from relaxc.passes.prune.segments import Arrays, with_new_variables

RNG = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


MODEL = onnx_model(
    """g (float[n,3,6,6] x) => (float[n,5] y) {
        a = Conv<pads=[1,1,1,1]>(x, w)  b = Relu(a)  c = Conv<pads=[1,1,1,1]>(b, v)
        d = Add(b, c)  e = Relu(d)  f = GlobalAveragePool(e)  h = Flatten(f)  y = MatMul(h, u)
    }""",
    18,
    w=weight(8, 3, 3, 3),
    v=weight(8, 8, 3, 3),
    u=weight(8, 5),
)
SAMPLES: list[Arrays] = [[weight(4, 3, 6, 6)] for _ in range(10)]


def run(mod: IRModule, arguments: Iterable[Arrays]) -> Iterator[list[np.ndarray]]:
    vm = virtual_machine(mod)
    for arrays in arguments:
        results = vm["main"](*(tvm.runtime.tensor(np.asarray(a)) for a in arrays))
        yield [np.asarray(r.numpy()) for r in results]


def outputs(mod: IRModule) -> np.ndarray:
    vm = virtual_machine(mod)
    found = [vm["main"](tvm.runtime.tensor(np.asarray(s[0]))).numpy() for s in SAMPLES]
    return np.concatenate(found)


def pair() -> tuple[IRModule, IRModule]:
    dense = from_onnx(MODEL).mod
    return dense, with_new_variables(PruneWeights(Unstructured(0.5)).apply(dense))


def test_it_comes_closer_and_zeros_stay() -> None:
    dense, small = pair()
    trained = distill(dense, small, None, run, SAMPLES, Distillation(epochs=30, rate=0.02, batch=8))
    expected, before, after = map(outputs, (dense, small, trained))
    assert np.square(after - expected).mean() < 0.35 * np.square(before - expected).mean()
    for old, new in zip(products_of(small), products_of(trained), strict=True):
        assert not new.matrix()[old.matrix() == 0].any()
        assert (new.matrix() != old.matrix()).any()


def test_training_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    dense, small = pair()
    path = tmp_path / "state.npz"

    class Stop(Exception):
        pass

    def stop(text: str) -> None:
        if "distill 2/4" in text:
            raise Stop

    whole = distill(dense, small, None, run, SAMPLES, Distillation(4, 0.02, 8, ("flip", "mix")))
    again = Distillation(4, 0.02, 8, ("flip", "mix"), path)
    with pytest.raises(Stop):
        distill(dense, small, None, run, SAMPLES, again, stop)
    seen: list[str] = []
    resumed = distill(dense, small, None, run, SAMPLES, again, seen.append)
    assert sum("error" in text for text in seen) == 3  # epochs 2, 3 and 4
    for a, b in zip(products_of(whole), products_of(resumed), strict=True):
        np.testing.assert_allclose(a.matrix(), b.matrix(), rtol=1e-4, atol=1e-5)
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match="is not a checkpoint of relaxc"):
        distill(dense, small, None, run, SAMPLES, again)


def test_a_bad_rate_does_no_harm() -> None:
    dense, small = pair()
    same = distill(dense, small, None, run, SAMPLES, Distillation(epochs=1, rate=0.9))
    error = np.square(outputs(same) - outputs(dense)).mean()
    assert error <= 1.05 * np.square(outputs(small) - outputs(dense)).mean()


def test_samples_of_several_shapes_are_refused() -> None:
    dense, small = pair()
    samples = [SAMPLES[0], [weight(4, 3, 5, 6)]]
    with pytest.raises(OptionError, match="samples of one shape"):
        distill(dense, small, None, run, samples, Distillation())


def test_augmentation() -> None:
    image = np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8)
    batch = np.repeat(image, 64, axis=0)
    rng = np.random.default_rng(0)
    (flipped,) = augmented([batch], ["flip"], rng)
    kinds = {bytes(a.tobytes()) for a in flipped}
    assert kinds == {image.tobytes(), np.ascontiguousarray(image[..., ::-1]).tobytes()}
    (moved,) = augmented([batch], ["shift"], rng)
    assert moved.shape == batch.shape
    assert len({a.tobytes() for a in moved}) == 9
    mixed, words = augmented(
        [batch * RNG.random((64, 1, 1, 1), np.float32), np.arange(64)], ["mix"], rng
    )
    assert mixed.dtype == np.float32
    assert (words == np.arange(64)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "at least one epoch"),
        ({"learning_rate": 1.5}, "the learning rate is a share of a weight"),
        ({"augment": ("flop",)}, "unknown augmentation `flop`"),
    ],
)
def test_options_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        DistillOptions(**options)  # type: ignore[arg-type]
