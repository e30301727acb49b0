"""Run passes one by one: time, check and dump each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import tvm
from tvm import IRModule, relax

from relaxc.errors import OptionError, OutputError, PassError, RelaxcError, near_matches
from relaxc.options import CompileOptions, Diagnostics
from relaxc.passes.base import Pass
from relaxc.targets.base import Backend


@dataclass(frozen=True)
class PassRecord:
    """One pass that ran.

    Attributes:
        name: its name; repeated passes are numbered, as in `fold-constant-2`.
        seconds: wall time.
        changed: whether the module differs afterwards.
    """

    name: str
    seconds: float
    changed: bool


def select_passes(
    passes: Sequence[Pass], options: CompileOptions, diagnostics: Diagnostics
) -> list[Pass]:
    """Leave out the passes that the options disable.

    Raises:
        OptionError: a name matches no pass, or a pass that cannot be left out.
    """
    known = {p.name: p for p in passes}
    for name in (
        *options.disabled_passes,
        *diagnostics.print_ir_before,
        *diagnostics.print_ir_after,
    ):
        if name not in known:
            raise OptionError(
                f"unknown pass `{name}`{near_matches(name, known)}; passes are "
                + ", ".join(f"`{n}`" for n in known)
            )
    for name in options.disabled_passes:
        if known[name].required:
            raise OptionError(f"pass `{name}` cannot be disabled: nothing can be built without it")
    return [
        p
        for p in passes
        if p.required
        or (p.opt_level <= options.opt_level and p.name not in options.disabled_passes)
    ]


class PassRunner:
    """Runs passes one by one: times, checks and dumps each.

    Attributes:
        records: the passes that ran, in order.
    """

    def __init__(self, diagnostics: Diagnostics) -> None:
        self.diagnostics = diagnostics
        self.records: list[PassRecord] = []
        self._dumped = 0
        self._seen: dict[str, int] = {}

    def run(self, passes: Sequence[Pass], mod: IRModule) -> IRModule:
        """Run our passes; a name that repeats is numbered, also over several calls."""
        for item in passes:
            number = self._seen[item.name] = self._seen.get(item.name, 0) + 1
            label = item.name if number == 1 else f"{item.name}-{number}"
            if item.name in self.diagnostics.print_ir_before:
                self.diagnostics.echo(f"# IR before {label}\n{mod.script()}")
            mod = self._step(label, item.as_tvm(), mod)
            if item.name in self.diagnostics.print_ir_after:
                self.diagnostics.echo(f"# IR after {label}\n{mod.script()}")
            if self.diagnostics.verify:
                _verify(label, mod)
        return mod

    def lower(self, backend: Backend, mod: IRModule) -> IRModule:
        """Run the target's own passes."""
        with backend.target:
            for name, transform in backend.lowering_passes():
                mod = self._step(name, transform, mod)
        return mod

    def _step(self, label: str, transform: tvm.transform.Pass, mod: IRModule) -> IRModule:
        start = time.perf_counter()
        self.diagnostics.on_step(f"pass `{label}`")
        try:
            after = transform(mod)
        except RelaxcError:
            raise
        except Exception as err:
            raise pass_error(f"pass `{label}` failed", err) from err
        seconds = time.perf_counter() - start
        self.records.append(PassRecord(label, seconds, not after.same_as(mod)))
        self.dump(label, after)
        return after

    def dump(self, label: str, mod: IRModule) -> None:
        """Write a module to the dump folder, if there is one."""
        if self.diagnostics.dump_dir is not None:
            self.dump_text(f"{self._dumped:02}-{label}.py", mod.script())
            self._dumped += 1

    def dump_text(self, name: str, text: str) -> None:
        """Write a file to the dump folder, if there is one."""
        folder = self.diagnostics.dump_dir
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        except OSError as err:
            raise OutputError(f"cannot write to dump folder `{folder}`: {err.strerror}") from err


def _verify(label: str, mod: IRModule) -> None:
    try:
        relax.analysis.well_formed(mod)
    except ValueError as err:
        first = str(err).strip().splitlines()[0]
        raise PassError(f"pass `{label}` left an ill-formed module: {first}") from err


def pass_error(what: str, err: Exception) -> PassError:
    """The error to raise when something of ours broke."""
    first = (str(err).strip().splitlines() or [type(err).__name__])[0]
    return PassError(f"{what}: {first}; this is a bug of relaxc, please report it with the model")
