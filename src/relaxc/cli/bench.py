"""relaxc bench: how fast an artifact is."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relaxc.artifact import file_sha256, is_artifact
from relaxc.cli import parameters
from relaxc.cli.progress import progress
from relaxc.errors import OptionError
from relaxc.measure.feeds import FeedOptions, FillMode

if TYPE_CHECKING:
    from relaxc.measure.bench import BenchOptions


@click.command()
@click.argument("paths", metavar="ARTIFACT|MODEL...", type=parameters.PATH, nargs=-1, required=True)
@click.option("--warmup", "--warmUp", type=float, default=200, show_default=True, help="In ms.")
@click.option("--duration", type=float, default=3, show_default=True, help="In seconds, at least.")
@click.option(
    "--iterations",
    "--repeat",
    type=int,
    default=10,
    show_default=True,
    help="Samples to take at least, per stream.",
)
@click.option("--number", type=int, default=1, show_default=True, help="Inferences per sample.")
@click.option("--percentile", default="90,95,99", show_default=True, help="Percentiles to report.")
@click.option(
    "--streams", type=int, default=1, show_default=True, help="Inferences running at a time."
)
@click.option(
    "--no-transfers",
    is_flag=True,
    help="On a GPU: inputs and outputs stay there; else copies count.",
)
@click.option(
    "--profile",
    is_flag=True,
    help="Also show each kernel's time, its share of the machine's peak and its ONNX nodes.",
)
@parameters.device
@parameters.threads
@parameters.feed
@parameters.shapes
@parameters.compiling
@parameters.common
def bench(
    paths: tuple[Path, ...],
    warmup: float,
    duration: float,
    iterations: int,
    number: int,
    percentile: str,
    streams: int,
    no_transfers: bool,
    profile: bool,
    device: str | None,
    threads: int | None,
    inputs: Path | None,
    fill_mode: FillMode,
    seed: int,
    as_json: bool,
    debug: bool,
    **shape: Any,
) -> None:
    """Measure latency, throughput, load time and memory of an ARTIFACT.

    A MODEL in ONNX is compiled first, in a process of its own, so that neither its memory nor its
    time counts.

    Several files take turns: artifacts as they are, each MODEL in ONNX Runtime, and in OpenVINO
    where that is installed.
    """
    from relaxc.measure.bench import BenchOptions
    from relaxc.measure.bench import bench as measure
    from relaxc.report import benching

    path = paths[0]
    if len(paths) > 1:
        parameters.refuse_compiling("several files are measured as they are")
    elif is_artifact(path):
        parameters.refuse_compiling(f"`{path}` is an artifact")
    feed_options = FeedOptions(
        path=inputs,
        shapes=parameters.read_shapes(shape["input_shapes"]),
        fill_mode=fill_mode,
        seed=seed,
    )
    bench_options = BenchOptions(
        warmup_ms=warmup,
        duration_s=duration,
        iterations=iterations,
        number=number,
        percentiles=_percentiles(percentile),
        threads=threads,
        device=device,
        transfers=not no_transfers,
        streams=streams,
        feed=feed_options,
        profile=profile,
    )
    if len(paths) > 1:
        _race(paths, bench_options, as_json, debug)
        return
    with _compiled(path, _flags(**shape)) as artifact:
        if artifact != path:  # the shapes of a model have gone into its artifact
            bench_options = replace(bench_options, feed=replace(feed_options, shapes={}))
        with progress("Measuring", is_shown=not (as_json or debug)):
            result = measure(artifact, bench_options)
        digest = file_sha256(artifact)
    parameters.warn(benching.warnings(result))
    if as_json:
        parameters.print_json("bench", benching.as_json(path, digest, result))
    else:
        click.echo(benching.as_text(path, digest, result))


def _race(paths: tuple[Path, ...], options: BenchOptions, as_json: bool, debug: bool) -> None:
    from relaxc.measure.race import race
    from relaxc.report import racing

    with progress("Measuring", is_shown=not (as_json or debug)):
        result = race(paths, options)
    parameters.warn(racing.warnings(result))
    if as_json:
        parameters.print_json("bench", racing.as_json(result))
    else:
        click.echo(racing.as_text(result))


def _flags(
    target: str,
    opt_level: int,
    disabled_passes: tuple[str, ...],
    input_shapes: tuple[str, ...],
    precision: str,
    preprocess: tuple[str, ...],
    postprocess: tuple[str, ...],
) -> list[str]:
    """What was said about compiling, for a command line of its own."""
    repeated = {
        "--disabled-pass": disabled_passes,
        "--input-shapes": input_shapes,
        "--preprocess": preprocess,
        "--postprocess": postprocess,
    }
    flags = ["--target", target, f"-O{opt_level}", "--precision", precision]
    return flags + [
        word for name, given in repeated.items() for one in given for word in (name, one)
    ]


@contextlib.contextmanager
def _compiled(path: Path, flags: list[str]) -> Iterator[Path]:
    """The artifact to measure: the one given, or a temporary one compiled from a model."""
    if is_artifact(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="relaxc-") as folder:
        artifact = Path(folder, "model.rxc")
        command = [sys.executable, "-m", "relaxc", "compile", str(path), "-o", str(artifact)]
        done = subprocess.run([*command, *flags], stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise click.exceptions.Exit(done.returncode)  # it has said why
        yield artifact


def _percentiles(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise OptionError(f"cannot read percentiles from `{text}`; write `50,90,99`") from None
