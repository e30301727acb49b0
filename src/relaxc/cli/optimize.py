"""relaxc optimize: the fastest artifact that keeps the accuracy."""

from __future__ import annotations

from pathlib import Path

import click

from relaxc.cli import parameters
from relaxc.cli.progress import progress
from relaxc.cli.quiet import quiet
from relaxc.errors import OptionError
from relaxc.measure.samples import imported, samples_from

_GOAL_MISSED = 1


@click.command()
@click.argument("model", type=parameters.PATH)
@click.option(
    "--data",
    required=True,
    metavar="DATA",
    help="Samples of real inputs: an .npz file with the samples along the first axis, a folder "
    "with one .npz file each, or module:function.",
)
@click.option("--labels", type=parameters.PATH, help="An .npy file with a label per sample.")
@click.option(
    "--metric",
    help="top1, top5, f1, spearman, psnr or perplexity, against the labels; cosine or agreement, "
    "against the float model.  [default: top1 with labels, else cosine]",
)
@click.option(
    "--evaluate",
    metavar="MODULE:FUNCTION",
    help="Your own metric: called with a loaded model, returns a number, more is better.",
)
@click.option(
    "--max-drop",
    default="1%",
    show_default=True,
    help="What may be lost: 1% of the float model's score, or 0.5pt (0.005) of it.",
)
@click.option("--max-latency", metavar="TIME", help="Such as 5ms.")
@click.option("--max-size", metavar="SIZE", help="Of the artifact, such as 10MB.")
@click.option("--time-budget", default="30m", show_default=True, help="Such as 90s, 30m or 2h.")
@click.option("-o", "--output", type=parameters.PATH, help="[default: MODEL with suffix .rxc]")
@click.option("--pareto", type=parameters.PATH, help="Also keep the artifacts of the front there.")
@click.option(
    "--report",
    type=parameters.PATH,
    help="An HTML file about the search.  [default: the output's name with .html, where "
    "`relaxc[report]` is installed]",
)
@click.option(
    "--tune/--no-tune",
    default=True,
    show_default=True,
    help="Tune the kernels of the best, in half of the time at most.",
)
@click.option("--resume", is_flag=True, help="Go on where an earlier search ended.")
@click.option("--recipe", type=parameters.PATH, help="Build what a finished search found, again.")
@click.option("--seed", default=0, show_default=True, help="Of the split of the data.")
@click.option(
    "--target", default="llvm", show_default=True, help="As for `compile`; this machine measures."
)
@parameters.threads
@parameters.shapes
@parameters.common
def optimize(
    model: Path,
    data: str,
    labels: Path | None,
    metric: str | None,
    evaluate: str | None,
    max_drop: str,
    max_latency: str | None,
    max_size: str | None,
    time_budget: str,
    output: Path | None,
    pareto: Path | None,
    report: Path | None,
    tune: bool,
    resume: bool,
    recipe: Path | None,
    seed: int,
    target: str,
    threads: int | None,
    input_shapes: tuple[str, ...],
    as_json: bool,
    debug: bool,
) -> None:
    """Search for the fastest artifact of MODEL that keeps its accuracy.

    The best artifact so far is at the output from the first minute on. Exits with 1 when the goal
    cannot be met; the closest artifact is kept.
    """
    output = output or model.with_suffix(".rxc")
    samples = samples_from(data)
    function = None
    if evaluate is not None:
        module, _, name = evaluate.partition(":")
        if not module or not name:
            raise OptionError(f"`{evaluate}` is not a function; write `module:function`")
        function = imported(module, name)
    is_shown = not (as_json or debug)
    with progress("Loading the compiler", is_shown) as show, quiet(debug) as echo:
        from relaxc.options import CompileOptions
        from relaxc.report import optimizing
        from relaxc.report.html.page import can_report
        from relaxc.report.html.search import write_search_report
        from relaxc.search.dataset import read_labels
        from relaxc.search.goal import Goal, MaxDrop, parse_duration, parse_latency, parse_size
        from relaxc.search.optimize import Watcher
        from relaxc.search.optimize import optimize as search
        from relaxc.search.options import SearchOptions
        from relaxc.search.replay import replay

        options = SearchOptions(
            goal=Goal(
                max_drop=MaxDrop.parse(max_drop),
                max_latency_ms=None if max_latency is None else parse_latency(max_latency),
                max_size_bytes=None if max_size is None else parse_size(max_size),
            ),
            metric=metric,
            evaluate=function,
            time_budget_s=parse_duration(time_budget),
            seed=seed,
            threads=threads,
            tune=tune,
            resume=resume,
            pareto_dir=pareto,
            compile=CompileOptions(
                target=target, input_shapes=parameters.read_shapes(input_shapes)
            ),
        )
        truth = None if labels is None else read_labels(labels)
        if recipe is not None:
            built = replay(model, output, recipe, samples, truth, options.compile)
            warnings, text, code = list(built.warnings), f"Artifact: {output}", 0
            document = {"artifact": str(output), "manifest": built.manifest}
        else:
            watcher = Watcher(
                started=lambda r, s: show(optimizing.status(r, s)),
                finished=lambda t, s: None if as_json else echo(optimizing.progress_line(t, s)),
            )
            result = search(model, output, samples, truth, options, watcher)
            if report is not None or can_report():
                report = report or output.with_name(output.name + ".html")
                show("Reporting")
                write_search_report(report, result, options)
            warnings, text = optimizing.warnings(result), optimizing.as_text(result)
            document, code = optimizing.as_json(result), 0 if result.meets_goal else _GOAL_MISSED
    parameters.warn(warnings)
    if as_json:
        parameters.print_json("optimize", document)
    else:
        click.echo(text)
    raise click.exceptions.Exit(code)
