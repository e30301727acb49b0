"""relaxc check: whether a compiled model computes what ONNX Runtime computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from relaxc.artifact import is_artifact
from relaxc.cli import parameters
from relaxc.cli.progress import progress
from relaxc.cli.quiet import quiet
from relaxc.measure.compare import QUANTIZED, TOLERANCES, Tolerance
from relaxc.measure.feeds import FeedOptions, FillMode


def _default(limit: str) -> str:
    usual = (TOLERANCES["float32"], TOLERANCES["bfloat16"], QUANTIZED["int8"])
    exact, rounded, integers = (getattr(tolerance, limit) for tolerance in usual)
    return f"[default: {exact:g}; {rounded:g} for bf16, {integers:g} for int8]"


@click.command()
@click.argument("path", metavar="MODEL|ARTIFACT", type=parameters.PATH)
@click.option("--model", type=parameters.PATH, help="The ONNX model behind an artifact.")
@click.option("--atol", type=float, help=f"Absolute tolerance.  {_default('atol')}")
@click.option(
    "--rtol",
    type=float,
    help=f"Tolerance relative to the largest value of an output.  {_default('rtol')}",
)
@click.option("--cos", type=float, help=f"Least cosine.  {_default('cos')}")
@click.option("--per-layer", is_flag=True, help="Name the first layer that diverges.")
@parameters.evaluating
@parameters.feed
@parameters.shapes
@parameters.compiling
@parameters.common
def check(
    path: Path,
    model: Path | None,
    atol: float | None,
    rtol: float | None,
    cos: float | None,
    per_layer: bool,
    evaluate: str | None,
    inputs: Path | None,
    fill_mode: FillMode,
    seed: int,
    as_json: bool,
    debug: bool,
    **shape: Any,
) -> int:
    """Compare a MODEL, or the ARTIFACT compiled from one, with ONNX Runtime.

    Exits with 1 when an output differs.
    """
    from relaxc.report import checking

    given = {"atol": atol, "rtol": rtol, "cos": cos}
    limits = {name: value for name, value in given.items() if value is not None}
    Tolerance(**limits)  # complains before the work
    if is_artifact(path):
        parameters.refuse_compiling(f"`{path}` is an artifact")
    function = parameters.read_function(evaluate)
    options = parameters.read_compile_options(**shape)
    with progress("Checking", is_shown=not (as_json or debug)), quiet(debug):
        from relaxc.measure.check import CheckOptions
        from relaxc.measure.check import check as compare

        check_options = CheckOptions(
            model=model,
            feed=FeedOptions(
                path=inputs, shapes=options.input_shapes, fill_mode=fill_mode, seed=seed
            ),
            limits=limits,
            per_layer=per_layer,
            compile=options,
            evaluate=function,
        )
        result = compare(path, check_options)
    parameters.warn(result.warnings)
    if as_json:
        parameters.print_json("check", checking.as_json(result))
    else:
        click.echo(checking.as_text(result))
    return 0 if result.is_ok else 1
