"""How large the weights of quantized artifacts are, and what of them is not integers.

    python benchmarks/quantize_size.py FOLDER [--only NAME ...] [--cache FOLDER]

FOLDER holds what `benchmarks/export_models.py` wrote. Shares are of the weights of the float32
artifact, in bytes; code and TVM's runtime, which every artifact has, are not weights. Other
schemes than int8 quantize products only, and so only transformers are listed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

from quantized_peers import is_transformer, samples

import relaxc
from relaxc.artifact import read_artifact
from relaxc.cli.quiet import quiet
from relaxc.options import QuantizeOptions, Scheme

MODELS = (
    *("resnet18", "resnet50", "mobilenetv2", "inception_v3", "unet"),
    *("minilm_static", "vit_tiny", "bert_base_s128"),
)
# Largest share of float32's weights, by scheme.
BARS: dict[Scheme, float] = {"int8": 0.27, "fp8-weights": 0.27, "int4-weights": 0.16}


def artifact(model: Path, scheme: Scheme | None, cache: Path) -> Path:
    """A compiled model; the one in the cache, where there is one."""
    path = cache / f"{model.stem}.{scheme}.rxc" if scheme else cache / f"{model.stem}.rxc"
    if not path.exists():
        quantize, data = None, None
        if scheme:
            # Calibrated on noise, which says nothing of how exact a layer is, nor of its size.
            quantize = QuantizeOptions(scheme=scheme, speed_gate=False)
            if scheme == "int8":
                quantize = replace(quantize, least_sqnr_db=None, correct=())
            data = samples(model) if scheme == "int8" else None
        with quiet():
            options = relaxc.CompileOptions(quantize=quantize)
            relaxc.compile(model, path, options, calibration_data=data)
    return path


def sizes(path: Path) -> Counter[str]:
    """Bytes of an artifact's weights, by what they are."""
    found: Counter[str] = Counter()
    for array in read_artifact(path).weights():
        is_float = array.dtype.name in ("float32", "uint16", "bfloat16")
        found["float" if is_float else "integers"] += array.nbytes
    return found


def main() -> int:
    """Compile what is missing, and print a table; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=MODELS, default=MODELS)
    parser.add_argument("--cache", type=Path, help="where artifacts stay")
    args = parser.parse_args()
    missed = 0
    print("| model | scheme | float32 MB | quantized MB | share | integers | float numbers |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="relaxc-bench-") as scratch:
        for name in args.only:
            model, cache = args.folder / f"{name}.onnx", args.cache or Path(scratch)
            whole = sizes(artifact(model, None, cache)).total()
            for scheme, bar in BARS.items():
                if scheme != "int8" and not is_transformer(model):
                    continue
                found = sizes(artifact(model, scheme, cache))
                share = found.total() / whole
                missed += share > bar
                verdict = f"{share:.3f} (bar {bar}){' MISSED' * (share > bar)}"
                parts = [f"{found[part] / whole:.3f}" for part in ("integers", "float")]
                cells = [name, scheme, f"{whole / 1e6:.1f}", f"{found.total() / 1e6:.2f}", verdict]
                print("| " + " | ".join([*cells, *parts]) + " |", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
