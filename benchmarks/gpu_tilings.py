"""Measure how products should be divided among a GPU's blocks: prepare anywhere, measure there.

    python benchmarks/gpu_tilings.py prepare FOLDER [--only NAME ...]  # needs TVM; no GPU, no nvcc
    python FOLDER/gpu_tilings.py measure FOLDER                        # needs nvcc, a GPU and torch
    python benchmarks/gpu_tilings.py take FOLDER/measured.json         # writes what was fastest

`prepare` writes the likeliest kernels of every product of the networks, as sources. `measure`
compiles them side by side and times each as one of many in a graph, with inputs and weights that
are not in the cache. `take` puts the fastest into the table that ships with the compiler.

Results are not compared here: tests run kernels of every kind of tiling on the CPU, and
gpu_speed.py compares whole networks.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

# So many, by the model of the time, are tried.
CANDIDATES = 10
LAUNCHES, ROUNDS = 24, 5
# What a set of buffers should exceed together with the others, so that none stays in the cache.
CACHE_BYTES = 120 << 20
TABLE = Path("src/relaxc/targets/cuda/kernels/measured_tilings.json")


def prepare(folder: Path, only: list[str], arch: str) -> None:
    """Write sources of candidates, and how to launch them."""
    import numpy as np
    from gpu_builders import OnnxNet, QuantizedNet
    from gpu_models import bert, gemm, llama, resnet50

    from relaxc.frontend.importer import from_onnx
    from relaxc.passes.layout.lower_groups import LowerGroups
    from relaxc.passes.pipeline import default_passes
    from relaxc.passes.precision.convert_io import ConvertIo
    from relaxc.targets.cuda.kernels import frame, tilings
    from relaxc.targets.cuda.kernels import gemm as products_of
    from relaxc.targets.cuda.kernels.launch import launch
    from relaxc.targets.registry import backend_for

    nets: dict[str, Callable[[Any], Any]] = {
        "resnet50_b32": lambda net: resnet50(net, 32),
        "resnet50_b1": lambda net: resnet50(net, 1),
        "bert_b8": lambda net: bert(net, 8, layers=1),
        "bert_b1": lambda net: bert(net, 1, layers=1),
        "llama_prefill512": lambda net: llama(net, 512),
        "resnet50_b32_int8": lambda net: resnet50(net, 32),
        "gemm_int8": lambda net: gemm(net, 4096),
    }
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Any]] = {}
    recorded: list[dict[str, Any]] = []
    chosen: list[tuple[str, tilings.Tiling]] = []
    place = 0
    more = True

    def choose(rows: Any, columns: int, depth: int, *rest: Any, **options: Any) -> tilings.Tiling:
        nonlocal more
        ranked = tilings.ranked_tilings(rows, columns, depth, *rest, **options)[:CANDIDATES]
        known = usual(rows, columns, depth, *rest, **options)
        every = [known, *(t for t in ranked if t != known)]
        more = more or place < len(every)
        tiling = every[min(place, len(every) - 1)]
        mode = tilings.table_of(rest[2])
        chosen.append((f"{mode} {rows}x{columns}x{depth}", tiling))
        return tiling

    def record(name: str, source: str, buffers: Any, *rest: Any, **_options: Any) -> Any:
        grid, threads, shared, scalars, maps = rest
        shapes = [[[int(d) for d in shape], dtype] for shape, dtype in buffers]
        entry = {"name": name, "source": source, "buffers": shapes, "threads": threads}
        entry |= {"grid": [int(g) for g in grid], "shared": shared, "scalars": list(scalars)}
        entry["maps"] = [asdict(m) for m in maps]
        recorded.append(entry)
        return launch(name, source, buffers, *rest)

    usual = tilings.choose_tiling

    def paired(first: Any, _second: Any) -> Any:
        return np.broadcast_to(first[:, :1], (len(first), 2 * first.shape[1]))

    stand_ins = (
        (tilings, "choose_tiling", choose),
        (frame, "launch", record),
        (products_of, "pack_weights", _unpacked),
        (products_of, "paired", paired),
    )
    for module, function, stand_in in stand_ins:
        setattr(module, function, stand_in)
    for name, build in nets.items():
        if only and name not in only:
            continue
        net = QuantizedNet() if name.endswith("int8") else OnnxNet()
        backend = backend_for(f"cuda -arch={arch}").with_precision("float16")
        mod = ConvertIo("float16").apply(from_onnx(net.model(build(net))).mod)
        for item in default_passes(backend.kernels, precision="float16"):
            if isinstance(item, LowerGroups):
                break
            mod = item.apply(mod)
        place, more = 0, True
        while more:
            more = False
            recorded.clear()
            chosen.clear()
            LowerGroups(backend.kernels).apply(mod)
            products = [r for r in recorded if r["name"].split("_")[0] in ("conv2d", "matmul")]
            for (sizes, tiling), entry in zip(chosen, products, strict=True):
                assert sizes.split()[1] in entry["name"], (sizes, entry["name"])
                numbers = _numbers(tiling)
                key = f"{entry['name'].split('_')[0]} {sizes}"
                found.setdefault(f"{key} {numbers}", entry | {"key": key, "tiling": numbers})
            place += 1
        print(name, len(found), flush=True)
        (folder / "candidates.json").write_text(json.dumps(list(found.values())))
    shutil.copy(__file__, folder)


def _unpacked(weight: Any, tiling: Any, mode: Any) -> Any:
    """Stands in for packing: as many numbers, whatever they are."""
    import numpy as np

    from relaxc.targets.cuda.kernels.elements import element_bytes

    depth, columns = weight.shape
    block = 128 // element_bytes(mode)
    shape = (-(-columns // tiling.columns) * tiling.columns, -(-depth // block) * block)
    return np.broadcast_to(np.zeros((), weight.dtype), shape)


def _numbers(tiling: Any) -> list[int]:
    t = tiling
    numbers = [t.rows, t.columns, t.warp_rows, t.warp_columns, t.stages, int(t.is_joint), t.split]
    return [*numbers, t.share_rows, t.share_columns] if t.share_rows else numbers


def measure(folder: Path) -> None:
    """Compile and time all candidates."""
    import torch

    entries = json.loads((folder / "candidates.json").read_text())
    torch.cuda.init()
    torch.zeros(1, device="cuda")
    driver = ctypes.CDLL("libcuda.so.1")
    with ThreadPoolExecutor() as pool:
        cubins = list(pool.map(_compiled, entries))
    results: dict[str, list[tuple[float, list[int]]]] = {}
    for entry, cubin in zip(entries, cubins):
        if cubin is None:
            print("refused:", entry["key"], entry["tiling"], flush=True)
            continue
        try:
            ns = _timed(driver, entry, cubin)
        except RuntimeError as err:
            print("fails:", entry["key"], entry["tiling"], err, flush=True)
            continue
        results.setdefault(entry["key"], []).append((ns, entry["tiling"]))
    for key, times in results.items():
        first, best = times[0], min(times)
        print(f"{key:28} now {first[0]:8.2f} us, best {best[0]:8.2f} us {best[1]}", flush=True)
    (folder / "measured.json").write_text(json.dumps(results))


def _compiled(entry: dict[str, Any]) -> bytes | None:
    source, arch = entry["source"].replace("KERNEL", "kernel"), "sm_90"
    arch += "a" if "#define WGMMA " in source else ""
    halves = ("HALF_OPERATORS", "HALF_CONVERSIONS", "HALF2_OPERATORS", "BFLOAT16_OPERATORS")
    command = ["nvcc", "-cubin", f"-arch={arch}", "-O3", "-std=c++17", "-w"]
    command += ["--expt-relaxed-constexpr", *(f"-U__CUDA_NO_{name}__" for name in halves)]
    with tempfile.TemporaryDirectory() as scratch:
        path, output = Path(scratch, "kernel.cu"), Path(scratch, "kernel.cubin")
        path.write_text(source)
        done = subprocess.run([*command, "-o", str(output), str(path)], capture_output=True)
        return None if done.returncode else output.read_bytes()


def _timed(driver: Any, entry: dict[str, Any], cubin: bytes) -> float:
    """Microseconds per launch, of many in a graph."""
    import torch

    def call(name: str, *args: Any) -> None:
        status = getattr(driver, name)(*args)
        if status:
            raise RuntimeError(f"{name} gives {status}")

    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    call("cuModuleLoadData", ctypes.byref(module), cubin)
    call("cuModuleGetFunction", ctypes.byref(function), module, b"kernel")
    call("cuFuncSetAttribute", function, 8, entry["shared"])
    kinds = {"float16": torch.float16, "float32": torch.float32}
    kinds |= {"int8": torch.int8, "uint8": torch.uint8}

    def buffer(shape: list[int], dtype: str) -> Any:
        if dtype.endswith("int8"):
            low, high = (-127, 128) if dtype == "int8" else (0, 256)
            return torch.randint(low, high, shape, dtype=kinds[dtype], device="cuda")
        return (torch.randn(shape, device="cuda") * 0.05).to(kinds[dtype])

    sizes = [torch.Size(shape).numel() * kinds[dtype].itemsize for shape, dtype in entry["buffers"]]
    count = max(2, min(12, CACHE_BYTES // sum(sizes) + 1))
    sets = [[buffer(*b) for b in entry["buffers"]] for _ in range(count)]
    kept: list[Any] = []

    def arguments(buffers: list[Any]) -> Any:
        values: list[Any] = [ctypes.c_void_p(b.data_ptr()) for b in buffers]
        values += [ctypes.c_int(s) for s in entry["scalars"]]
        for m in entry["maps"]:
            raw = ctypes.create_string_buffer(192)
            at = (ctypes.addressof(raw) + 63) // 64 * 64
            described = buffers[m["buffer"]]
            size, base = described.element_size(), ctypes.c_void_p(described.data_ptr())
            kept.append(raw)
            head = (ctypes.c_void_p(at), {1: 0, 2: 6, 4: 7}[size])
            numbers, longs = ctypes.c_uint32, ctypes.c_uint64
            if "pixels" in m:
                pixel, row = m["channels"] * size, m["channels"] * m["width"] * size
                call(
                    "cuTensorMapEncodeIm2col",
                    *(*head, 4, base),
                    (longs * 4)(m["channels"], m["width"], m["height"], m["images"]),
                    (longs * 3)(pixel, row, row * m["height"]),
                    *((ctypes.c_int * 2)(*m[end]) for end in ("lower", "upper")),
                    *(128 // size, m["pixels"], (numbers * 4)(1, *m["strides"], 1)),
                    *(0, 3, 3, 0),
                )
            else:
                call(
                    "cuTensorMapEncodeTiled",
                    *(*head, 2, base),
                    (longs * 2)(m["columns"], m["rows"]),
                    (longs * 1)(m["columns"] * size),
                    (numbers * 2)(128 // size, m["box_rows"]),
                    *((numbers * 2)(1, 1), 0, 3, 3, 0),
                )
            values.append((ctypes.c_ubyte * 128).from_address(at))
        kept.append(values)
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        kept.append(pointers)
        return pointers

    prepared = [arguments(buffers) for buffers in sets]

    class Config(ctypes.Structure):
        _fields_ = [
            *((f"grid{i}", ctypes.c_uint) for i in range(3)),
            *((f"block{i}", ctypes.c_uint) for i in range(3)),
            ("shared", ctypes.c_uint),
            ("stream", ctypes.c_void_p),
            ("attributes", ctypes.c_void_p),
            ("count", ctypes.c_uint),
        ]

    # The next kernel begins while this one ends: programmatic stream serialization.
    attribute = (ctypes.c_int * 18)(6, 0, 1)
    grid = (*entry["grid"], 1, 1)[:3]

    def launches() -> None:
        stream = torch.cuda.current_stream().cuda_stream
        config = Config(*grid, entry["threads"], 1, 1, entry["shared"], stream)
        config.attributes, config.count = ctypes.addressof(attribute), 1
        for i in range(LAUNCHES):
            pointers = prepared[i % len(prepared)]
            call("cuLaunchKernelEx", ctypes.byref(config), function, pointers, None)

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launches()
    times = []
    for _ in range(ROUNDS + 1):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / LAUNCHES)
    del graph
    call("cuModuleUnload", module)
    return float(statistics.median(times[1:]))


def take(path: Path) -> None:
    """Write the fastest into the compiler's table; what is no faster by a hundredth stays."""
    table = json.loads(TABLE.read_text())
    best: dict[str, tuple[float, float, list[int]]] = {}
    for key, times in json.loads(path.read_text()).items():
        _, sizes = key.split(maxsplit=1)
        fastest = min(times)
        tiling = fastest[1] if fastest[0] < 0.99 * times[0][0] else times[0][1]
        if sizes not in best or times[0][0] > best[sizes][0]:
            best[sizes] = (times[0][0], fastest[0], tiling)
    for key, (_, _, tiling) in best.items():
        mode, sizes = key.split()
        table.setdefault(mode, {})[sizes] = tiling
    parts = []
    for name, value in table.items():
        text = json.dumps(value)
        if isinstance(value, dict):
            ordered = sorted(value.items(), key=lambda item: [int(n) for n in item[0].split("x")])
            lines = ",\n".join(f'  "{sizes}": {json.dumps(t)}' for sizes, t in ordered)
            text = f"{{\n{lines}\n }}"
        parts.append(f" {json.dumps(name)}: {text}")
    TABLE.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("action", choices=("prepare", "measure", "take"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--arch", default="sm_90")
    args = parser.parse_args()
    if args.action == "prepare":
        prepare(args.folder, args.only, args.arch)
    elif args.action == "measure":
        measure(args.folder)
    else:
        take(args.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
