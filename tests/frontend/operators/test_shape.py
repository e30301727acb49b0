"""Operators that take shapes, sizes or positions as tensors, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import onnx_model

import relaxc
from relaxc.errors import InputError, UnsupportedOpError
from relaxc.frontend.importer import from_onnx


def agree(model: onnx.ModelProto, path: Path, **feed: np.ndarray) -> None:
    relaxc.compile(model, path)
    ours = relaxc.load(path).run(feed)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    theirs = dict(zip((o.name for o in session.get_outputs()), session.run(None, feed)))
    for name, expected in theirs.items():
        assert ours[name].dtype == expected.dtype
        np.testing.assert_allclose(ours[name], expected, rtol=1e-5, atol=1e-6)


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_reshape_with_symbolic_parts(tmp_path: Path) -> None:
    model = onnx_model(
        """g (float[n,2,m] x) => (float[a,b] y, float[c,d,e] z) {
            s = Shape(x)  zero = Constant<value_ints=[0]>()  two = Constant<value_ints=[2]>()
            n = Gather(s, zero)  m = Gather(s, two)  minus = Constant<value_ints=[-1]>()
            t = Concat<axis=0>(m, minus)  y = Reshape(x, t)
            keep = Constant<value_ints=[0, -1, 1]>()  z = Reshape(x, keep)
        }"""
    )
    agree(model, tmp_path / "a.rxc", x=floats(3, 2, 5))


def test_reshape_of_nothing_with_allowzero(tmp_path: Path) -> None:
    model = onnx_model(
        "g (float[0,3] x) => (float[3,0] y) { y = Reshape<allowzero=1>(x, s) }",
        s=np.array([3, 0]),
    )
    agree(model, tmp_path / "a.rxc", x=floats(0, 3))


def test_expand_to_the_shape_of_another_tensor(tmp_path: Path) -> None:
    model = onnx_model(
        "g (float[1,3] x, float[n,3] like) => (float[n,3] y) { s = Shape(like) y = Expand(x, s) }"
    )
    agree(model, tmp_path / "a.rxc", x=floats(1, 3), like=floats(4, 3))


def test_expand_keeps_larger_dimensions(tmp_path: Path) -> None:
    model = onnx_model(
        "g (float[4,3] x) => (float[2,4,3] y) { y = Expand(x, s) }", s=np.array([2, 1, 3])
    )
    agree(model, tmp_path / "a.rxc", x=floats(4, 3))


def test_constant_of_a_symbolic_shape(tmp_path: Path) -> None:
    model = onnx_model(
        "g (float[n,3] x) => (float[n,3] y) { s = Shape(x) c = ConstantOfShape(s) y = Add(x, c) }"
    )
    agree(model, tmp_path / "a.rxc", x=floats(4, 3))


def test_a_range_up_to_a_dimension(tmp_path: Path) -> None:
    model = onnx_model(
        """g (float[n] x) => (int64[n] y) {
            s = Shape(x)  end = Squeeze(s)
            zero = Constant<value_int=0>()  one = Constant<value_int=1>()
            y = Range(zero, end, one)
        }"""
    )
    agree(model, tmp_path / "a.rxc", x=floats(6))


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ([1], [1 << 62], [1], [1]),
        ([-2], [1 << 40], [0], [1]),
        ([-1], [-(1 << 62)], [1], [-1]),
        ([0, 1], [-1, 100], [0, 1], [2, 3]),
        ([5], [2], [1], [-2]),
        ([5, 3], [0, 0], [1, 0], [-3, -1]),
        ([2], [5], [1], [-1]),
        ([5], [2], [1], [1]),
        ([0], [0], [0], [1]),
        # Of nothing: bounds that cross, at any size of the symbolic dimension.
        ([3], [-(1 << 31)], [0], [1]),
        ([3], [-2], [0], [1]),
        ([-9], [-(1 << 31)], [1], [-2]),
    ],
)
def test_slices(
    tmp_path: Path, starts: list[int], ends: list[int], axes: list[int], steps: list[int]
) -> None:
    model = onnx_model(
        "g (float[n,7] x) => (float[a,b] y) { y = Slice(x, starts, ends, axes, steps) }",
        starts=np.array(starts),
        ends=np.array(ends),
        axes=np.array(axes),
        steps=np.array(steps),
    )
    agree(model, tmp_path / "a.rxc", x=floats(4, 7))


def test_a_slice_up_to_another_dimension(tmp_path: Path) -> None:
    model = onnx_model(
        """g (float[n,7] x, float[m] like) => (float[n,m] y) {
            end = Shape(like)  zero = Constant<value_ints=[0]>()  one = Constant<value_ints=[1]>()
            y = Slice(x, zero, end, one)
        }"""
    )
    agree(model, tmp_path / "a.rxc", x=floats(2, 7), like=floats(3))


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("graph", "feed"),
    [
        (
            "g (float[n,3] x, int64[2] s) => (float[a,b] y) { y = Reshape(x, s) }",
            {"x": floats(4, 3), "s": numbers(2, 6)},
        ),
        (
            "g (float[n,3] x, int64[3] s) => (float[a,b,c] y) { y = Reshape(x, s) }",
            {"x": floats(4, 3), "s": numbers(-1, 0, 2)},
        ),
        (
            "g (float[n,1] x, int64[3] s) => (float[a,b,c] y) { y = Expand(x, s) }",
            {"x": floats(4, 1), "s": numbers(2, 1, 5)},
        ),
        ("g (int64[2] s) => (float[a,b] y) { y = ConstantOfShape(s) }", {"s": numbers(3, 0)}),
        (
            "g (int64 s, int64 e, int64 d) => (int64[n] y) { y = Range(s, e, d) }",
            {"s": np.array(9), "e": np.array(-2), "d": np.array(-3)},
        ),
        (
            "g (float[n,6] x, int64[2] s, int64[2] e, int64[2] a, int64[2] d) => (float[o,p] y)"
            "{ y = Slice(x, s, e, a, d) }",
            {
                "x": floats(4, 6),
                "s": numbers(-1, 0),
                "e": numbers(-100, 9),
                "a": numbers(-1, 0),
                "d": numbers(-2, 3),
            },
        ),
    ],
)
def test_shapes_computed_from_data(graph: str, feed: dict[str, np.ndarray], tmp_path: Path) -> None:
    agree(onnx_model(graph), tmp_path / "a.rxc", **feed)


def test_a_shape_of_unknown_length_is_refused() -> None:
    model = onnx_model("g (float[6] x, int64[k] s) => (float[a,b] y) { y = Reshape(x, s) }")
    with pytest.raises(UnsupportedOpError, match="known length"):
        from_onnx(model)


def test_squeeze_of_a_symbolic_dimension_is_checked_at_run_time(tmp_path: Path) -> None:
    model = onnx_model(
        """g (float[n,3] x) => (float[a] y) {
            axes = Constant<value_ints=[0]>()
            y = Squeeze(x, axes)
        }"""
    )
    path = tmp_path / "a.rxc"
    agree(model, path, x=floats(1, 3))
    with pytest.raises(InputError, match="shapes"):
        relaxc.load(path).run({"x": floats(2, 3)})


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_padding_by_nothing_computes_nothing(tmp_path: Path, mode: str) -> None:
    model = onnx_model(
        f'g (float[n,3] x) => (float[n,3] y, float[n,3] z) {{ y = Pad<mode="{mode}">(x, zeros)'
        f'  s = Abs(x)  z = Pad<mode="{mode}">(s, zeros) }}',
        zeros=np.zeros(4, np.int64),
    )
    assert "pad" not in from_onnx(model).mod["main"].script()
    agree(model, tmp_path / "a.rxc", x=floats(2, 3))


def test_borders_of_known_width_have_known_sizes(tmp_path: Path) -> None:
    # Whatever computes the pads from constants; PyTorch reverses and transposes them.
    model = onnx_model(
        """g (float[n,3,9,20] x, int64[n,4] k) => (float[a,b,c,d] reflected,
                float[e,f,h,i] repeated, float[j,l,m,o] wrapped, float[p,q,r,s] cropped,
                float[t,u,v,w] mixed, int64[z,y] last) {
            pairs = Reshape(pads, two)  pads64 = Reshape(pairs, flat)
            reflected = Pad<mode="reflect">(x, pads64)
            repeated = Pad<mode="edge">(x, around)
            wrapped = Pad<mode="wrap">(x, pads64)
            cropped = Pad(x, crops)
            mixed = Pad<mode="reflect">(x, crops)
            last = Pad<mode="edge">(k, one, , axis)
        }""",
        pads=np.array([0, 0, 3, 2, 0, 0, 1, 17]),
        two=np.array([-1, 2]),
        flat=np.array([-1]),
        around=np.array([0, 1, 2, 0, 0, 2, 0, 3]),
        crops=np.array([0, 0, -2, 3, 0, 0, 1, -4]),
        one=np.array([1, 2]),
        axis=np.array([-1]),
        opset=19,
    )
    mod = from_onnx(model).mod
    assert "pad_amounts" not in mod["main"].script()
    sizes = [[int(d) for d in field.shape.values[1:]] for field in mod["main"].ret_ty.fields]
    assert sizes[0] == sizes[2] == [3, 13, 39]
    assert sizes[3] == sizes[4] == [3, 8, 19]
    feed = {"x": floats(2, 3, 9, 20), "k": np.arange(8).reshape(2, 4)}
    agree(model, tmp_path / "a.rxc", **feed)
