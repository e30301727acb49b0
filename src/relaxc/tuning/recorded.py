"""How compiling meets tuning: backends that know the records, and kernels that records speak of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import onnx

from relaxc.errors import OptionError
from relaxc.frontend.extension import Extension
from relaxc.frontend.importer import from_onnx
from relaxc.options import CompileOptions, Diagnostics
from relaxc.pass_runner import PassRunner, select_passes
from relaxc.passes.base import Pass
from relaxc.passes.layout.choose_layout import ChooseLayout
from relaxc.passes.pipeline import default_passes
from relaxc.targets.base import Backend
from relaxc.targets.llvm.library import LlvmKernels
from relaxc.targets.llvm.tuning import Site
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


def tuning_sites(
    backend: Backend, model: str | os.PathLike[str] | onnx.ModelProto, options: CompileOptions
) -> tuple[str, list[Site]]:
    """The kernels of a model that tuning has a say in, in order; nothing is built.

    Returns:
        The model's digest, and the sites.

    Raises:
        ModelError: the model is unreadable, invalid, unsupported, or needs the host.
        OptionError: it is to be pruned or quantized, which needs data; or as `compile` does.
    """
    if options.prune or options.sparsify or options.quantize:
        raise OptionError("models are tuned as they are: without pruning and quantization")
    kernels: LlvmKernels = backend.kernels
    passes: Sequence[Pass] = default_passes(backend.kernels, precision=options.precision)
    passes = select_passes(passes, options, Diagnostics())
    layouts = next(i for i, item in enumerate(passes) if item.name == ChooseLayout.name)
    extension = Extension.parse(options.preprocess, options.postprocess)
    imported = from_onnx(model, options.input_shapes, extension)
    mod = PassRunner(Diagnostics()).run(passes[: layouts + 1], imported.mod)
    return imported.sha256, kernels.sites(mod)
