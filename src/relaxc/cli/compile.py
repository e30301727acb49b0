"""relaxc compile: an ONNX model into an artifact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from relaxc.cli import parameters, pruning
from relaxc.cli.contained import note
from relaxc.cli.progress import progress
from relaxc.cli.quiet import quiet
from relaxc.errors import OptionError
from relaxc.measure.samples import samples_from
from relaxc.options import (
    Augmentation,
    CalibrationMethod,
    DistillOptions,
    Importance,
    QuantizeOptions,
    Scheme,
    Scope,
)


@click.command("compile")
@click.argument("model", type=parameters.PATH)
@click.option("-o", "--output", type=parameters.PATH, help="[default: MODEL with suffix .rxc]")
@parameters.compiling
@parameters.shapes
@pruning.pruning
@parameters.quantizing
@parameters.tuning_records
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
    target: str,
    opt_level: int,
    disabled_passes: tuple[str, ...],
    precision: str,
    preprocess: tuple[str, ...],
    postprocess: tuple[str, ...],
    input_shapes: tuple[str, ...],
    prune: tuple[str, ...],
    importance: Importance,
    scope: Scope,
    round_to: str,
    keep: tuple[str, ...],
    recover: str | None,
    samples: str | None,
    sensitivity: str | None,
    distill_epochs: int | None,
    learning_rate: float,
    augment: tuple[Augmentation, ...],
    checkpoint: Path | None,
    quantize: Scheme | None,
    group_size: int | None,
    calibrate: str | None,
    calibration: CalibrationMethod,
    correct: str,
    per_channel: bool,
    symmetric: bool,
    exclude: tuple[str, ...],
    tuning_records: Path | None,
    no_tuning_records: bool,
    speed_gate: bool,
    verify: bool,
    dump_dir: Path | None,
    print_ir_before: tuple[str, ...],
    print_ir_after: tuple[str, ...],
    print_pass_times: bool,
    as_json: bool,
    debug: bool,
) -> None:
    """Compile an ONNX MODEL into an artifact."""
    options = parameters.read_compile_options(
        target, opt_level, disabled_passes, input_shapes, precision, preprocess, postprocess
    )
    distill = None
    if distill_epochs is not None:
        distill = DistillOptions(
            epochs=distill_epochs, learning_rate=learning_rate, augment=augment
        )
    elif augment or checkpoint is not None:
        raise OptionError("`--augment` and `--checkpoint` go with `--distill`")
    options = pruning.read_pruning(
        options, prune, importance, scope, round_to, keep, recover, samples, sensitivity, distill
    )
    if no_tuning_records or tuning_records is not None:
        if no_tuning_records and tuning_records is not None:
            raise OptionError("give `--tuning-records` or `--no-tuning-records`, not both")
        options = replace(options, tuning_records=tuning_records)
    pruning_source = recover or samples or pruning.data_of(sensitivity)
    pruning_data = None if pruning_source is None else samples_from(pruning_source)
    if quantize is not None:
        quantization = QuantizeOptions(
            scheme=quantize,
            calibration=calibration,
            correct=parameters.read_corrections(correct),
            per_channel=per_channel,
            symmetric=symmetric,
            exclude=exclude,
            group_size=group_size,
            speed_gate=speed_gate,
        )
        options = replace(options, quantize=quantization)
        if quantize == "int8" and calibrate is None:
            raise OptionError(
                "`--quantize int8` needs calibration data; give it with `--calibrate`"
            )
    elif calibrate is not None or exclude or group_size is not None:
        raise OptionError("`--calibrate`, `--exclude` and `--group-size` go with `--quantize`")
    data = samples_from(calibrate) if calibrate is not None else None
    with (
        progress("Loading the compiler", is_shown=not (as_json or debug)) as show,
        quiet(debug) as echo,
    ):
        from relaxc.compiler import compile
        from relaxc.options import Diagnostics

        diagnostics = Diagnostics(
            print_ir_before=print_ir_before,
            print_ir_after=print_ir_after,
            dump_dir=dump_dir,
            verify=verify,
            echo=echo,
            on_phase=show,
            on_step=note,
            checkpoint=checkpoint,
        )
        result = compile(
            model, output or model.with_suffix(".rxc"), options, diagnostics, data, pruning_data
        )
    from relaxc.report import compiling

    parameters.warn(result.warnings)
    if as_json:
        parameters.print_json("compile", compiling.as_json(result))
        return
    if print_pass_times:
        click.echo(compiling.pass_times(result))
    click.echo(compiling.as_text(result))
