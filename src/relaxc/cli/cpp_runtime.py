"""relaxc cpp-runtime: what C++ programs take to run artifacts."""

from __future__ import annotations

from pathlib import Path

import click

from relaxc.cli import parameters


@click.command("cpp-runtime")
@click.argument("folder", type=parameters.PATH)
@parameters.common
def cpp_runtime(folder: Path, as_json: bool, debug: bool) -> None:
    """Write to FOLDER what C++ programs take to run artifacts: headers, a library, a CMake package.

    Programs include `relaxc.hpp`. Where they run, they need `libtvm_ffi.so` beside the artifact,
    neither Python nor TVM.
    """
    from relaxc.cpp.kit import write_kit

    written = [str(path) for path in write_kit(folder)]
    if as_json:
        parameters.print_json("cpp-runtime", {"folder": str(folder), "written": written})
    else:
        click.echo("\n".join(written))
