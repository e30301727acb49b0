"""How a product is divided among blocks: as was measured, or as the kernels have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from relaxc.layout import Layout, Quantization
from relaxc.targets.cuda.groups.base import Context, Group
from relaxc.targets.cuda.kernels import tilings
from relaxc.targets.cuda.kernels.tilings import Tiling
from relaxc.targets.llvm.kernels.domain import Domain
from relaxc.targets.tuning.records import Fields
from relaxc.targets.tuning.task import EPILOGUE, Choice

_LATER = ("row_bytes", "copiers", "is_sparse", "has_rests")


def tiling_for(
    context: Context,
    sizes: tuple[int | None, int, int, int | None],
    workload: Fields,
    packed: bool,
    is_fetched: bool,
) -> Tiling:
    """The tiling that a product is written with.

    Args:
        context: knows what was measured.
        sizes: rows, columns, depth, and how many such products; None for what is known at run time.
        workload: what is computed, for the records.
        packed, is_fetched: as of `tilings.choose_tiling`.
    """
    rows, columns, depth, batch = sizes
    arguments = (rows, columns, depth, batch or 1, context.gpu, context.mode)
    usual = tilings.choose_tiling(*arguments, packed=packed, is_fetched=is_fetched)
    if rows is None or batch is None:
        return usual

    def space() -> list[Choice]:
        ranked = tilings.ranked_tilings(*arguments, packed=packed, is_fetched=is_fetched)
        deeper = [t for known in ranked for t in _other_stages(known)]
        fits = (t for t in deeper if t.shared_bytes <= context.gpu.shared_bytes)
        return [as_choice(tiling) for tiling in dict.fromkeys((usual, *ranked, *fits))]

    facts = {"precision": context.mode, "packed": packed, "is_fetched": is_fetched}
    choice = context.choose({**workload, **facts}, space)
    return usual if choice is None else Tiling(**choice)  # type: ignore[arg-type]


def as_choice(tiling: Tiling) -> Choice:
    """A tiling as records have it: those of before its latest parameters know nothing of them."""
    return {
        field.name: getattr(tiling, field.name)
        for field in fields(Tiling)
        if field.name not in _LATER or getattr(tiling, field.name) != field.default
    }


def epilogue_names(group: Group, domain: Domain) -> list[str]:
    """The operators of an epilogue, and how their operands are broadcast."""
    names = [str(call.op.name).removeprefix("relax.") for _, call in group.epilogue.bindings]
    kinds = [domain.broadcasting(o.shape) or "" for o in group.epilogue.operands]
    return [*names, *(f"[{kind}]" for kind in kinds)]


def workload_of(
    kernel: str, group: Group, domain: Domain, stored: tuple[Layout, Layout], **sizes: Any
) -> dict[str, Any]:
    """What a group computes, as far as it matters for speed.

    Args:
        kernel: its template.
        group: the group.
        domain: of its result.
        stored: how its data and its result lie in memory.
        sizes: and the like.
    """
    told = {name: _plain(value) for name, value in sizes.items()}
    # Bytes are bytes, whatever their scales are.
    kinds = ["uint8" if Quantization.of(lay.element) else lay.element for lay in stored]
    told |= dict(zip(("element", "result"), kinds))
    return {"kernel": kernel, **told, EPILOGUE: epilogue_names(group, domain)}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _other_stages(tiling: Tiling) -> list[Tiling]:
    """The same with another number of tiles in flight."""
    if tiling.is_streamed:  # as many as fit, already
        return []
    # Joint products lag one tile behind.
    counts = (3, 4, 5, 6) if tiling.is_joint else (2, 3, 4)
    return [replace(tiling, stages=n) for n in counts if n != tiling.stages]
