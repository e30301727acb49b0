"""Which operators get which kernel, and what becomes of it; no GPU needed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import tvm
from builders import conv_model, dense_model, onnx_model, quantized_model
from cubins import instructions, local_accesses, products
from emulation import more
from gpu import needs_cuda_compiler

from relaxc.errors import OptionError
from relaxc.frontend.importer import from_onnx
from relaxc.layout import Precision
from relaxc.passes.pipeline import default_passes
from relaxc.targets.cuda.check_indices import check_indices
from relaxc.targets.cuda.groups.base import Context
from relaxc.targets.cuda.groups.joint_attention import JointTiling
from relaxc.targets.cuda.kernels import tilings
from relaxc.targets.cuda.kernels.byte_epilogue import Rescale
from relaxc.targets.cuda.kernels.frame import as_element
from relaxc.targets.cuda.kernels.launch import take_sources
from relaxc.targets.cuda.machine import GPUS
from relaxc.targets.cuda.toolchain import find_compiler
from relaxc.targets.registry import backend_for

PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "float16", "bfloat16")


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def attention_model() -> onnx.ModelProto:
    return onnx_model(
        """g (float[2,70,96] x, float[2,1,1,70] mask) => (float[2,70,96] y) {
            q0 = MatMul(x, w)  q1 = Reshape(q0, s)  q = Transpose<perm=[0,2,1,3]>(q1)
            k0 = MatMul(x, w)  k1 = Reshape(k0, s)  k = Transpose<perm=[0,2,3,1]>(k1)
            a = MatMul(q, k)  b = Mul(a, c)  m = Add(b, mask)  p = Softmax<axis=-1>(m)
            o = MatMul(p, q)  o1 = Transpose<perm=[0,2,1,3]>(o)  y = Reshape(o1, s2)
        }""",
        w=random(96, 96),
        c=np.array(0.25, np.float32),
        s=np.array([0, 0, 6, 16]),
        s2=np.array([0, 0, 96]),
    )


def lowered(
    model: onnx.ModelProto, precision: Precision = "float32", arch: str = "sm_90"
) -> tvm.IRModule:
    backend = backend_for(f"cuda -arch={arch}").with_precision(precision)
    mod = from_onnx(model).mod
    for item in default_passes(backend.kernels, precision=precision):
        mod = item.apply(mod)
    return mod


def kernels(mod: tvm.IRModule) -> set[str]:
    return {
        gvar.name_hint.rstrip("0123456789")
        for gvar, func in mod.functions_items()
        if isinstance(func, tvm.tirx.PrimFunc)
    }


@pytest.mark.parametrize("precision", PRECISIONS)
def test_convolutions_products_and_attention_have_kernels(precision: Precision) -> None:
    assert "conv2d" in kernels(lowered(conv_model(), precision))
    assert "matmul" in kernels(lowered(dense_model(), precision))
    assert {"attention", "matmul"} <= kernels(lowered(attention_model(), precision))


def test_older_gpus_get_the_default_schedules() -> None:
    mod = lowered(conv_model(), arch="sm_75")
    assert take_sources(mod)[1] == []


def test_older_gpus_have_one_precision() -> None:
    with pytest.raises(OptionError, match="`float16` needs a GPU of sm_80 or newer, not `sm_75`"):
        backend_for("cuda -arch=sm_75").with_precision("float16")


def test_equal_layers_share_their_code() -> None:
    model = onnx_model(
        "g (float[64,64] x) => (float[64,64] y) { a = MatMul(x, w)  y = MatMul(a, w) }",
        w=random(64, 64),
    )
    assert len(take_sources(lowered(model))[1]) == 1


def test_values_as_they_are_stored() -> None:
    values = np.array([1.0, 1.0 + 2**-8, 1.0 + 3 * 2**-8, -3.5], np.float32)
    assert as_element(values, "float16").dtype == np.float16
    # Ties go to the even neighbour.
    expected = np.array([1.0, 1.0, 1.0 + 2**-6, -3.5], np.float32)
    bits = as_element(values, "bfloat16").astype(np.uint32) << 16
    np.testing.assert_array_equal(bits.view(np.float32), expected)


@needs_cuda_compiler
@pytest.mark.parametrize("precision", ["float16", "float32", *map(more, ("tf32", "bfloat16"))])
def test_kernels_spill_no_registers(precision: Precision, tmp_path: Path) -> None:
    wide = onnx_model(
        "g (float[4096,512] x) => (float[4096,2048] y) { a = MatMul(x, w)  y = Relu(a) }",
        w=random(512, 2048),
    )
    few = onnx_model(
        """g (float[1,512] x) => (float[1,512] y) {
            h = LayerNormalization<axis=-1>(x, v)  a = MatMul(h, w1)  s = Sigmoid(a)
            b = MatMul(h, w2)  y = Mul(s, b)
        }""",
        v=random(512),
        w1=random(512, 512),
        w2=random(512, 512),
    )
    patches = onnx_model(
        "g (float[8,64,56,56] x) => (float[8,64,h,w] y) { y = Conv<pads=[1,1,1,1]>(x, w) }",
        w=random(64, 64, 3, 3),
    )
    heads = onnx_model(
        """g (float[1,1024,1152] x) => (float[1,9,1024,128] y) {
            h = MatMul(x, w)  r = Reshape(h, s)  q = Transpose<perm=[0,2,1,3]>(r)
            k = Transpose<perm=[0,2,3,1]>(r)  a = MatMul(q, k)  b = Mul(a, c)
            p = Softmax<axis=-1>(b)  y = MatMul(p, q)
        }""",
        w=random(1152, 1152),
        c=np.array(0.25, np.float32),
        s=np.array([0, 0, 9, 128]),
    )
    models = [wide, patches]
    if precision != "float32":  # whose other kernels are as those of TF32
        models += [attention_model(), few, heads]
    sources = [s for m in models for s in take_sources(lowered(m, precision))[1]]
    assert len(sources) >= 2
    for source in sources:
        arch = source.architecture("sm_90")
        (counted,) = instructions(find_compiler().compile(source.source, arch)).values()
        assert not local_accesses(counted), source.name
        if source.name.split("_")[0] in ("convert", "matvec"):  # nothing for tensor cores
            continue
        assert products(counted) == {"HGMMA" if arch == "sm_90a" else "HMMA"}, source.name
        if shutil.which("nvcc") is not None:
            check_order(source.source, arch, tmp_path)
    joint = [source for source in sources if source.architecture("sm_90") == "sm_90a"]
    assert any("define A_IS_PATCHES" in source.source for source in joint)
    has_joint_attention = any("WGMMA_VALUES asm" in source.source for source in joint)
    assert has_joint_attention == (precision in ("float16", "bfloat16"))


def check_order(source: str, arch: str, folder: Path) -> None:
    """Nothing but weights is read before what others write is there."""
    Path(folder, "kernel.cu").write_text(source)
    command = ["nvcc", "-ptx", f"-arch={arch}", "-std=c++17", "-o", "kernel.ptx", "kernel.cu"]
    subprocess.run(command, cwd=folder, check=True)
    before, _, after = Path(folder, "kernel.ptx").read_text().partition("griddepcontrol.wait")
    assert after and "ld.global" not in before and "cp.async.bulk.tensor" not in before


def test_products_in_float32_are_streamed_where_there_are_many_rows() -> None:
    sizes = (4096, 4096, 4096, 1)
    chosen = tilings.choose_tiling(*sizes, GPUS["sm_90"], "float32", packed=True, is_fetched=True)
    assert chosen.has_rests and chosen.is_streamed
    # Sums of a tile and of all, and what is left of the data, must fit into registers.
    found = tilings.ranked_tilings(*sizes, GPUS["sm_90"], "float32", packed=True, is_fetched=False)
    widest = max(t.warp_columns for t in found if t.has_rests and t.teams > 1)
    assert widest == 160
    other = tilings.choose_tiling(*sizes, GPUS["sm_100"], "float32", packed=True, is_fetched=True)
    assert not other.is_joint


def test_tilings_that_were_measured_are_chosen() -> None:
    gpu = GPUS["sm_90"]
    chosen = tilings.choose_tiling(1024, 3072, 768, 1, gpu, "float16", packed=True)
    assert (chosen.rows, chosen.columns, chosen.is_streamed) == (128, 192, True)
    other = tilings.choose_tiling(1024, 3072, 768, 1, GPUS["sm_80"], "float16", packed=True)
    assert not other.is_joint and other.split == 1


@pytest.mark.parametrize("rows", [1, 64, 1000, None])
def test_any_product_has_a_tiling(rows: int | None) -> None:
    for name, gpu in GPUS.items():
        for mode in PRECISIONS:
            tiling = tilings.choose_tiling(rows, 77, 300, 3, gpu, mode, packed=False)
            assert tiling.shared_bytes <= gpu.shared_bytes, name
            assert not tiling.is_joint and tiling.split == 1  # rows of 77 are no whole vectors


def test_indices_are_checked_on_the_gpu() -> None:
    model = onnx_model("g (int64[n] i) => (float[n,8] y) { y = Gather(w, i) }", w=random(10, 8))
    mod = check_indices(lowered(model))
    (source,) = take_sources(mod)[1]
    assert "an index is out of range of axis 0, which has 10 elements" in source.source
    assert "__trap" in source.source


def body_of(chain: str, size: float) -> str:
    """The kernel of a product of bytes, then `chain` from `a` to `r`, which another one reads."""
    model = quantized_model(
        f"""g (float[64,96] x, float[64,40] z) => (float[64,24] y) {{
            q = QuantizeLinear(x, scale, zero)  d = DequantizeLinear(q, scale, zero)
            q2 = QuantizeLinear(z, scale, zero)  d2 = DequantizeLinear(q2, scale, zero)
            w1=  a = MatMul(d, w1)  {chain}
            q3 = QuantizeLinear(r, scale2, zero2)  d3 = DequantizeLinear(q3, scale2, zero2)
            w2=  y = MatMul(d3, w2)
        }}""",
        w1=random(96, 40) * size,
        w2=random(40, 24),
        v=random(40),
    )
    sources = take_sources(lowered(model))[1]
    (found,) = (s.source for s in sources if s.name.startswith("matmul_64x40x96"))
    return found


@pytest.mark.parametrize(
    ("chain", "is_merged"),
    [
        ("b = Add(a, v)  r = Relu(b)", True),
        ("b = Add(a, v)  c = Add(b, d2)  r = Relu(c)", True),
        ("b = Add(a, v)  c = Sigmoid(b)  r = Mul(b, c)", False),
        ("b = Relu(a)  r = Add(b, d2)", False),
    ],
)
def test_scales_are_merged(chain: str, is_merged: bool) -> None:
    assert ("write_bytes<V, 0>(y" in body_of(chain, 0.1)) == is_merged


def test_steps_that_floats_cannot_count_are_not_merged() -> None:
    assert "write_bytes<V, 0>(y" not in body_of("b = Add(a, v)  r = Relu(b)", 1e6)


def test_sums_begin_as_floats_where_they_are_small() -> None:
    ones = np.ones(8)
    assert Rescale(ones, ones, ones * (2**22 - 1)).start == 0x4B400000
    assert Rescale(ones, ones, ones * 2**22).start == 0


@pytest.mark.parametrize(
    ("queries", "heads", "teams"), [(512, 32, 2), (384, 12, 1), (128, 12, None), (64, 80, 1)]
)
def test_attention_has_a_block_for_half_of_the_gpu(
    queries: int, heads: int, teams: int | None
) -> None:
    spec = SimpleNamespace(queries=queries, keys=queries, heads=heads, batch=1, depth=64, width=64)
    context = Context(GPUS["sm_90"], "float16")
    found = JointTiling.choose(spec, 0, context)
    assert (None if found is None else found.teams) == teams
    assert found is None or found in JointTiling.every(spec, 0, context)
