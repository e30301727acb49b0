"""Speed and accuracy on an NVIDIA GPU, beside torch: compile anywhere, measure where the GPU is.

    python benchmarks/gpu_speed.py prepare FOLDER [--only NAME ...]  # needs TVM, no GPU
    python FOLDER/travel/gpu_speed.py measure FOLDER/travel          # needs GPU and torch, no TVM

`prepare` compiles every network, and small cases in all precisions, and packs them with what a
machine without TVM needs to run them: FOLDER/travel is all that must get there. `measure` compares
with torch in higher precision first, or, where the model is quantized, with what ONNX Runtime gave
when it was prepared; then times calls with tensors on the GPU, ours and torch's in turn. Torch's
best is that of CUDA graphs of eager code and of what torch.compile makes of it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import lzma
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gpu_builders import OnnxNet, QuantizedNet, TorchNet
from gpu_models import CASES, NETS, example
from gpu_peers import products, recorded

# What is an error, relative to the norm.
PRECISIONS = {
    **{"float32": 1e-5, "tf32": 1e-3, "float16": 5e-3, "bfloat16": 2e-2},
    **{"int8": 0.3, "float8": 0.1},
}
# Weights of few bits: of the same scheme's name.
WEIGHTS = {"int8-weights": 2e-2, "int4-weights": 0.3}
SECONDS = 0.2
ROUNDS = 5


def prepare(folder: Path, only: list[str], arch: str, chosen: list[str]) -> None:
    """Compile, and collect what must travel."""
    from relaxc.compiler import compile
    from relaxc.options import CompileOptions, QuantizeOptions

    (folder / "artifacts").mkdir(parents=True, exist_ok=True)
    floats = tuple(name for name in PRECISIONS if name not in ("int8", "float8"))
    quantized: dict[str, Any] = {name: QuantizeOptions(scheme=name) for name in WEIGHTS}  # type: ignore[arg-type]
    # Networks in other precisions only where these are asked for.
    usual = tuple(name for name in floats if name in chosen) or ("float16",)
    wanted = dict.fromkeys(NETS, usual) | dict.fromkeys(CASES, floats)
    wanted["gemm4096"] = tuple(PRECISIONS)
    wanted["resnet50_b32"] += ("int8",)
    wanted["convolutions"] = (*floats, "int8")
    wanted["llama_prefill512"] += ("float8",)
    wanted["decoder_step"] += tuple(WEIGHTS)
    wanted["llama_decode1024"] += tuple(WEIGHTS)
    for name, precisions in wanted.items():
        if only and name not in only:
            continue
        for precision in precisions:
            if chosen and precision not in chosen:
                continue
            net = QuantizedNet() if precision == "int8" else OnnxNet()
            model = net.model((NETS | CASES)[name](net))
            named: Any = "float16" if precision.startswith("int") else precision
            # As torch has it: half networks take and give halves.
            is_half = named in ("float16", "bfloat16", "float8") and name in NETS
            io: Any = ("float16" if named == "float8" else named) if is_half else "model"
            options = CompileOptions(
                target=f"cuda -arch={arch}",
                precision=named,
                io=io,
                quantize=quantized.get(precision),
            )
            compile(model, folder / "artifacts" / f"{name}.{precision}.rxc", options)
            if precision == "int8" and name in CASES:
                _expect(folder / "artifacts" / f"{name}.npz", model, example(net.inputs))
            print(f"{name}.{precision}", flush=True)
    pack(folder)


def _expect(path: Path, model: Any, feed: dict[str, np.ndarray]) -> None:
    """Write what ONNX Runtime makes of inputs."""
    import onnxruntime

    (result,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)
    np.savez(path, result)


def pack(folder: Path, scripts: Sequence[str] = ()) -> None:
    """Compress what must travel, these scripts included, into `FOLDER/travel`."""
    travel = folder / "travel"
    shutil.rmtree(travel, ignore_errors=True)
    travel.mkdir()
    pack_artifacts(folder / "artifacts", travel / "artifacts.tar.xz")
    pack_runtime(travel / "site")
    names = ("gpu_speed.py", "gpu_scale.py", "gpu_builders.py", "gpu_models.py", "gpu_peers.py")
    for name in (*names, *scripts):
        shutil.copy(Path(__file__).with_name(name), travel)


def pack_artifacts(folder: Path, output: Path) -> None:
    """Compress artifacts together."""
    # Artifacts have libraries in common: a window that reaches back to the last one.
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 26}]
    with (
        lzma.open(output, "wb", filters=filters) as file,
        tarfile.open(fileobj=file, mode="w") as archive,
    ):
        for path in sorted(folder.iterdir(), key=lambda p: p.stat().st_size):
            archive.add(path, path.name)


def pack_runtime(site: Path) -> None:
    """Copy what it takes to run artifacts, for a machine without an index of packages."""
    root = Path(__file__).resolve().parent.parent
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(root / "src" / "relaxc", site / "relaxc", ignore=ignored)
    spec = importlib.util.find_spec("tvm_ffi")
    assert spec is not None and spec.origin is not None
    library = Path(spec.origin).parent / "lib" / "libtvm_ffi.so"
    target = site / "tvm_ffi" / "lib"
    target.mkdir(parents=True)
    shutil.copy(library, target)
    (target.parent / "__init__.py").touch()


def measure(folder: Path, report: Path | None, only: list[str], compiled: bool) -> int:
    """Check and time everything in the folder; returns how many results were wrong."""
    sys.path.insert(0, str(folder / "site"))
    import torch

    import relaxc

    torch.backends.cudnn.benchmark = True
    print(torch.cuda.get_device_name(), "torch", torch.__version__, flush=True)
    rows: list[dict[str, Any]] = []
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        with tarfile.open(folder / "artifacts.tar.xz") as archive:
            archive.extractall(scratch, filter="data")
        for path in sorted(Path(scratch).glob("*.rxc"), key=lambda p: p.stat().st_size):
            name, precision = path.stem.split(".")
            if only and name not in only:
                continue
            try:
                model = relaxc.load(path, device="cuda", cache_dir=Path(scratch, "cache"))
                expected = Path(scratch, f"{name}.npz") if precision == "int8" else None
                own = Path(scratch, f"{name.removesuffix('_2of4')}.float16.rxc")
                beside = None
                if own.name != path.name and precision in ("float16", "float8") and own.is_file():
                    beside = relaxc.load(own, device="cuda", cache_dir=Path(scratch, "cache"))
                row = _measure_one(model, name, precision, name in NETS, compiled, expected, beside)
            except Exception as err:  # the next one may work: device time is short
                print(f"{name} {precision}: {type(err).__name__}: {str(err)[:600]}", flush=True)
                wrong += 1
                continue
            rows.append(row)
            bound = (PRECISIONS | WEIGHTS)[precision]
            wrong += row["error"] > bound or row["error"] != row["error"]
            torch.cuda.empty_cache()
            if report is not None:
                report.write_text(json.dumps(rows, indent=1))
    print(table(rows, torch.cuda.get_device_name()))
    return wrong


def _measure_one(
    model: Any,
    name: str,
    precision: str,
    timed: bool,
    compiled: bool,
    expected: Path | None,
    beside: Any,
) -> dict[str, Any]:
    """`beside` is the same network in float16, to be timed in turn, if there is one."""
    import torch

    net = OnnxNet()
    build = (NETS | CASES)[name]
    build(net)
    arrays = example(net.inputs)
    feed = {key: torch.from_numpy(value).cuda() for key, value in arrays.items()}
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    wide = torch.float32 if timed and precision != "float32" else torch.float64

    def run(inputs: dict[str, Any], dtype: Any, weights: list[Any]) -> Any:
        def make(value: np.ndarray) -> Any:
            tensor = torch.from_numpy(np.array(value)).cuda().to(dtype)
            return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor

        return build(TorchNet(inputs, make, weights))

    errors = []
    with torch.no_grad():
        for scale in (1.0, 0.5):  # fresh values: a replayed graph must read them
            fresh = {
                k: v if v.dtype == torch.int64 or k == "mask" else v * scale
                for k, v in feed.items()
            }
            cast = {k: v if v.dtype == torch.int64 else v.to(wide) for k, v in fresh.items()}
            want = run(cast, wide, []).double()
            got = torch.from_dlpack(_first(model.run(_as_taken(model, fresh)))).double()
            errors.append(float((got - want).norm() / want.norm()))
    if expected is not None and expected.is_file():
        want = np.load(expected)["arr_0"].astype(np.float64)
        got = model.run({k: v.cpu().numpy() for k, v in _as_taken(model, feed).items()})
        errors = [float(np.linalg.norm(_first(got) - want) / np.linalg.norm(want))]
    row: dict[str, Any] = {"name": name, "precision": precision, "error": max(errors)}
    print(f"{name} {precision} error {row['error']:.1e}", flush=True)
    if not timed:
        return row
    # Both sides find inputs where they lay before; ours are handed over once.
    taken = {k: model.put(_array(v)) for k, v in _as_taken(model, feed).items()}
    contenders: dict[str, Callable[[], Any]] = {"relaxc": lambda: model.run(taken)}
    if beside is not None:
        held = {k: beside.put(_array(v)) for k, v in _as_taken(beside, feed).items()}
        contenders["relaxc float16"] = lambda: beside.run(held)
    is_wide = precision in ("float32", "tf32")
    dtype = torch.float32 if is_wide else torch.float16
    dtype = torch.bfloat16 if precision == "bfloat16" else dtype
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    cast = {k: v if v.dtype == torch.int64 else v.to(dtype) for k, v in feed.items()}
    cast = {
        k: v.to(memory_format=torch.channels_last) if v.ndim == 4 and name[:6] == "resnet" else v
        for k, v in cast.items()
    }
    weights: list[Any] = []
    with torch.no_grad():
        run(cast, dtype, weights)
        contenders["torch graph"] = recorded(lambda: run(cast, dtype, weights))
        if compiled and not name.startswith("gemm"):
            torch._dynamo.reset()
            fast = torch.compile(lambda inputs, w: run(inputs, dtype, w))
            began = time.perf_counter()
            fast(cast, weights)
            print(f"  torch.compile took {time.perf_counter() - began:.0f} s", flush=True)
            contenders["inductor graph"] = recorded(lambda: fast(cast, weights))
        if name.startswith("gemm"):
            contenders |= products("2:4" if name.endswith("2of4") else precision)
        times = interleaved(contenders)
    row["ms"] = {key: [min(t) * 1e3, statistics.median(t) * 1e3] for key, t in times.items()}
    print(f"  {row['ms']}", flush=True)
    _profile(contenders["relaxc"])
    return row


def _array(tensor: Any) -> np.ndarray:
    """As NumPy has it; bfloat16, which torch doesn't hand over, by its bits."""
    import torch

    if tensor.dtype != torch.bfloat16:
        return tensor.cpu().numpy()  # type: ignore[no-any-return]
    import ml_dtypes

    return tensor.cpu().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)  # type: ignore[no-any-return]


def _as_taken(model: Any, feed: dict[str, Any]) -> dict[str, Any]:
    """Inputs in the types of the artifact."""
    import torch

    return {info.name: feed[info.name].to(getattr(torch, info.dtype)) for info in model.inputs}


def _first(result: Any) -> Any:
    return next(iter(result.values()))


def interleaved(calls: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Seconds per call of each contender, in turn, round by round."""
    import torch

    def seconds(call: Callable[[], Any], count: int) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(count):
            call()
        torch.cuda.synchronize()
        return (time.perf_counter() - began) / count

    counts = {}
    for key, call in calls.items():
        seconds(call, 5)
        counts[key] = max(5, int(SECONDS / seconds(call, 5)))
    found: dict[str, list[float]] = {key: [] for key in calls}
    for _ in range(ROUNDS):
        for key, call in calls.items():
            found[key].append(seconds(call, counts[key]))
    return found


def _profile(call: Callable[[], Any], calls: int = 10) -> None:
    """Print where one call's time on the GPU goes: what each kernel adds to those before it.

    Kernels overlap: each one's time is counted from the end of the one before.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as watched:
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
    launches = [
        (event.time_range.end, event.time_range.start, event.name)
        for event in watched.events()
        if str(event.device_type).endswith("CUDA") and event.time_range.end > event.time_range.start
    ]
    found: dict[str, list[float]] = {}
    last = 0.0
    for end, start, name in sorted(launches):
        found.setdefault(name, []).append(end - max(start, last))
        last = max(last, end)
    total = sum(map(sum, found.values()))
    print(f"  kernels: {total / calls:.1f} us in {len(launches) / calls:.0f} launches")
    for name, times in sorted(found.items(), key=lambda item: -sum(item[1]))[:40]:
        count = len(times) / calls
        print(f"    {sum(times) / calls:8.1f} us {count:6.1f}x {name[:90]}")


def table(rows: list[dict[str, Any]], card: str) -> str:
    """The result as docs show it."""
    lines = [
        f"| {card} | precision | error | relaxc ms | torch best ms | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["name"], row["precision"], f"{row['error']:.1e}"]
        if "ms" in row:
            medians = {key: value[1] for key, value in row["ms"].items()}
            own = medians.pop("relaxc")
            best = min(medians, key=lambda key: medians[key])
            cells += [f"{own:.3f}", f"{medians[best]:.3f} ({best})", f"{own / medians[best]:.2f}"]
        cells += [""] * (6 - len(cells))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("action", choices=("prepare", "measure"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--arch", default="sm_90")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS | WEIGHTS, default=[])
    parser.add_argument("--report", type=Path)
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    args = parser.parse_args()
    if args.action == "prepare":
        prepare(args.folder, args.only, args.arch, args.precision)
        return 0
    return 1 if measure(args.folder, args.report, args.only, not args.no_compile) else 0


if __name__ == "__main__":
    sys.exit(main())
