"""relaxc distill: one model learns from another."""

from __future__ import annotations

from pathlib import Path

import click

from relaxc.cli import parameters
from relaxc.cli.contained import note
from relaxc.cli.progress import progress
from relaxc.cli.quiet import quiet
from relaxc.measure.samples import samples_from
from relaxc.options import AUGMENTATIONS, Augmentation, Diagnostics, DistillOptions


@click.command()
@click.option(
    "--teacher", type=parameters.PATH, required=True, help="The ONNX model to learn from."
)
@click.option("--student", type=parameters.PATH, required=True, help="The ONNX model that learns.")
@click.option(
    "--data",
    required=True,
    metavar="DATA",
    help="Samples of real inputs, without labels: an .npz file with the samples along the first "
    "axis, a folder with one .npz file each, or module:function.",
)
@click.option(
    "-o", "--output", type=parameters.PATH, help="[default: the student with .distilled.onnx]"
)
@click.option("--epochs", type=int, default=20, show_default=True, help="Passes over the samples.")
@click.option(
    "--learning-rate",
    type=float,
    default=0.003,
    show_default=True,
    help="The longest step, relative to the size of a weight.",
)
@click.option("--batch", type=int, default=32, show_default=True, help=parameters.BATCH)
@click.option(
    "--augment",
    multiple=True,
    type=click.Choice(AUGMENTATIONS),
    help="Mirror or move images, or mix samples; may be repeated.",
)
@click.option("--logits", multiple=True, metavar="OUTPUT", help=parameters.LOGITS)
@click.option("--checkpoint", type=parameters.PATH, help="Keep the state there, and go on from it.")
@parameters.shapes
@parameters.common
def distill(
    teacher: Path,
    student: Path,
    data: str,
    output: Path | None,
    epochs: int,
    learning_rate: float,
    batch: int,
    augment: tuple[Augmentation, ...],
    logits: tuple[str, ...],
    checkpoint: Path | None,
    input_shapes: tuple[str, ...],
    as_json: bool,
    debug: bool,
) -> None:
    """Train the student to give what the teacher gives for the same inputs, and write it as ONNX.

    Both have inputs and outputs of the same names and shapes. A tenth of the samples is kept aside;
    the weights that do best there are written.
    """
    options = DistillOptions(
        epochs=epochs,
        learning_rate=learning_rate,
        batch=batch,
        augment=augment,
        logits=logits,
    )
    samples = samples_from(data)
    with progress("Loading the compiler", not (as_json or debug)) as show, quiet(debug):
        from relaxc.distilling import distill as run

        diagnostics = Diagnostics(on_phase=show, on_step=note, checkpoint=checkpoint)
        path = output or student.with_suffix(".distilled.onnx")
        shapes = parameters.read_shapes(input_shapes)
        result = run(teacher, student, samples, path, options, shapes, diagnostics)
    parameters.warn(result.warnings)
    if as_json:
        fields = {"model": str(result.path), "errors": list(result.errors)}
        parameters.print_json("distill", fields)
        return
    click.echo(f"Model: {result.path}")
    if result.errors:
        before, best = result.errors[0], min(result.errors)
        of = "" if logits else " of the teacher's outputs"
        click.echo(f"Error: {best:.4f}{of}, {before:.4f} at the start")
