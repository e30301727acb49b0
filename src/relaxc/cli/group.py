"""The commands."""

from __future__ import annotations

import click

import relaxc
from relaxc.cli.bench import bench
from relaxc.cli.cache import cache
from relaxc.cli.check import check
from relaxc.cli.compile import compile_
from relaxc.cli.cpp_runtime import cpp_runtime
from relaxc.cli.distill import distill
from relaxc.cli.export import export
from relaxc.cli.fetch_runtime import fetch_runtime
from relaxc.cli.inspect import inspect
from relaxc.cli.optimize import optimize
from relaxc.cli.report import report
from relaxc.cli.run import run
from relaxc.cli.sensitivity import sensitivity
from relaxc.cli.tune import tune


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(relaxc.__version__, prog_name="relaxc")
def cli() -> None:
    """Compile ONNX models into self-contained artifacts, run and measure them."""


for _command in (
    compile_,
    tune,
    cache,
    run,
    bench,
    check,
    inspect,
    optimize,
    sensitivity,
    export,
    distill,
    report,
    fetch_runtime,
    cpp_runtime,
):
    cli.add_command(_command)
