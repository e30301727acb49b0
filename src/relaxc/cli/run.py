"""relaxc run: an artifact on given or made-up inputs."""

from __future__ import annotations

import time
from pathlib import Path

import click

from relaxc.cli import parameters
from relaxc.measure.feeds import FeedOptions, FillMode


@click.command()
@click.argument("artifact", type=parameters.PATH)
@parameters.feed
@parameters.shapes
@click.option("-o", "--outputs", type=parameters.PATH, help="Write the outputs to this .npz file.")
@parameters.device
@parameters.threads
@click.option("--print-time", is_flag=True, help="Print how long the inferences took.")
@click.option(
    "--print-top",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Print the N largest elements of every output.",
)
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Time so many samples.",
)
@click.option(
    "--number",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Run so many inferences per sample.",
)
@parameters.common
def run(
    artifact: Path,
    inputs: Path | None,
    fill_mode: FillMode,
    seed: int,
    input_shapes: tuple[str, ...],
    outputs: Path | None,
    device: str | None,
    threads: int | None,
    print_time: bool,
    print_top: int,
    repeat: int,
    number: int,
    as_json: bool,
    debug: bool,
) -> None:
    """Run an ARTIFACT once on inputs from a file, or on made-up ones."""
    import numpy as np

    from relaxc.measure.feeds import write_outputs
    from relaxc.report import running
    from relaxc.runtime.session import load

    shapes = parameters.read_shapes(input_shapes)
    options = FeedOptions(path=inputs, shapes=shapes, fill_mode=fill_mode, seed=seed)
    model = load(artifact, device, threads)
    feed = options.feed(model.inputs)
    samples = []
    for _ in range(repeat):
        start = time.perf_counter()
        for _ in range(number):
            results = model.run(feed)
        samples.append((time.perf_counter() - start) * 1e3 / number)
    if outputs is not None:
        write_outputs(outputs, results)
    if as_json:
        parameters.print_json("run", running.as_json(results, np.array(samples), print_top))
        return
    click.echo(running.as_text(results, print_top))
    if print_time:
        click.echo(running.time_summary(np.array(samples)))
