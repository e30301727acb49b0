"""relaxc check: whether a compiled model computes what ONNX Runtime computes."""

from __future__ import annotations

from pathlib import Path

import click

from relaxc.cli import parameters
from relaxc.cli.progress import progress
from relaxc.cli.quiet import quiet
from relaxc.measure.compare import Tolerance
from relaxc.measure.feeds import FillMode

_DEFAULT = Tolerance()


@click.command()
@click.argument("path", metavar="MODEL|ARTIFACT", type=parameters.PATH)
@click.option("--model", type=parameters.PATH, help="The ONNX model behind an artifact.")
@click.option(
    "--reference",
    type=click.Choice(["onnxruntime"]),
    default="onnxruntime",
    show_default=True,
    help="What to compare with.",
)
@click.option("--atol", default=_DEFAULT.atol, show_default=True, help="Absolute tolerance.")
@click.option(
    "--rtol",
    default=_DEFAULT.rtol,
    show_default=True,
    help="Tolerance relative to the largest value of an output.",
)
@click.option("--cos", default=_DEFAULT.cos, show_default=True, help="Least cosine.")
@click.option("--per-layer", is_flag=True, help="Name the first layer that diverges.")
@parameters.feed
@parameters.shapes
@parameters.compiling
@parameters.common
def check(
    path: Path,
    model: Path | None,
    reference: str,
    atol: float,
    rtol: float,
    cos: float,
    per_layer: bool,
    inputs: Path | None,
    fill_mode: FillMode,
    seed: int,
    input_shapes: tuple[str, ...],
    target: str,
    opt_level: int,
    disabled_passes: tuple[str, ...],
    as_json: bool,
    debug: bool,
) -> int:
    """Compare a MODEL, or the ARTIFACT compiled from one, with ONNX Runtime.

    Exits with 1 when an output differs.
    """
    from relaxc.report import checking

    tolerance = Tolerance(atol=atol, rtol=rtol, cos=cos)
    options = parameters.read_compile_options(target, opt_level, disabled_passes, input_shapes)
    with progress("Checking", is_shown=not (as_json or debug)), quiet(debug):
        from relaxc.measure.check import CheckOptions
        from relaxc.measure.check import check as compare

        check_options = CheckOptions(
            model=model,
            inputs=inputs,
            fill_mode=fill_mode,
            seed=seed,
            tolerance=tolerance,
            per_layer=per_layer,
            compile=options,
        )
        result = compare(path, check_options)
    parameters.warn(result.warnings)
    if as_json:
        parameters.print_json("check", checking.as_json(result, tolerance))
    else:
        click.echo(checking.as_text(result, tolerance))
    return 0 if result.is_ok else 1
