"""Groups become kernels; concatenations are written in place and then cost nothing."""

from __future__ import annotations

import numpy as np
from builders import onnx_model
from kernels import check_model, run_model


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def test_dense_block_is_written_in_place() -> None:
    """Every concatenation extends the one before, as in a DenseNet."""
    model = onnx_model(
        """g (float[2,32,9,9] x) => (float[n,c,h,w] y) {
            a = Conv <kernel_shape=[1,1]> (x, w0)
            b = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (a, w1)
            c1 = Concat <axis=1> (a, b)
            r1 = Relu (c1)
            c = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (r1, w2)
            c2 = Concat <axis=1> (a, b, c)
            y = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (c2, w3)
        }""",
        w0=_random(32, 32, 1, 1),
        w1=_random(16, 32, 3, 3),
        w2=_random(16, 48, 3, 3),
        w3=_random(16, 64, 3, 3),
    )
    feed = {"x": _random(2, 32, 9, 9)}
    check_model(model, feed)
    _, kernels = run_model(model, feed)
    assert not {name for name in kernels if "concat" in name}


def test_an_input_and_a_repeated_tensor_are_copied() -> None:
    model = onnx_model(
        """g (float[1,16,5,5] x) => (float[n,c,h,w] y) {
            a = Relu (x)
            b = Concat <axis=1> (x, a, a)
            y = Conv <kernel_shape=[1,1]> (b, w)
        }""",
        w=_random(16, 48, 1, 1),
    )
    check_model(model, {"x": _random(1, 16, 5, 5)})


def test_branches_of_nested_concatenations() -> None:
    """An Inception block: a concatenation inside of another, and a pooling branch."""
    model = onnx_model(
        """g (float[1,32,8,8] x) => (float[n,c,h,w] y) {
            a = Conv <kernel_shape=[1,1]> (x, w)
            b = Conv <kernel_shape=[1,3], pads=[0,1,0,1]> (a, w13)
            c = Conv <kernel_shape=[3,1], pads=[1,0,1,0]> (a, w31)
            d = Concat <axis=1> (b, c)
            e = AveragePool <kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1> (x)
            f = Concat <axis=1> (a, d, e)
            y = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (f, v)
        }""",
        w=_random(16, 32, 1, 1),
        w13=_random(16, 16, 1, 3),
        w31=_random(16, 16, 3, 1),
        v=_random(16, 80, 3, 3),
    )
    check_model(model, {"x": _random(1, 32, 8, 8)})


def test_transposed_blocks_stay_channels_last() -> None:
    """A ConvNeXt block: depthwise, transpose, norm, products, transpose, residual."""
    model = onnx_model(
        """g (float[2,32,9,9] x) => (float[n,c,h,w] y) {
            a = Conv <kernel_shape=[7,7], pads=[3,3,3,3], group=32> (x, w)
            t = Transpose <perm=[0,2,3,1]> (a)
            n = LayerNormalization <axis=-1> (t, s, b)
            p = MatMul (n, u)
            g = Relu (p)
            q = MatMul (g, v)
            u4 = Transpose <perm=[0,3,1,2]> (q)
            m = Mul (u4, gamma)
            r = Add (m, x)
            y = Conv <kernel_shape=[2,2], strides=[2,2]> (r, z)
        }""",
        w=_random(32, 1, 7, 7),
        s=_random(32),
        b=_random(32) + 1,
        u=_random(32, 64),
        v=_random(64, 32),
        gamma=_random(32, 1, 1),
        z=_random(48, 32, 2, 2),
    )
    check_model(model, {"x": _random(2, 32, 9, 9)})
