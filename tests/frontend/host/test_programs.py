"""Models that the host runs in steps compute what ONNX Runtime computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import onnx_model
from onnx import helper

import relaxc
from relaxc.errors import InputError, ModelError, OptionError
from relaxc.frontend.host.operators import ALWAYS, ON_DEMAND
from relaxc.measure.check import CheckOptions, check
from relaxc.measure.feeds import make_feed
from relaxc.runtime.host import FUNCTIONS

Compiled = Callable[..., Path]

GROWING = """g (float[n,2] x, int64 count) => (float[m,2] all, float[k,2] rows) {
    yes = Constant <value = bool {1}> ()
    all, rows = Loop <body = b (int64 i, bool go, float[p,2] so_far)
            => (bool go_on, float[q,2] more, float[2] mean) {
        go_on = Identity (go)
        f = Cast <to = 1> (i)
        y = Add (x, f)
        more = Concat <axis = 0> (so_far, y)
        mean = ReduceMean <keepdims = 0, axes = [0]> (more)
    }> (count, yes, x)
}"""

UNTIL = """g (float[3] x) => (float[3] y, int64 steps) {
    none = Constant <value = int64 {9}> ()
    yes = Constant <value = bool {1}> ()
    zero = Constant <value = int64 {0}> ()
    limit = Constant <value = float {100}> ()
    y, steps = Loop <body = b (int64 i, bool go, float[3] s, int64 k)
            => (bool on, float[3] t, int64 next) {
        t = Mul (s, s)
        largest = ReduceMax <keepdims = 0> (t)
        on = Less (largest, limit)
        one = Constant <value = int64 {1}> ()
        next = Add (k, one)
    }> (none, yes, x, zero)
}"""

BRANCHES = """g (float[n] x) => (float[m] y) {
    zero = Constant <value = float {0}> ()
    total = ReduceSum <keepdims = 0> (x)
    is_positive = Greater (total, zero)
    y = If (is_positive) <
        then_branch = t () => (float[a] p) { p = Concat <axis = 0> (x, x) },
        else_branch = e () => (float[b] q) { q = Neg (x) }
    >
}"""

RECURRENCE = """g (float[t,b,3] x, float[b,3] start) => (float[b,3] last, float[b,t,3] all) {
    last, all = Scan <num_scan_inputs = 1, scan_input_directions = [1], scan_output_axes = [1],
            body = b (float[b,3] s, float[b,3] now) => (float[b,3] next, float[b,3] out) {
        half = Constant <value = float {0.5}> ()
        a = Mul (s, half)
        next = Add (a, now)
        out = Tanh (next)
    }> (start, x)
}"""

SEQUENCE = """g (float[n,4] x, int64[k] lengths) => (float[m,4] y, int64 count) {
    parts = SplitToSequence <axis = 0> (x, lengths)
    count = SequenceLength (parts)
    last = Constant <value = int64 {-1}> ()
    tail = SequenceAt (parts, last)
    double = Add (tail, tail)
    longer = SequenceInsert (parts, double)
    y = ConcatFromSequence <axis = 0> (longer)
}"""


def floats(values: list[float]) -> np.ndarray:
    return np.array(values, np.float32)


def integers(values: list[int]) -> np.ndarray:
    return np.array(values, np.int64)


def expected(model: onnx.ModelProto, feed: dict[str, Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    arrays = {name: np.asarray(value) for name, value in feed.items()}
    results: list[Any] = session.run(None, arrays)
    return results


def agree(model: onnx.ModelProto, path: Path, feed: dict[str, Any]) -> None:
    got = relaxc.load(path, threads=1).run(feed)
    for value, want in zip(model.graph.output, expected(model, feed)):
        assert got[value.name].dtype == want.dtype
        np.testing.assert_allclose(got[value.name], want, rtol=1e-5, atol=1e-6)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("graph", "feeds"),
    [
        (
            GROWING,
            [{"x": random(3, 2), "count": np.int64(4)}, {"x": random(1, 2), "count": np.int64(1)}],
        ),
        (UNTIL, [{"x": floats([1.1, 1.2, 1.3])}, {"x": floats([0.5, 20, 1])}]),
        (BRANCHES, [{"x": floats([1, 2])}, {"x": floats([-1, -2, -3])}]),
        (
            RECURRENCE,
            [
                {"x": random(5, 2, 3), "start": random(2, 3)},
                {"x": random(2, 1, 3), "start": random(1, 3)},
            ],
        ),
        (
            SEQUENCE,
            [
                {"x": random(5, 4), "lengths": integers([1, 4])},
                {"x": random(3, 4), "lengths": integers([2, 0, 1])},
            ],
        ),
    ],
    ids=["growing", "until", "branches", "recurrence", "sequence"],
)
def test_any_number_of_steps(compiled: Compiled, graph: str, feeds: list[dict[str, Any]]) -> None:
    model = onnx_model(graph, 17)
    path = compiled(model)
    for feed in feeds:
        agree(model, path, feed)


def test_no_iteration_at_all(compiled: Compiled) -> None:
    x = random(3, 2)
    got = relaxc.load(compiled(onnx_model(GROWING, 17))).run({"x": x, "count": np.int64(0)})
    np.testing.assert_array_equal(got["all"], x)
    assert got["rows"].shape == (0, 2)


def test_results_share_no_memory_with_inputs(compiled: Compiled) -> None:
    x = random(3, 2)
    got = relaxc.load(compiled(onnx_model(GROWING, 17))).run({"x": x, "count": np.int64(0)})
    assert not np.may_share_memory(got["all"], x)


def test_weights_are_read_inside_of_loops(compiled: Compiled) -> None:
    graph = """g (float[2,40] x, int64 count) => (float[2,40] y) {
        y = Loop <body = b (int64 i, bool go, float[2,40] s) => (bool on, float[2,40] t) {
            on = Identity (go)
            t = MatMul (s, w)
        }> (count, , x)
    }"""
    model = onnx_model(graph, 17, w=random(40, 40) / 8)
    agree(model, compiled(model), {"x": random(2, 40), "count": np.int64(3)})


def test_loops_and_branches_nest(compiled: Compiled) -> None:
    graph = """g (float[n] x, int64 count) => (float[n] y) {
        y = Loop <body = outer (int64 i, bool go, float[n] s) => (bool on, float[n] t) {
            on = Identity (go)
            two = Constant <value = int64 {2}> ()
            rest = Mod (i, two)
            is_odd = Cast <to = 9> (rest)
            t = If (is_odd) <
                then_branch = a () => (float[n] p) {
                    p = Loop <body = inner (int64 j, bool go2, float[n] u)
                            => (bool on2, float[n] v) {
                        on2 = Identity (go2)
                        f = Cast <to = 1> (j)
                        g = Mul (x, f)
                        v = Add (u, g)
                    }> (i, , s)
                },
                else_branch = e () => (float[n] q) { q = Neg (s) }
            >
        }> (count, , x)
    }"""
    model = onnx_model(graph, 17)
    agree(model, compiled(model), {"x": random(4), "count": np.int64(5)})


def test_sequences_and_optionals_at_the_border(compiled: Compiled) -> None:
    graph = """g (seq(float[n]) s, optional(float[2]) o) => (seq(float[n]) t, bool has) {
        has = OptionalHasElement (o)
        zero = Constant <value = int64 {0}> ()
        first = SequenceAt (s, zero)
        twice = Add (first, first)
        t = SequenceInsert (s, twice, zero)
    }"""
    model = relaxc.load(compiled(onnx_model(graph, 18)))
    assert [info.dtype for info in model.inputs] == ["sequence(float32)", "optional(float32)"]
    s = [floats([1, 2]), floats([3])]
    got = model.run({"s": s, "o": None})
    assert not got["has"]
    assert [item.tolist() for item in got["t"]] == [[2, 4], [1, 2], [3]]
    assert model.run({"s": s, "o": floats([1, 2])})["has"]
    with pytest.raises(InputError, match="input `s` must be a list of arrays"):
        model.run({"s": s[0]})
    with pytest.raises(InputError, match="input `s` must be float32, not float64"):
        model.run({"s": [np.zeros(2)]})


def test_strings(compiled: Compiled) -> None:
    graph = """g (string[n] words, string[1] tail) => (string[n] said, bool[n] is_word, int64[n] k)
    {
        said = StringConcat (words, tail)
        is_word = RegexFullMatch <pattern = "[a-z]+"> (words)
        sizes = Shape (words)
        one = Constant <value = int64 {1}> ()
        k = Expand (one, sizes)
    }"""
    feed = {"words": np.array(["one", "2"], object), "tail": np.array(["!"])}
    got = relaxc.load(compiled(onnx_model(graph, 20))).run(feed)
    assert got["said"].tolist() == ["one!", "2!"]
    assert got["is_word"].tolist() == [True, False]
    assert got["k"].tolist() == [1, 1]


def test_what_fails_is_named(compiled: Compiled) -> None:
    graph = """g (seq(float[n]) s, int64 at) => (float[n] y) {
        y = SequenceAt (s, at)
    }"""
    model = relaxc.load(compiled(onnx_model(graph, 18)))
    with pytest.raises(
        InputError, match=r"`SequenceAt` \(node `y`\) fails .*position 3 lies outside"
    ):
        model.run({"s": [floats([1])], "at": np.int64(3)})


def test_operators_of_strings_without_a_function_are_refused(compiled: Compiled) -> None:
    graph = "g (string[n] s) => (string[n] y) { i = Unique (s) y = Identity (i) }"
    with pytest.raises(ModelError, match="`Unique`.* of strings is not supported"):
        compiled(onnx_model(graph, 18))


def test_quantization_is_refused(compiled: Compiled) -> None:
    with pytest.raises(OptionError, match="host runs in steps; quantization is not supported"):
        compiled(
            onnx_model(UNTIL, 17), quantize=relaxc.options.QuantizeOptions(scheme="int8-weights")
        )


def test_random_numbers(compiled: Compiled) -> None:
    graph = """g (float[n] x) => (float[n] y, float[40,50] z, int32[1,2000] drawn) {
        y = RandomNormalLike <mean = 3.0, scale = 2.0, seed = 1.0> (x)
        z = RandomUniform <low = -1.0, high = 5.0, shape = [40, 50]> ()
        logits = Constant <value = float[1,3] {0.0, 0.6931472, -1000.0}> ()
        drawn = Multinomial <sample_size = 2000, dtype = 6> (logits)
    }"""
    path = compiled(onnx_model(graph, 17))
    feed = {"x": np.zeros(4000, np.float32)}
    model = relaxc.load(path)
    one, two, again = model.run(feed), model.run(feed), relaxc.load(path).run(feed)
    # Standard errors are 0.03, 0.04 and 0.01.
    assert abs(one["y"].mean() - 3) < 0.2 and abs(one["y"].std() - 2) < 0.15
    assert one["z"].min() >= -1 and one["z"].max() < 5 and abs(one["z"].mean() - 2) < 0.2
    assert abs((one["drawn"] == 1).mean() - 2 / 3) < 0.06 and one["drawn"].max() == 1
    assert (one["y"] == again["y"]).all() and (one["y"] != two["y"]).any()
    assert (one["z"] != again["z"]).any()


def test_every_operator_of_the_host_has_a_function() -> None:
    assert set(FUNCTIONS) == ALWAYS | ON_DEMAND


def test_a_model_without_tensors_needs_no_code(compiled: Compiled) -> None:
    node = helper.make_node("StringNormalizer", ["x"], ["y"], case_change_action="UPPER")
    kind = onnx.TensorProto.STRING
    values = [[helper.make_tensor_value_info(n, kind, [None])] for n in "xy"]
    model = helper.make_model(
        helper.make_graph([node], "g", *values), opset_imports=[helper.make_opsetid("", 18)]
    )
    loaded = relaxc.load(compiled(model))
    assert loaded(np.array(["ab", "c"])).tolist() == ["AB", "C"]
    assert not [name for name in loaded.manifest["members"] if name.startswith("lib/")]


def test_containers_are_neither_made_up_nor_compared(compiled: Compiled, tmp_path: Path) -> None:
    graph = "g (seq(float[n]) s) => (int64 y) { y = SequenceLength (s) }"
    path, source = compiled(onnx_model(graph, 18)), tmp_path / "m.onnx"
    onnx.save(onnx_model(graph, 18), source)
    with pytest.raises(OptionError, match="`s` is of type sequence.float32., which is not made up"):
        make_feed(relaxc.load(path).inputs, {})
    with pytest.raises(OptionError, match="only tensors of numbers are compared"):
        check(source, CheckOptions())
