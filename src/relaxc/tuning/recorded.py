"""How compiling meets tuning: backends that know the records."""

from __future__ import annotations

from pathlib import Path

from relaxc.errors import OptionError
from relaxc.options import CompileOptions
from relaxc.targets.base import Backend
from relaxc.targets.registry import backend_for
from relaxc.targets.tuning.history import History
from relaxc.targets.tuning.records import RecordStore, records_path


def recorded_backend(options: CompileOptions, warnings: list[str]) -> Backend:
    """The target's backend, which knows what was measured on such machines.

    Args:
        options: say for which target, and where the records are.
        warnings: receives what is wrong with the records.

    Raises:
        OptionError: the target makes no sense, or there are no records where they should be.
        RecordsError: they cannot be read.
    """
    backend = backend_for(options.target).with_precision(options.precision)
    if options.tuning_records is None or backend.with_records(History([])) is backend:
        return backend.with_records(History([]))
    is_default = options.tuning_records == "default"
    path = records_path(None if is_default else Path(options.tuning_records))
    if not is_default and not path.exists():
        raise OptionError(f"tuning records `{path}` do not exist; make them with `relaxc tune`")
    return backend.with_records(read_history(RecordStore(path), warnings))


def read_history(store: RecordStore, warnings: list[str]) -> History:
    """What a file of records says; what cannot be read is skipped with a warning."""
    contents = store.read()
    history = History(contents.records)
    skipped = contents.damaged + history.foreign
    if skipped:
        warnings.append(
            f"{skipped} damaged or unknown lines of `{store.path}` are skipped; "
            "`relaxc cache verify` says which"
        )
    return history
