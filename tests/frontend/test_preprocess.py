"""Images on the way into a model, against NumPy and ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import onnx_model

import relaxc
from relaxc.errors import OptionError
from relaxc.frontend.preprocess import add_preprocess, parse_preprocess
from relaxc.measure.check import CheckOptions, check

MODEL = "g (float[n,3,8,10] photo) => (float[n,3,8,10] y) { y = Relu (photo) }"
RNG = np.random.default_rng(0)


def compiled(tmp_path: Path, *words: str, model: str = MODEL) -> relaxc.Model:
    options = relaxc.CompileOptions(preprocess=words)
    relaxc.compile(onnx_model(model), tmp_path / "m.rxc", options)
    return relaxc.load(tmp_path / "m.rxc")


def test_bytes_as_a_camera_gives_them(tmp_path: Path) -> None:
    model = compiled(tmp_path, "image:scale=1/255,mean=.5:.4:.3,std=.2:.3:.4,channels=BGR")
    (info,) = model.inputs
    assert (info.name, info.dtype, info.shape) == ("photo", "uint8", ("n", 8, 10, 3))
    image = RNG.integers(0, 256, (2, 8, 10, 3)).astype(np.uint8)
    rgb = image[..., ::-1].astype(np.float64) / 255
    wanted = (rgb - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    expected = np.maximum(wanted, 0).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(model(image), expected, rtol=1e-5, atol=1e-5)


def test_nothing_but_a_mean(tmp_path: Path) -> None:
    model = compiled(tmp_path, "photo:dtype=float32,layout=NCHW,mean=2")
    image = RNG.standard_normal((1, 3, 8, 10)).astype(np.float32)
    np.testing.assert_allclose(model(image), np.maximum(image - 2, 0), rtol=1e-6)


def test_the_middle(tmp_path: Path) -> None:
    model = compiled(tmp_path, "image:size=11x15,crop")
    assert model.inputs[0].shape == ("n", 11, 15, 3)
    image = RNG.integers(0, 256, (1, 11, 15, 3)).astype(np.uint8)
    expected = image[:, 2:10, 2:12].transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(model(image), expected)


@pytest.mark.parametrize(
    "words",
    [
        "size=20x30,resize=9,crop",
        "size=20x30,resize=8x10,interpolation=nearest",
        "resize=8x10,antialias",
        "size=6x7,resize=12x16,interpolation=cubic,crop=8x10,scale=1/127.5,mean=1",
    ],
)
def test_resizing_as_onnxruntime_does(words: str, tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    onnx.save(onnx_model(MODEL), source)
    options = relaxc.CompileOptions(
        preprocess=(f"image:{words}",),
        input_shapes={} if "size=" in words else {"photo": (1, 21, 17, 3)},
    )
    relaxc.compile(source, tmp_path / "m.rxc", options)
    found = check(tmp_path / "m.rxc", CheckOptions(model=source))
    assert found.is_ok, found.outputs
    assert found.outputs[0].shape == (1, 3, 8, 10)


def test_readers_in_branches_see_the_prepared_image(tmp_path: Path) -> None:
    text = """g (float[1,1,2,2] x, bool c) => (float[1,1,2,2] y) {
        y = If (c) <then_branch = a () => (float[1,1,2,2] t) { t = Neg (x) },
                    else_branch = b () => (float[1,1,2,2] e) { e = Abs (x) }>
    }"""
    model = compiled(tmp_path, "x:scale=2", model=text)
    image = np.full((1, 2, 2, 1), 3, np.uint8)
    assert model.run({"x": image, "c": np.array(True)})["y"].min() == -6
    assert model.run({"x": image, "c": np.array(False)})["y"].min() == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image:resise=3", r"unknown word `resise=3` in preprocessing \(did you mean `resize`"),
        ("resize", "`resize` in preprocessing needs a value"),
        ("resize=3y4", r"cannot read `resize=3y4` in preprocessing: write `256` or `256x320`"),
        ("layout=CHWN", "cannot read `layout=CHWN` in preprocessing: it is none of NHWC, NCHW"),
        ("scale=1/0", "cannot read `scale=1/0` in preprocessing"),
        ("mean=nan", "cannot read `mean=nan` in preprocessing: it must be finite"),
        ("std=0", "cannot read `std=0` in preprocessing: it must be positive"),
        ("mean=.5,std=.5", r"the mean in preprocessing is that of images in \[0, 1\]"),
    ],
)
def test_words_that_make_no_sense(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_preprocess(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("foto:scale=1", r"given for `foto`, but the model's inputs are `photo`, `v` \(did you"),
        ("v:scale=1", r"input `v` is no image of floating-point numbers"),
        ("resize=5", "`resize` to a shorter side needs the size of the images"),
        ("crop", "`crop` in preprocessing needs to know the sizes"),
        ("size=4x4,crop", "cannot crop 8x10 out of 4x4"),
        ("scale=1,mean=1:2", "`mean` in preprocessing has 2 values, the input has 3 channels"),
    ],
)
def test_what_does_not_fit_the_model(text: str, message: str) -> None:
    graph = "g (float[n,3,8,10] photo, float[3] v) => (float[n,3,8,10] y) { y = Relu (photo) }"
    with pytest.raises(OptionError, match=message):
        add_preprocess(onnx_model(graph), ["photo", "v"], parse_preprocess(text))


def test_old_models_cannot_filter() -> None:
    with pytest.raises(OptionError, match="`antialias` in preprocessing needs opset 18"):
        add_preprocess(
            onnx_model(MODEL, opset=17), ["photo"], parse_preprocess("resize=8x10,antialias")
        )
