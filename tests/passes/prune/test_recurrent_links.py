"""Units of recurrent layers go from every gate, direction and state at once."""

from __future__ import annotations

import numpy as np
import pytest
from builders import onnx_model
from prune_reference import check_removal, masked, run
from tvm import IRModule

from relaxc.frontend.importer import from_onnx
from relaxc.passes.canonicalize.fold_constant import FoldConstant
from relaxc.passes.prune.dependency import dependencies
from relaxc.passes.prune.masking import mask_channels

RNG = np.random.default_rng(0)
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
STEPS, BATCH, WIDTH, HIDDEN = 5, 2, 4, 6
BOTH = "direction='bidirectional'"


def weight(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.7).astype(np.float32)


def layer(
    op: str, attrs: str = "", more: str = "", batch: object = BATCH, **extra: np.ndarray
) -> IRModule:
    """A recurrent layer between its input and a product that reads all directions."""
    directions, gates = 2 if "bidirectional" in attrs else 1, GATES[op]
    both = directions * HIDDEN
    weights = {
        "w": weight(directions, gates * HIDDEN, WIDTH),
        "r": weight(directions, gates * HIDDEN, HIDDEN),
        "b": weight(directions, 2 * gates * HIDDEN),
        "v": weight(both, 3),
        "shape": np.array([0, 0, both]),
        **extra,
    }
    attrs = f"hidden_size={HIDDEN}" + f", {attrs}".replace("'", '"') * bool(attrs)
    graph = f"""g (float[{STEPS},{batch},{WIDTH}] x) => (float[{STEPS},{batch},3] z) {{
        y = {op}<{attrs}>(x, w, r, b{more})
        t = Transpose<perm=[0,2,1,3]>(y)  m = Reshape(t, shape)  z = MatMul(m, v)
    }}"""
    return FoldConstant().apply(from_onnx(onnx_model(graph, 18, **weights)).mod)


STATES = {"h0": weight(2, BATCH, HIDDEN), "c0": weight(2, BATCH, HIDDEN)}
LENGTHS = np.array([3, 5], np.int32)
CASES = {
    "rnn": lambda: layer("RNN", "activations=['HardSigmoid'], activation_alpha=[0.4]"),
    "gru": lambda: layer("GRU"),
    "gru of both directions, reset behind the product": lambda: layer(
        "GRU", BOTH + ", linear_before_reset=1"
    ),
    "lstm": lambda: layer("LSTM"),
    "lstm of many sequences, backward": lambda: layer("LSTM", "direction='reverse'", batch="n"),
    "lstm of both directions": lambda: layer("LSTM", BOTH, ",,h0,c0", **STATES),
    "lstm with peepholes, lengths and bounds": lambda: layer(
        "LSTM", BOTH + ", clip=0.9", ",l,h0,c0,p", l=LENGTHS, p=weight(2, 3 * HIDDEN), **STATES
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_fewer_units_equal_unread_ones(name: str) -> None:
    mod = CASES[name]()
    (group,) = dependencies(mod).groups
    assert len(group.channels) == HIDDEN
    small = check_removal(mod, weight(STEPS, BATCH, WIDTH))
    assert f", {HIDDEN // 2}), dtype" in small.script()


def test_a_tagger_loses_units_and_embeddings() -> None:
    graph = """g (int64[5,2] x) => (float[5,2,3] z) {
        e = Gather(table, x)
        y, h = LSTM<hidden_size=6>(e, w, r)  s = Squeeze(y, one)
        t, last = GRU<hidden_size=4>(s, w2, r2)  u = Squeeze(t, one)
        a = MatMul(u, v)  b = MatMul(h, v2)  z = Add(a, b)
    }"""
    weights = {"table": weight(9, 8), "w": weight(1, 24, 8), "r": weight(1, 24, 6)}
    weights |= {"w2": weight(1, 12, 6), "r2": weight(1, 12, 4)}
    weights |= {"v": weight(4, 3), "v2": weight(6, 3), "one": np.array([1])}
    mod = FoldConstant().apply(from_onnx(onnx_model(graph, 18, **weights)).mod)
    assert sorted(len(g.channels) for g in dependencies(mod).groups) == [4, 6, 8]
    check_removal(mod, RNG.integers(0, 9, (5, 2)))


def test_states_that_are_outputs_stay() -> None:
    graph = """g (float[5,2,4] x) => (float[1,2,6] h) {
        y, h = LSTM<hidden_size=6>(x, w, r)
    }"""
    mod = from_onnx(onnx_model(graph, 18, w=weight(1, 24, 4), r=weight(1, 24, 6))).mod
    assert not dependencies(mod).groups


@pytest.mark.parametrize("name", ["gru", "lstm of both directions"])
def test_masks_do_what_zeros_in_weights_do(name: str) -> None:
    mod = CASES[name]()
    found = dependencies(mod)
    result = mask_channels(mod, found)
    x, removed = weight(STEPS, BATCH, WIDTH), found.groups[0].channels[::2]
    expected = run(masked(mod, found, removed), x)
    np.testing.assert_allclose(
        run(result.mod, x, *result.masks(removed)), expected, rtol=1e-5, atol=1e-5
    )
    assert np.abs(run(mod, x) - expected).max() > 1e-3


def test_a_squeeze_beside_a_symbol_keeps_units_apart() -> None:
    graph = """g (float[t,n,4] x) => (float[t,n,3] z) {
        y = GRU<hidden_size=6>(x, w, r)  s = Squeeze(y, one)  z = MatMul(s, v)
    }"""
    weights = {"w": weight(1, 18, 4), "r": weight(1, 18, 6), "v": weight(6, 3)}
    model = onnx_model(graph, 18, one=np.array([1]), **weights)
    mod = FoldConstant().apply(from_onnx(model).mod)
    check_removal(mod, weight(STEPS, BATCH, WIDTH))
    assert [len(g.channels) for g in dependencies(mod).groups] == [6]
