"""relaxc compile: an ONNX model into an artifact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from relaxc.cli import parameters
from relaxc.cli.contained import note
from relaxc.cli.progress import progress
from relaxc.cli.quiet import quiet
from relaxc.cli.shaping import read_shaping, shaping
from relaxc.errors import OptionError


@click.command("compile")
@click.argument("model", type=parameters.PATH)
@click.option("-o", "--output", type=parameters.PATH, help="[default: MODEL with suffix .rxc]")
@shaping
@click.option(
    "--save-recipe",
    type=parameters.PATH,
    metavar="FILE",
    help="Write what was done, with the layers that stayed float, for `--recipe`.",
)
@click.option(
    "--plot-ranges",
    type=parameters.PATH,
    metavar="FILE",
    help="Draw what the data of int8 layers hold, as .svg, .png or .pdf.",
)
@click.option(
    "--try-exclusions",
    is_flag=True,
    help="Measure what leaving the least exact int8 layers float would buy.",
)
@parameters.evaluating
@parameters.tuning_records
@parameters.io
@click.option(
    "--tensor-parallel",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="Divide the layers of a transformer among N GPUs.",
)
@click.option("--no-tuning-records", is_flag=True, help="Kernels as they are without tuning.")
@click.option("--verify", is_flag=True, help="Check the module's form after every pass.")
@click.option("--dump-dir", type=parameters.PATH, help="Write IR, assembly and manifest there.")
@click.option("--print-ir-before", multiple=True, metavar="PASS", help="May be repeated.")
@click.option("--print-ir-after", multiple=True, metavar="PASS", help="May be repeated.")
@click.option("--print-pass-times", is_flag=True, help="Print what each pass took.")
@parameters.common
def compile_(
    model: Path,
    output: Path | None,
    save_recipe: Path | None,
    plot_ranges: Path | None,
    try_exclusions: bool,
    evaluate: str | None,
    tuning_records: Path | None,
    io: str,
    tensor_parallel: int,
    no_tuning_records: bool,
    verify: bool,
    dump_dir: Path | None,
    print_ir_before: tuple[str, ...],
    print_ir_after: tuple[str, ...],
    print_pass_times: bool,
    as_json: bool,
    debug: bool,
    **shape: Any,
) -> None:
    """Compile an ONNX MODEL into an artifact."""
    if no_tuning_records and tuning_records is not None:
        raise OptionError("give `--tuning-records` or `--no-tuning-records`, not both")
    function = parameters.read_function(evaluate)
    shaped = read_shaping(**shape)
    quantize = shaped.options.quantize
    if (plot_ranges or try_exclusions) and (quantize is None or quantize.scheme != "int8"):
        raise OptionError("`--plot-ranges` and `--try-exclusions` go with `--quantize int8`")
    options = replace(shaped.options, io=parameters.IO_NAMES[io], tensor_parallel=tensor_parallel)
    if no_tuning_records or tuning_records is not None:
        options = replace(options, tuning_records=tuning_records)
    with (
        progress("Loading the compiler", is_shown=not (as_json or debug)) as show,
        quiet(debug) as echo,
    ):
        from relaxc.compiler import compile, require_writable
        from relaxc.options import Diagnostics

        for path in (save_recipe, plot_ranges):
            if path is not None:
                require_writable(path, model)
        diagnostics = Diagnostics(
            print_ir_before=print_ir_before,
            print_ir_after=print_ir_after,
            dump_dir=dump_dir,
            verify=verify,
            echo=echo,
            on_phase=show,
            on_step=note,
            ranges=plot_ranges is not None,
            exclusions=try_exclusions,
            checkpoint=shaped.checkpoint,
        )
        result = compile(
            model,
            output or model.with_suffix(".rxc"),
            options,
            diagnostics,
            shaped.calibration,
            shaped.recovery,
        )
        if save_recipe is not None:
            from relaxc.search.recipe_file import write_recipe

            write_recipe(save_recipe, options, result)
        if plot_ranges is not None:
            from relaxc.report.ranges import plot

            plot(plot_ranges, result.ranges)
        score = None
        if function is not None:
            from relaxc.measure.evaluate import evaluate_on

            score = evaluate_on(result.path, function)
    from relaxc.report import compiling

    parameters.warn(result.warnings)
    if as_json:
        parameters.print_json("compile", {**compiling.as_json(result), "score": score})
        return
    if print_pass_times:
        click.echo(compiling.pass_times(result))
    click.echo(compiling.as_text(result))
    if score is not None:
        click.echo(f"Evaluated:   {score:.6g} by {evaluate}")
