"""relaxc report: artifacts compared in one HTML file."""

from __future__ import annotations

from pathlib import Path

import click

from relaxc.cli import parameters
from relaxc.cli.progress import progress
from relaxc.measure.feeds import FeedOptions, FillMode


@click.command()
@click.argument("artifacts", type=parameters.PATH, nargs=-1, required=True, metavar="ARTIFACT...")
@click.option("-o", "--output", type=parameters.PATH, default="report.html", show_default=True)
@parameters.threads
@parameters.feed
@parameters.shapes
@parameters.common
def report(
    artifacts: tuple[Path, ...],
    output: Path,
    threads: int | None,
    inputs: Path | None,
    fill_mode: FillMode,
    seed: int,
    input_shapes: tuple[str, ...],
    as_json: bool,
    debug: bool,
) -> None:
    """Compare ARTIFACTs in one HTML file: time by layer, roofline, memory.

    The first is the one that the others are compared with.
    """
    from relaxc import cpu
    from relaxc.measure.machine import this_machine
    from relaxc.report.html.collect import bounds, build_of
    from relaxc.report.html.page import write_report

    count = threads or cpu.available_cores()
    feed = FeedOptions(
        path=inputs,
        shapes=parameters.read_shapes(input_shapes),
        fill_mode=fill_mode,
        seed=seed,
    )
    with progress("Measuring", is_shown=not (as_json or debug)):
        machine = this_machine()
        builds = [build_of(path, path.name, count, feed) for path in artifacts]
        title = builds[0].manifest["model"]["name"]
        write_report(output, title, builds, machine, bounds(count))
    if as_json:
        parameters.print_json("report", {"report": str(output)})
    else:
        click.echo(f"Report: {output}")
