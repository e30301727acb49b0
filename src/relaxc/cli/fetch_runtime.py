"""relaxc fetch-runtime: what artifacts for another architecture carry."""

from __future__ import annotations

from pathlib import Path

import click

from relaxc.cli import parameters
from relaxc.cli.quiet import quiet


@click.command("fetch-runtime")
@click.argument("architecture")
@click.option(
    "--wheel", type=parameters.PATH, metavar="FILE", help="Take it from this wheel, not from pip."
)
@parameters.common
def fetch_runtime(architecture: str, wheel: Path | None, as_json: bool, debug: bool) -> None:
    """Get TVM's runtime for another ARCHITECTURE, such as aarch64, to compile for it.

    pip downloads TVM's wheel from the package index that it is configured for (about 100 MB); what
    is needed of it is kept in the cache folder (a few MB).
    """
    with quiet(debug):
        from relaxc.targets.llvm.tvm_runtime import fetch_runtime as fetch

        folder = fetch(architecture, wheel)
    names = sorted(path.name for path in folder.glob("*.so"))
    if as_json:
        fields = {"architecture": architecture, "folder": str(folder), "libraries": names}
        parameters.print_json("fetch-runtime", fields)
    else:
        click.echo(f"{', '.join(names)} for {architecture} in {folder}")
