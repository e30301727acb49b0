"""relaxc cache: look after what `relaxc tune` has measured."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from relaxc.cli import parameters
from relaxc.cli.quiet import quiet

# Damage is found: as for checks that fail.
_DAMAGED = 1


@click.group()
def cache() -> None:
    """Look after what `relaxc tune` has measured."""


def _say(command: str, as_json: bool, document: dict[str, Any], text: str) -> None:
    if as_json:
        parameters.print_json(f"cache {command}", document)
    else:
        click.echo(text)


@cache.command("ls")
@parameters.tuning_records
@parameters.common
def ls(tuning_records: Path | None, as_json: bool, debug: bool) -> None:
    """List the kernels that were tuned."""
    with quiet(debug):
        from relaxc.report import caching
        from relaxc.targets.tuning.records import RecordStore, records_path
        from relaxc.tuning.maintain import known

        found = known(RecordStore(records_path(tuning_records)).read())
    document = {"kernels": [asdict(kernel) for kernel in found]}
    _say("ls", as_json, document, caching.listing(found))


@cache.command()
@parameters.tuning_records
@parameters.common
def stats(tuning_records: Path | None, as_json: bool, debug: bool) -> None:
    """Count records, kernels and failures."""
    with quiet(debug):
        from relaxc.report import caching
        from relaxc.targets.tuning.records import RecordStore, records_path
        from relaxc.tuning import maintain

        numbers = maintain.stats(RecordStore(records_path(tuning_records)))
    _say("stats", as_json, numbers, caching.numbers(numbers))


@cache.command()
@click.argument("model", type=parameters.PATH)
@parameters.tuning_records
@parameters.compiling
@parameters.shapes
@parameters.common
def why(
    model: Path,
    tuning_records: Path | None,
    as_json: bool,
    debug: bool,
    **shape: Any,
) -> None:
    """Explain what compiling a MODEL finds in the records, and what it misses."""
    options = parameters.read_compile_options(**shape)
    with quiet(debug):
        from relaxc.report import caching
        from relaxc.tuning import maintain

        reasons = maintain.why(model, options, tuning_records)
    document = {"kernels": [asdict(reason) for reason in reasons]}
    _say("why", as_json, document, caching.reasons(reasons))


@cache.command("export")
@click.argument("output", type=parameters.PATH)
@click.option("--all", "all_", is_flag=True, help="Also trials that nothing depends on.")
@parameters.tuning_records
@parameters.common
def export(
    output: Path, all_: bool, tuning_records: Path | None, as_json: bool, debug: bool
) -> None:
    """Write what compiling needs to a file that a team can share and commit."""
    with quiet(debug):
        from relaxc.targets.tuning.history import is_record
        from relaxc.targets.tuning.records import RecordStore, records_path
        from relaxc.tuning.maintain import essential

        records = RecordStore(records_path(tuning_records)).read().records
        kept = [r for r in records if is_record(r)] if all_ else essential(records)
        RecordStore(output).replace(lambda _: kept)
    document = {"output": str(output), "records": len(kept)}
    _say("export", as_json, document, f"{len(kept)} records: {output}")


@cache.command("import")
@click.argument("sources", type=parameters.PATH, nargs=-1, required=True, metavar="FILE...")
@parameters.tuning_records
@parameters.common
def import_(
    sources: tuple[Path, ...], tuning_records: Path | None, as_json: bool, debug: bool
) -> None:
    """Add the records of FILEs to those of this machine."""
    from relaxc.targets.tuning.records import records_path

    _add("import", sources, records_path(tuning_records), as_json, debug)


@cache.command()
@click.argument("sources", type=parameters.PATH, nargs=-1, required=True, metavar="FILE...")
@click.option("-o", "--output", type=parameters.PATH, required=True, help="May exist.")
@parameters.common
def merge(sources: tuple[Path, ...], output: Path, as_json: bool, debug: bool) -> None:
    """Add the records of FILEs to another file."""
    _add("merge", sources, output, as_json, debug)


def _add(command: str, sources: tuple[Path, ...], to: Path, as_json: bool, debug: bool) -> None:
    with quiet(debug):
        from relaxc.targets.tuning.records import RecordStore
        from relaxc.tuning.maintain import add_records

        added, skipped = add_records(RecordStore(to), sources)
    if skipped:
        parameters.warn([f"{skipped} damaged or unknown lines are skipped"])
    document = {"records": str(to), "added": added, "skipped": skipped}
    _say(command, as_json, document, f"{added} new records: {to}")


@cache.command()
@click.option("--drop-trials", is_flag=True, help="Also trials that nothing depends on.")
@parameters.tuning_records
@parameters.common
def prune(drop_trials: bool, tuning_records: Path | None, as_json: bool, debug: bool) -> None:
    """Drop damaged lines, and records of other versions of TVM or of our kernels."""
    with quiet(debug):
        from relaxc.targets.tuning.records import RecordStore, records_path
        from relaxc.tuning import maintain

        store = RecordStore(records_path(tuning_records))
        before, after = maintain.prune(store, drop_trials)
    document = {"records": str(store.path), "before": before, "after": after}
    _say("prune", as_json, document, f"{before} records before, {after} after: {store.path}")


@cache.command()
@parameters.tuning_records
@parameters.common
def verify(tuning_records: Path | None, as_json: bool, debug: bool) -> None:
    """Check every line; exits with 1 if one holds no record. Others are usable all the same."""
    with quiet(debug):
        from relaxc.targets.tuning.records import RecordStore, records_path
        from relaxc.tuning import maintain

        store = RecordStore(records_path(tuning_records))
        found = maintain.verify(store)
    lines = [f"line {number}: {what}" for number, what in found]
    document = {
        "records": str(store.path),
        "damaged": [{"line": number, "what": what} for number, what in found],
    }
    _say("verify", as_json, document, "\n".join(lines) or f"All lines are whole: {store.path}")
    raise click.exceptions.Exit(_DAMAGED if found else 0)
