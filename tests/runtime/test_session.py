"""Loading and calling artifacts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from builders import dense_model, onnx_model
from onnx import TensorProto, helper

import relaxc
from relaxc.errors import ArtifactError, InputError, OptionError
from relaxc.runtime.ffi import Object
from relaxc.runtime.tensors import aligned_empty, to_array

X = np.array([[1, -2, 3]], np.float32)


@pytest.fixture(scope="module")
def relu(relu_artifact: Path) -> relaxc.Model:
    return relaxc.load(relu_artifact)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> relaxc.Model:
    """A model with two inputs that share a symbol, and two outputs."""
    path = tmp_path_factory.mktemp("two") / "two.rxc"
    model = onnx_model(
        """g (float[n,3] x, int64[n] k) => (float[n,3] y, int64[n] z) {
            y = Relu(x) z = Add(k, k) }"""
    )
    relaxc.compile(model, path)
    return relaxc.load(path)


# Calling.


def test_one_output_comes_as_an_array(relu: relaxc.Model) -> None:
    assert relu(X).tolist() == [[1, 0, 3]]


def test_several_outputs_come_as_a_tuple(two: relaxc.Model) -> None:
    y, z = two(X, np.array([4]))
    assert (y.tolist(), z.tolist()) == ([[1, 0, 3]], [8])


def test_inputs_can_be_named(two: relaxc.Model) -> None:
    assert two(k=np.array([4]), x=X)[1].tolist() == [8]
    assert two.run({"x": X, "k": np.array([4])})["z"].tolist() == [8]


def test_inputs_and_outputs_are_described(two: relaxc.Model) -> None:
    assert [str(i) for i in two.inputs] == ["x: float32[n, 3]", "k: int64[n]"]
    assert [o.name for o in two.outputs] == ["y", "z"]


def test_a_symbolic_dimension_takes_any_size(relu: relaxc.Model) -> None:
    for size in (1, 2, 17, 0):
        assert relu(np.ones((size, 3), np.float32)).shape == (size, 3)


def test_results_of_earlier_calls_stay(relu: relaxc.Model) -> None:
    first = relu(X)
    relu(X * -1)
    assert first.tolist() == [[1, 0, 3]]


def test_results_outlive_the_model(relu_artifact: Path) -> None:
    result = relaxc.load(relu_artifact)(X)
    assert result.tolist() == [[1, 0, 3]]


# What is given.


def test_arrays_of_any_layout(relu: relaxc.Model) -> None:
    wide = np.arange(-12, 12, dtype=np.float32).reshape(4, 6)
    expected = np.maximum(wide[:, ::2], 0)
    np.testing.assert_array_equal(relu(wide[:, ::2]), expected)
    np.testing.assert_array_equal(relu(np.asfortranarray(wide[:, ::2])), expected)
    np.testing.assert_array_equal(relu(wide[::-1, ::2]), expected[::-1])


def test_misaligned_arrays(relu: relaxc.Model) -> None:
    raw = np.zeros(3 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(1, 3)
    raw[:] = X
    assert relu(raw).tolist() == [[1, 0, 3]]


def test_read_only_arrays_are_not_written_to(relu: relaxc.Model) -> None:
    frozen = X.copy()
    frozen.flags.writeable = False
    assert relu(frozen).tolist() == [[1, 0, 3]]
    assert frozen.tolist() == X.tolist()


def test_arrays_of_the_other_byte_order(relu: relaxc.Model) -> None:
    assert relu(X.astype(">f4")).tolist() == [[1, 0, 3]]


def test_lists_and_numbers(relu: relaxc.Model, compiled: Callable[..., Path]) -> None:
    assert relu([[1, -2.5, 3]]).tolist() == [[1, 0, 3]]
    scalar = relaxc.load(compiled(onnx_model("g (float x) => (float y) { y = Add(x, x) }")))
    assert scalar(1.5) == 3
    assert scalar(np.float32(2)) == 4


# What does not fit.


def test_sizes_that_no_memory_holds(compiled: Callable[..., Path]) -> None:
    graph = "g (float[1] x, int64[2] s) => (float[n,m] y) { y = Expand(x, s) }"
    model = relaxc.load(compiled(onnx_model(graph)))
    for sizes in ([1 << 33, 1 << 33], [-3, 1]):
        with pytest.raises(InputError, match="more memory than there is, or computes a negative"):
            model(np.ones(1, np.float32), np.array(sizes))


def test_a_part_that_is_cropped_to_less_than_nothing(compiled: Callable[..., Path]) -> None:
    graph = "g (float[n,8,m] x) => (float[a,b,c] y) { y = Pad(x, p, ) }"
    pads = np.array([2, -792633534417207294, 1, 0, 1, 2])
    model = relaxc.load(compiled(onnx_model(graph, p=pads)))
    with pytest.raises(InputError, match="more memory than there is, or computes a negative"):
        model(np.ones((2, 8, 3), np.float32))


def test_a_missing_input(two: relaxc.Model) -> None:
    with pytest.raises(InputError, match=r"input `k` is missing; it is k: int64\[n\]"):
        two(X)


def test_an_unknown_input(two: relaxc.Model) -> None:
    with pytest.raises(InputError, match=r"unknown input `xx` \(did you mean `x`\?\); .* `x`, `k`"):
        two.run({"xx": X})


def test_too_many_inputs(relu: relaxc.Model) -> None:
    with pytest.raises(InputError, match="the model takes 1 inputs, 2 were given"):
        relu(X, X)


def test_an_input_given_twice(relu: relaxc.Model) -> None:
    with pytest.raises(InputError, match="input `x` was given twice"):
        relu(X, x=X)


def test_another_dtype(relu: relaxc.Model) -> None:
    with pytest.raises(
        InputError, match=r"`x` must be float32, not float64; .*astype\('float32'\)"
    ):
        relu(X.astype(np.float64))


def test_another_rank(relu: relaxc.Model) -> None:
    with pytest.raises(InputError, match=r"`x` must have shape \[n, 3\], not \[3\]"):
        relu(X[0])


def test_another_dimension(relu: relaxc.Model) -> None:
    with pytest.raises(InputError, match=r"`x` must have shape \[n, 3\], not \[1, 4\]"):
        relu(np.zeros((1, 4), np.float32))


def test_inputs_that_disagree_on_a_symbol(two: relaxc.Model) -> None:
    with pytest.raises(InputError, match=r"`k` must have shape \[n\], not \[5\]; n is 1 already"):
        two(X, np.zeros(5, np.int64))


def test_a_list_that_would_lose_precision(compiled: Callable[..., Path]) -> None:
    model = relaxc.load(compiled(onnx_model("g (int64[2] x) => (int64[2] y) { y = Add(x, x) }")))
    assert model([1, 2]).tolist() == [2, 4]
    with pytest.raises(InputError, match="input `x` cannot be read"):
        model([1.5, 2])


def test_words(relu: relaxc.Model) -> None:
    with pytest.raises(InputError, match="input `x` cannot be read"):
        relu([["a", "b", "c"]])


def test_a_failed_call_costs_nothing(compiled: Callable[..., Path]) -> None:
    """Shapes that only the compiled code can refuse; its virtual machine serves later calls."""
    graph = """g (float[n,3] x) => (float[n,3] y) {
        s = Shape<start=0, end=1>(x)  zero = Constant<value_ints=[0]>()
        own = Slice(table, zero, s, zero)  y = Add(x, own) }"""
    model = relaxc.load(compiled(onnx_model(graph, table=np.ones((4, 3), np.float32))))
    (machine,) = model._idle
    for _ in range(3):
        with pytest.raises(InputError, match=r"fails on inputs of these shapes \(x \[5, 3\]\): "):
            model(np.ones((5, 3), np.float32))
        assert model(X).tolist() == [[2, -1, 4]]
    assert model._idle == [machine]


# Kinds of models.


@pytest.mark.parametrize(
    "name",
    ["float", "double", "float16", "bfloat16", "int8", "uint8", "int16", "int32", "int64"],
)
def test_every_dtype(compiled: Callable[..., Path], name: str) -> None:
    model = onnx_model(f"g ({name}[n,3] x) => ({name}[n,3] y) {{ y = Add(x, x) }}")
    dtype = helper.tensor_dtype_to_np_dtype(getattr(TensorProto, name.upper()))
    x = np.arange(6).reshape(2, 3).astype(dtype)
    y = relaxc.load(compiled(model))(x)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y.astype(float), 2 * x.astype(float))


def test_booleans(compiled: Callable[..., Path]) -> None:
    model = relaxc.load(compiled(onnx_model("g (bool[3] x) => (bool[3] y) { y = Not(x) }")))
    result = model(np.array([True, False, True]))
    assert result.dtype == bool
    assert result.tolist() == [False, True, False]


def test_a_model_without_inputs(compiled: Callable[..., Path]) -> None:
    graph = "g () => (float[2] y) { y = Add(c, c) }"
    model = relaxc.load(compiled(onnx_model(graph, c=np.ones(2, np.float32))))
    assert model().tolist() == [2, 2]


@pytest.fixture
def through(compiled: Callable[..., Path]) -> relaxc.Model:
    """Outputs: the input itself, a weight, a view of the input, and something computed."""
    graph = """g (float[2,3] x) => (float[2,3] a, float[600] w, float[6] v, float[2,3] y) {
        a = Identity(x)  v = Reshape(x, s)  y = Relu(x) }"""
    model = onnx_model(graph, w=np.ones(600, np.float32), s=np.array([6]))
    return relaxc.load(compiled(model))


def test_outputs_that_are_inputs_or_constants(through: relaxc.Model) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    a, w, v, y = through(x)
    np.testing.assert_array_equal(a, x)
    np.testing.assert_array_equal(v, x.reshape(-1))
    np.testing.assert_array_equal(w, np.ones(600))
    np.testing.assert_array_equal(y, x)


def test_writing_to_outputs_changes_neither_inputs_nor_weights(through: relaxc.Model) -> None:
    x = np.zeros((2, 3), np.float32)
    for output in through(x):
        output[:] = 7
    assert not x.any()
    assert through(x)[1].tolist() == [1] * 600


def test_a_large_aligned_input_is_not_copied(
    compiled: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `Identity` returns tells where compiled code found its input."""
    model = relaxc.load(compiled(onnx_model("g (float[n] x) => (float[n] y) { y = Identity(x) }")))
    seen: list[int] = []

    def spy(tensor: Object, dtype: np.dtype[np.generic]) -> np.ndarray:
        seen.append(tensor.dl_tensor.data)
        return to_array(tensor, dtype)

    monkeypatch.setattr("relaxc.runtime.runner.to_array", spy)
    large = aligned_empty((1 << 16,), np.dtype(np.float32))
    large[:] = np.arange(large.size)
    for x, is_copied in ((large, False), (large[1:], True), (large[::2], True), (large[:9], True)):
        y = model(x)
        np.testing.assert_array_equal(y, x)
        assert (seen.pop() != x.ctypes.data) == is_copied
        y[:] = -1  # nobody's but the caller's
        np.testing.assert_array_equal(x, model(x))
        seen.clear()


def test_an_input_of_zero_size(compiled: Callable[..., Path]) -> None:
    graph = "g (float[n,3] x, float[m,3] z) => (float[k,3] y) { y = Concat<axis=0>(x, z) }"
    model = relaxc.load(compiled(onnx_model(graph)))
    empty = np.zeros((0, 3), np.float32)
    np.testing.assert_array_equal(model(empty, X), X)
    assert model(empty, empty).shape == (0, 3)


def test_two_models_at_once(relu: relaxc.Model, two: relaxc.Model) -> None:
    assert relu(X).tolist() == [[1, 0, 3]]
    assert two(X, np.array([1]))[1].tolist() == [2]
    assert relu(X).tolist() == [[1, 0, 3]]


# Loading.


def test_an_unknown_device(relu_artifact: Path) -> None:
    with pytest.raises(OptionError, match="unknown device `cpuu`; use `cpu`, `cuda` or"):
        relaxc.load(relu_artifact, device="cpuu")


def test_less_than_one_thread(relu_artifact: Path) -> None:
    with pytest.raises(OptionError, match="threads must be at least 1, not 0"):
        relaxc.load(relu_artifact, threads=0)


def test_a_missing_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        relaxc.load(tmp_path / "nosuch.rxc")


# ONNX Runtime's interface.


def test_a_session_is_a_drop_in(tmp_path: Path) -> None:
    model = dense_model(4, 300)
    relaxc.compile(model, tmp_path / "a.rxc")
    session = relaxc.InferenceSession(tmp_path / "a.rxc")
    (x,) = session.get_inputs()
    assert (x.name, x.type, x.shape) == ("x", "tensor(float)", ["n", 4])
    (y,) = session.get_outputs()
    assert (y.name, y.type, y.shape) == ("y", "tensor(float)", ["n", 300])
    feed = {"x": np.ones((2, 4), np.float32)}
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0])
    (result,) = session.run(None, feed)
    np.testing.assert_allclose(result, feed["x"] @ weight, rtol=1e-5, atol=1e-5)
    assert len(session.run(["y"], feed)) == 1
    with pytest.raises(InputError, match=r"unknown output `yy` \(did you mean `y`\?\)"):
        session.run(["yy"], feed)


def test_narrow_types_go_in_and_out(compiled: Callable[..., Path]) -> None:
    graph = "g (float8e5m2[n] x) => (float8e5m2[n] y) { y = Identity(x) }"
    model = relaxc.load(compiled(onnx_model(graph, 21)), threads=1)
    x = np.array([1.5, -2, 448], ml_dtypes.float8_e5m2)
    y = model(x)
    assert y.dtype == x.dtype and (y == x).all()
