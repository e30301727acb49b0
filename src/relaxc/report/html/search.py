"""The report of a search: the float build beside the artifact that was chosen."""

from __future__ import annotations

from pathlib import Path

from relaxc import cpu
from relaxc.measure.machine import this_machine
from relaxc.report.html.collect import bounds, build_of
from relaxc.report.html.page import write_report
from relaxc.search.options import SearchOptions
from relaxc.search.result import Result


def write_search_report(path: Path, result: Result, options: SearchOptions) -> None:
    """Profile both builds and write the report.

    Raises:
        TargetError: jinja2 or matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    threads = options.threads or cpu.available_cores()
    machine = this_machine()
    chosen = build_of(
        result.output, str(result.best.recipe), threads, result.sample, result.best.passes
    )
    builds = [chosen]
    if result.best.number != result.base.number:
        builds.insert(0, build_of(result.base_artifact, "float32", threads, result.sample))
    title = chosen.manifest["model"]["name"]
    write_report(path, title, builds, machine, bounds(threads), result)
