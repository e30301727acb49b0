"""relaxc inspect: what is inside of a model or an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from relaxc import cpu
from relaxc.cli import parameters
from relaxc.cli.quiet import quiet
from relaxc.errors import TargetError

if TYPE_CHECKING:
    from relaxc.measure.roofline import Roofline


@click.command()
@click.argument("path", metavar="MODEL|ARTIFACT", type=parameters.PATH)
@parameters.shapes
@click.option(
    "--top", type=click.IntRange(min=1), metavar="N", help="Show the N costliest layers only."
)
@click.option(
    "--roofline/--no-roofline",
    default=True,
    show_default=True,
    help="Estimate what each layer takes at least on this machine.",
)
@parameters.common
def inspect(
    path: Path,
    input_shapes: tuple[str, ...],
    top: int | None,
    roofline: bool,
    as_json: bool,
    debug: bool,
) -> None:
    """Show what a MODEL or an ARTIFACT takes, gives and computes."""
    from relaxc.describe import describe
    from relaxc.report import inspecting

    with quiet(debug):
        described = describe(path, parameters.read_shapes(input_shapes))
    bounds = _bounds() if roofline else None
    parameters.warn(described.warnings)
    if as_json:
        parameters.print_json("inspect", inspecting.as_json(described, bounds))
    else:
        click.echo(inspecting.as_text(described, bounds, top))


def _bounds() -> Roofline | None:
    """This machine's peaks; None, and a word about it, where they cannot be measured."""
    from relaxc.measure.roofline import roofline

    try:
        return roofline(cpu.available_cores())
    except TargetError as err:
        parameters.warn([f"no roofline estimates: {err}"])
        return None
