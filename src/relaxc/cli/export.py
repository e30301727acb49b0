"""relaxc export: a pruned or quantized model as ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from relaxc.cli import parameters
from relaxc.cli.contained import note
from relaxc.cli.progress import progress
from relaxc.cli.quiet import quiet
from relaxc.cli.shaping import read_shaping, shaping


@click.command()
@click.argument("model", type=parameters.PATH)
@click.option(
    "-o", "--output", type=parameters.PATH, help="[default: MODEL with suffix .export.onnx]"
)
@shaping
@parameters.common
def export(
    model: Path,
    output: Path | None,
    as_json: bool,
    debug: bool,
    **shape: Any,
) -> None:
    """Write a pruned or quantized MODEL as ONNX, for other runtimes.

    Takes what `relaxc compile` takes to prune and to quantize. Inputs, outputs and nodes keep their
    names; integers are written as QuantizeLinear and DequantizeLinear; nothing is timed.
    """
    shaped = read_shaping(**shape)
    with progress("Loading the compiler", not (as_json or debug)) as show, quiet(debug):
        from relaxc.exporting import export as run
        from relaxc.options import Diagnostics

        diagnostics = Diagnostics(on_phase=show, on_step=note, checkpoint=shaped.checkpoint)
        path = output or model.with_suffix(".export.onnx")
        result = run(model, path, shaped.options, diagnostics, shaped.calibration, shaped.recovery)
    from relaxc.report import exporting

    parameters.warn(result.warnings)
    if as_json:
        parameters.print_json("export", exporting.as_json(result))
    else:
        click.echo(exporting.as_text(result))
