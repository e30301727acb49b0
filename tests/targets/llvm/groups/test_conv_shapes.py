"""Convolutions of random shapes: each has a kernel, and ONNX Runtime's numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import onnx_model
from kernels import TARGETS, run_model


@dataclass(frozen=True)
class Case:
    """One convolution with random attributes."""

    model: onnx.ModelProto
    x: np.ndarray


def random_case(rng: np.random.Generator) -> Case:
    """Any rank, groups, strides, dilations, paddings, and a batch that may be open."""

    def number(low: int, high: int) -> int:
        return int(rng.integers(low, high + 1))

    rank, transposed = number(1, 3), rng.random() < 0.3
    axes = range(rank)
    groups = 1 if rng.random() < 0.4 else number(2, 9)
    depth, width = number(1, 17), number(1, 17)
    if rng.random() < 0.2:
        groups, depth, width = number(1, 40), 1, number(1, 2)
    kernel = [number(1, 4 if rank == 3 else 7) for _ in axes]
    stride, dilation = [number(1, 3) for _ in axes], [number(1, 2) for _ in axes]
    reach = [(k - 1) * d for k, d in zip(kernel, dilation)]
    pads = [[number(0, min(3, r)) for r in reach] for _ in range(2)]
    size = [number(1, (60, 24, 9)[rank - 1]) for _ in axes]
    if transposed:
        size = [max(s, 3) for s in size]
    else:  # the padded data hold the kernel, which alone may be larger than they are
        size = [max(s, r + 1 - a - b) for s, r, a, b in zip(size, reach, *pads)]
    extra = f", output_padding={[number(0, s - 1) for s in stride]}" if transposed else ""
    padding = f"pads={pads[0] + pads[1]}"
    if not transposed and rng.random() < 0.3:
        padding = f'auto_pad="{rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"])}"'
        size, dilation = [max(s, k) for s, k in zip(size, kernel)], [1] * rank
    ins, outs, batch = depth * groups, width * groups, number(1, 3)
    shape = (ins, width, *kernel) if transposed else (outs, depth, *kernel)
    name = "n" if rng.random() < 0.5 else batch
    model = onnx_model(
        f"""g (float[{name},{ins},{",".join(map(str, size))}] x)
            => (float[{",".join(f"y{i}" for i in range(rank + 2))}] y) {{
            a = {"ConvTranspose" if transposed else "Conv"} <strides={stride}, {padding},
                dilations={dilation}, kernel_shape={kernel}, group={groups}{extra}> (x, w, b)
            y = Relu (a)
        }}""",
        w=rng.standard_normal(shape).astype(np.float32),
        b=rng.standard_normal(outs).astype(np.float32),
    )
    return Case(model, rng.standard_normal((batch, ins, *size)).astype(np.float32))


def check_cases(seed: int, count: int, target: str) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        case = random_case(rng)
        session = onnxruntime.InferenceSession(case.model.SerializeToString())
        expected = session.run(None, {"x": case.x})[0]
        (actual,), kernels = run_model(case.model, {"x": case.x}, target)
        text = "; ".join(onnx.printer.to_text(node) for node in case.model.graph.node)
        assert any(name.startswith("conv2d_") for name in kernels), f"{kernels} {text}"
        assert actual.shape == expected.shape, text
        bound = 2e-5 * max(float(np.abs(expected).max()), 1e-6)
        assert np.abs(actual - expected).max() <= bound, text


@pytest.mark.parametrize(("seed", "target"), list(enumerate(TARGETS)))
def test_random_shapes(seed: int, target: str) -> None:
    check_cases(seed, 6, target)


@pytest.mark.long
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", range(2, 22))
def test_many_random_shapes(seed: int, target: str) -> None:
    check_cases(seed, 10, target)
