"""relaxc sensitivity: which channels a model can do without."""

from __future__ import annotations

from pathlib import Path

import click

from relaxc.cli import parameters
from relaxc.cli.progress import progress
from relaxc.cli.quiet import quiet
from relaxc.errors import OptionError
from relaxc.measure.samples import samples_from
from relaxc.options import IMPORTANCES, Importance


@click.command()
@click.argument("model", type=parameters.PATH)
@click.option(
    "--data",
    required=True,
    metavar="DATA",
    help="Samples of real inputs: an .npz file with the samples along the first axis, a folder "
    "with one .npz file each, or module:function.",
)
@click.option(
    "--evaluate",
    metavar="MODULE:FUNCTION",
    help="Your own metric: called with a model, returns a number, more is better.  [default: how "
    "far the outputs move]",
)
@click.option(
    "-o", "--output", type=parameters.PATH, help="[default: MODEL with suffix .sensitivity.json]"
)
@click.option("--plot", type=parameters.PATH, help="Draw it, as .svg, .png or .pdf.")
@click.option(
    "--importance",
    type=click.Choice(IMPORTANCES),
    default="l2",
    show_default=True,
    help="Which channels of a group go first.",
)
@click.option(
    "--ratios",
    default="0.125,0.25,0.5,0.75",
    show_default=True,
    help="Shares of a group's channels that go.",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="NODE",
    help="Leave a node's channels: its name, or a regular expression; may be repeated.",
)
@parameters.shapes
@parameters.common
def sensitivity(
    model: Path,
    data: str,
    evaluate: str | None,
    output: Path | None,
    plot: Path | None,
    importance: Importance,
    ratios: str,
    keep: tuple[str, ...],
    input_shapes: tuple[str, ...],
    as_json: bool,
    debug: bool,
) -> None:
    """Measure how much the result of MODEL changes as each group of channels gets narrower.

    Run again, it goes on where it was stopped. `relaxc compile --sensitivity` reads the file.
    """
    output = output or model.with_suffix(".sensitivity.json")
    samples = samples_from(data)
    function = parameters.read_function(evaluate)
    try:
        shares = tuple(float(ratio) for ratio in ratios.split(","))
    except ValueError as err:
        raise OptionError(
            f"cannot read `{ratios}` as ratios; write for example `0.25,0.5`"
        ) from err
    with progress("Loading the compiler", not (as_json or debug)) as show, quiet(debug):
        from relaxc.report import sensitivity as report
        from relaxc.sensitivity import DIVERGENCE, SensitivityOptions, analyze

        options = SensitivityOptions(
            importance=importance,
            ratios=shares,
            exclude=keep,
            input_shapes=parameters.read_shapes(input_shapes),
            evaluate=function,
            measure=evaluate or DIVERGENCE,
        )
        found = analyze(model, samples, output, options, show)
        if plot is not None:
            report.plot(plot, found.points, options.measure)
    if as_json:
        parameters.print_json("sensitivity", report.as_json(found.points, found.subject))
    else:
        click.echo(report.as_text(found.points))
        click.echo(f"\nWritten: {output}" + (f", {plot}" if plot else ""))
