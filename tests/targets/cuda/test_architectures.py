"""Every architecture of the manual gets cubins that spill nothing and use its tensor cores.

pytest -m long tests/targets/cuda/test_architectures.py     # a quarter of an hour
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from cubins import cubins_of, instructions, local_accesses, products
from gpu import needs_cuda_compiler
from gpu_builders import OnnxNet, QuantizedNet
from gpu_models import llama

import relaxc
from relaxc.artifact import read_artifact
from relaxc.layout import Precision
from relaxc.options import QuantizeOptions
from relaxc.targets.cuda.machine import GPUS

pytestmark = [pytest.mark.long, needs_cuda_compiler]
# They print a message, for which `printf` has its arguments in local memory.
_PRINTING = "check_indices"
_FLOATS, _INTEGERS, _EIGHT_BITS = {"HMMA", "HGMMA"}, {"IMMA", "IGMMA"}, {"QMMA", "QGMMA"}

_ALIKE: tuple[Precision, ...] = ("tf32", "bfloat16")


def maps(net: Any) -> Any:
    """Convolutions of the sizes that ResNet-50 has at batch 32, and a product behind them."""
    count = itertools.count()

    def conv(x: Any, inputs: int, outputs: int, kernel: int, stride: int) -> Any:
        weight = net.weight(next(count), (outputs, kernel, kernel, inputs))
        return net.conv(x, weight, net.weight(next(count), (outputs,)), kernel, stride)

    x = net.relu(conv(net.input("image", [32, 3, 224, 224]), 3, 64, 7, 2))
    x = net.max_pool(x)
    y = net.relu(conv(net.relu(conv(x, 64, 64, 1, 1)), 64, 64, 3, 1))
    x = net.relu(net.add(conv(y, 64, 256, 1, 1), conv(x, 64, 256, 1, 1)))
    x = net.relu(conv(net.relu(conv(x, 256, 128, 1, 1)), 128, 128, 3, 2))
    return net.matmul(net.mean_pool(x), net.weight(next(count), (128, 1000)))


def layer(net: Any) -> Any:
    """A layer of a transformer, of whose products fp8 takes all but attention's."""
    return llama(net, 2048, width=1024, heads=8, hidden=2816)


def step(net: Any) -> Any:
    """The same for one word, with a cache."""
    return llama(net, 1, 512, width=1024, heads=8, hidden=2816)


def stack(net: Any) -> Any:
    """Products alone."""
    x = net.relu(net.matmul(net.input("x", [1024, 768]), net.weight(0, (768, 3072))))
    return net.matmul(x, net.weight(1, (3072, 768)))


def model(build: Callable[[Any], Any], kind: type[OnnxNet] = OnnxNet) -> onnx.ModelProto:
    net = kind()
    return net.model(build(net))


def compiled(
    folder: Path,
    source: onnx.ModelProto,
    arch: str,
    precision: Precision,
    quantize: QuantizeOptions | None = None,
) -> dict[str, Counter[str]]:
    """Kernel -> its instructions of tensor cores, after a check that no kernel spills."""
    options = relaxc.CompileOptions(
        target=f"cuda -arch={arch}", precision=precision, quantize=quantize
    )
    relaxc.compile(source, folder / "x.rxc", options)
    library = bytes(read_artifact(folder / "x.rxc").member("lib/model.so"))
    found: dict[str, Counter[str]] = {}
    for cubin in cubins_of(library):
        found |= instructions(cubin)
    assert found
    for name, counted in found.items():
        assert name.startswith(_PRINTING) or not local_accesses(counted), (arch, name)
    return found


def used(found: dict[str, Counter[str]]) -> set[str]:
    return {name for counted in found.values() for name in products(counted)}


def precisions(arch: str) -> list[Precision]:
    """The kernels of TF32 and bfloat16 are the others', but for the instruction: one GPU's do."""
    if not GPUS[arch].has_async_copy:
        return ["float32"]
    return ["float32", "float16", *_ALIKE] if arch == "sm_80" else ["float32", "float16"]


CASES = [(arch, precision) for arch in GPUS for precision in precisions(arch)]


@pytest.mark.parametrize(("arch", "precision"), CASES)
def test_floats(tmp_path: Path, arch: str, precision: Precision) -> None:
    has_kernels = GPUS[arch].has_async_copy
    for build in (maps, layer):
        found = compiled(tmp_path, model(build), arch, precision)
        assert bool(used(found)) == has_kernels and used(found) <= _FLOATS
        for name, counted in found.items() if has_kernels else ():
            if name.startswith(("conv2d", "matmul", "attention")):
                assert products(counted) & _FLOATS, name
    if precision not in _ALIKE:
        compiled(tmp_path, model(step), arch, precision)


@pytest.mark.parametrize("arch", GPUS)
def test_integers(tmp_path: Path, arch: str) -> None:
    precision: Precision = "float16" if GPUS[arch].has_async_copy else "float32"
    for build in (maps, stack):
        found = compiled(tmp_path, model(build, QuantizedNet), arch, precision)
        assert bool(used(found) & _INTEGERS) == GPUS[arch].has_async_copy


@pytest.mark.parametrize("arch", [arch for arch, gpu in GPUS.items() if gpu.has_float8])
def test_eight_bits(tmp_path: Path, arch: str) -> None:
    found = compiled(tmp_path, model(layer), arch, "float8")
    assert len([n for n, c in found.items() if products(c) & _EIGHT_BITS]) >= 3


@pytest.mark.parametrize("arch", [arch for arch, gpu in GPUS.items() if gpu.has_bulk_copies])
def test_weights_of_few_bits(tmp_path: Path, arch: str) -> None:
    for scheme in ("int4-weights", "int8-weights"):
        compiled(tmp_path, model(step), arch, "float16", QuantizeOptions(scheme=scheme))  # type: ignore[arg-type]
