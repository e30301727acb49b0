"""Products whose weights have two zeros among every four neighbours, on sparse tensor cores."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from builders import onnx_model
from cubins import instructions, local_accesses, products
from emulation import BOUNDS, check_on_cpu, more, needs_emulation, random
from gpu import needs_cuda_compiler

from relaxc.frontend.importer import from_onnx
from relaxc.layout import Precision
from relaxc.passes.pipeline import default_passes
from relaxc.targets.cuda.groups import two_of_four
from relaxc.targets.cuda.kernels.launch import KernelSource, take_sources
from relaxc.targets.cuda.kernels.sparse_packing import has_two_of_four, pack_two_of_four
from relaxc.targets.cuda.kernels.tilings import Tiling
from relaxc.targets.cuda.machine import GPUS
from relaxc.targets.cuda.toolchain import find_compiler
from relaxc.targets.registry import backend_for

ALONE = Tiling(64, 128, 64, 128, 3, True, 1, 1, 1, is_sparse=True)
FOUR = Tiling(64, 128, 64, 128, 2, True, 1, 2, 2, is_sparse=True)
TEAMS = Tiling(32, 256, 32, 128, 3, True, 1, 2, 1, is_sparse=True)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of any size are worth it."""
    monkeypatch.setattr(two_of_four, "_LEAST_PRODUCTS", 1)


def pruned(depth: int, columns: int, seed: int = 0) -> np.ndarray:
    """Two of every four are zero; of some, three or all."""
    rng = np.random.default_rng(seed)
    fours = random(depth, columns, seed=seed).reshape(-1, 4, columns)
    order = np.argsort(np.abs(fours), axis=1)
    np.put_along_axis(fours, order[:, :2], 0, axis=1)
    return fours.reshape(depth, columns) * (rng.random((depth, columns)) > 0.1)


def sources(
    model: onnx.ModelProto, precision: Precision = "float16", arch: str = "sm_90"
) -> list[KernelSource]:
    backend = backend_for(f"cuda -arch={arch}").with_precision(precision)
    mod = from_onnx(model).mod
    for item in default_passes(backend.kernels, precision=precision):
        mod = item.apply(mod)
    return take_sources(mod)[1]


def is_sparse(model: onnx.ModelProto, *options: Any) -> bool:
    return any("_2of4" in source.name for source in sources(model, *options))


def product(rows: Any, weight: np.ndarray) -> onnx.ModelProto:
    depth, columns = weight.shape
    return onnx_model(
        f"""g (float[{rows},{depth}] x) => (float[{rows},{columns}] y) {{
            a = MatMul(x, w)  y = Relu(a) }}""",
        w=weight,
    )


@needs_emulation
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("precision", "tiling"),
    [("float16", FOUR), more("float16", ALONE), more("float16", TEAMS), more("bfloat16", ALONE)],
)
def test_products(monkeypatch: pytest.MonkeyPatch, precision: Precision, tiling: Tiling) -> None:
    monkeypatch.setitem(GPUS, "sm_90", replace(GPUS["sm_90"], multiprocessors=4))
    monkeypatch.setattr(two_of_four, "tiling_for", lambda *_args: tiling)
    model = onnx_model(
        """g (float[150,328] x, float[150,200] z) => (float[150,200] y) {
            a = MatMul(x, w)  b = Add(a, v)  c = Relu(b)  y = Add(c, z) }""",
        w=pruned(328, 200) / 8,
        v=random(200, seed=1),
    )
    assert is_sparse(model, precision)
    feed = {"x": random(150, 328, seed=2), "z": random(150, 200, seed=3)}
    check_on_cpu(model, feed, precision, kernels={"matmul"}, rtol=BOUNDS[precision])


@pytest.mark.usefixtures("small")
def test_which_products_leave_out_zeros() -> None:
    weight = pruned(64, 64)
    assert is_sparse(product(64, weight)) and is_sparse(product("n", weight))
    assert not is_sparse(product(4, weight))
    assert not is_sparse(product(64, random(64, 64)))
    assert not is_sparse(product(64, pruned(60, 64)))
    assert not is_sparse(product(64, pruned(64, 60)))
    for precision, arch in (("tf32", "sm_90"), ("float8", "sm_90"), ("float16", "sm_80")):
        assert not is_sparse(product(64, weight), precision, arch)


def test_small_products_stay_dense() -> None:
    assert not is_sparse(product(64, pruned(64, 64)))


@pytest.mark.usefixtures("small")
def test_pairs_are_two_products() -> None:
    def names(first: np.ndarray, second: np.ndarray) -> list[str]:
        model = onnx_model(
            """g (float[64,64] x) => (float[64,64] y) {
                a = MatMul(x, w1)  s = Sigmoid(a)  b = MatMul(x, w2)  y = Mul(s, b) }""",
            w1=first,
            w2=second,
        )
        return [source.name for source in sources(model) if "matmul" in source.name]

    assert len(names(pruned(64, 64), random(64, 64))) == 1
    both = names(pruned(64, 64), pruned(64, 64, seed=2))
    assert len(both) == 2 and all("_2of4" in name for name in both)


def test_any_matrix_comes_back() -> None:
    """What is packed says of every number where it belongs."""
    weight = pruned(200, 130).astype(np.float16)
    data = pack_two_of_four(weight.view(np.uint16), 256).reshape(2, -1)
    whole = np.zeros((256, 256), np.float16)
    for tile, stored in enumerate(data):
        numbers = stored[: 256 * 128].view(np.float16).reshape(256, 8, 8)
        words = stored[256 * 128 :].view(np.uint32).reshape(2, 4, 8, 4, 2, 2)
        for place in np.ndindex(2, 2, 4, 2, 8):  # team, 64 rows, warp, upper or lower, row
            team, half, warp, lower, row = place
            at = team * 128 + half * 64 + warp * 16 + lower * 8 + row
            column = team * 128 + (warp * 8 + row) * 4 + half * 2 + lower
            left = np.concatenate([numbers[at, chunk ^ at % 8] for chunk in range(8)])
            for four in range(32):
                step, inside = divmod(four, 8)
                thread = step % 2 * 2 + inside // 4
                word = int(words[team, warp, row, thread, half, step // 2])
                two = word >> (lower * 16 + inside % 4 * 4) & 15
                assert two & 3 < two >> 2
                for which, index in enumerate((two & 3, two >> 2)):
                    whole[tile * 128 + four * 4 + index, column] = left[four * 2 + which]
    np.testing.assert_array_equal(whole[:200, :130], weight)
    assert not whole[200:].any() and not whole[:, 130:].any()


@pytest.mark.parametrize(("zeros", "expected"), [(2, True), (1, False), (3, True)])
def test_patterns(zeros: int, expected: bool) -> None:
    weight = np.ones((8, 3), np.float32)
    weight[:zeros] = weight[4 : 4 + zeros] = 0
    assert has_two_of_four(weight) == expected
    assert not has_two_of_four(weight[:6])


@needs_cuda_compiler
@pytest.mark.usefixtures("small")
def test_sparse_tensor_cores_multiply() -> None:
    (source,) = (s for s in sources(product(4096, pruned(512, 2048))) if "_2of4" in s.name)
    cubin = find_compiler().compile(source.source, source.architecture("sm_90"))
    (counted,) = instructions(cubin).values()
    assert not local_accesses(counted)
    assert products(counted) == {"HGMMA"}
    assert re.search(r"wgmma\.mma_async\.sp\.sync\.aligned\.m64n\d+k32\.f32\.", source.source)
