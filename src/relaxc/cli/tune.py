"""relaxc tune: measure a model's kernels, on this machine or another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from relaxc.cli import parameters
from relaxc.cli.progress import progress
from relaxc.cli.quiet import quiet
from relaxc.cli.shaping import read_shaping, shaping
from relaxc.measure.feeds import FeedOptions, FillMode


@click.command()
@click.argument("model", type=parameters.PATH)
@click.option("--trials", type=int, help="Measure so many candidates at most, in all calls.")
@click.option(
    "--time-budget",
    default="10m",
    show_default=True,
    help="Such as 90s, 30m or 2h; what earlier calls spent on these kernels is part of it.",
)
@click.option(
    "--tasks",
    multiple=True,
    metavar="PATTERN",
    help="Tune only kernels whose description contains this regular expression; may be repeated.",
)
@click.option(
    "--rpc-tracker", metavar="HOST:PORT", help="Measure on devices of this tracker of TVM."
)
@click.option("--rpc-key", default="", metavar="KEY", help="What those devices are called there.")
@click.option(
    "--candidates",
    type=parameters.PATH,
    metavar="DIR",
    help="For GPUs: compile candidates into a new folder, to measure them where the GPU is.",
)
@click.option(
    "--measured",
    type=parameters.PATH,
    metavar="DIR",
    help="For GPUs: read what was measured with a folder of candidates.",
)
@click.option("--dry-run", is_flag=True, help="Show the kernels and an estimate; measure nothing.")
@parameters.tuning_records
@parameters.io
@shaping
@parameters.threads
@parameters.feed
@parameters.common
def tune(
    model: Path,
    trials: int | None,
    time_budget: str,
    tasks: tuple[str, ...],
    rpc_tracker: str | None,
    rpc_key: str,
    candidates: Path | None,
    measured: Path | None,
    dry_run: bool,
    tuning_records: Path | None,
    io: str,
    threads: int | None,
    inputs: Path | None,
    fill_mode: FillMode,
    seed: int,
    as_json: bool,
    debug: bool,
    **shape: Any,
) -> None:
    """Measure the kernels of an ONNX MODEL; `relaxc compile` then uses the fastest.

    Every measurement is kept as soon as it is made: stop at any time, and go on later.
    """
    shaped = read_shaping(**shape)
    is_shown = not (as_json or debug)
    with progress("Loading the compiler", is_shown) as show, quiet(debug):
        from relaxc.report import tuning
        from relaxc.search.goal import parse_duration
        from relaxc.tuning.options import TuneOptions
        from relaxc.tuning.session import Watcher
        from relaxc.tuning.tune import dry_run as plan
        from relaxc.tuning.tune import tune as run

        options = TuneOptions(
            trials=trials,
            time_budget_s=parse_duration(time_budget),
            tasks=tasks,
            seed=seed,
            rpc_tracker=rpc_tracker,
            rpc_key=rpc_key,
            candidates=candidates,
            measured=measured,
            records=tuning_records,
            feed=FeedOptions(path=inputs, fill_mode=fill_mode, seed=seed),
            threads=threads,
            checkpoint=shaped.checkpoint,
            compile=replace(shaped.options, io=parameters.IO_NAMES[io]),
        )
        data = shaped.calibration, shaped.recovery
        if dry_run:
            result = plan(model, options, *data)
        else:
            tell = (lambda text: click.echo(text, err=True)) if debug and not as_json else show
            watcher = Watcher(phase=tell, progress=lambda p: tell(tuning.progress_line(p)))
            result = run(model, options, watcher, *data)
    parameters.warn(result.warnings)
    if as_json:
        parameters.print_json("tune", tuning.as_json(result))
    else:
        click.echo(tuning.as_text(result))
