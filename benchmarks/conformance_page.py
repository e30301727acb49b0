"""The page of what passes of ONNX's backend suite, out of the logs of `conformance.py`."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

KINDS = ("node", "simple", "pytorch-operator", "pytorch-converted")
_HEAD = """\
ONNX's own backend suite, run by `benchmarks/conformance.py`, which also writes this page.
A case passes if every output has the expected type, shape and numbers, within the case's own
tolerance. A refusal names what is not supported; errors are failures that do not. Expanded cases
are function bodies of operators, as graphs. Left out: cases whose results depend on random numbers,
and ONNX's training domain. Whole models: [models](models.md). TVM is version 0.27 as it is, with
its own importer; many cases pass shapes, axes and counts as inputs, which it wants as constants.
"""
_SINGLE = (
    "; the reference rounds to single precision on the way: it is 1.5e-06 away from the exact "
    "result, relaxc 4.4e-07"
)
_NOTES = dict.fromkeys(("test_dft_inverse", "test_dft_inverse_opset19"), _SINGLE)


@dataclass(frozen=True)
class Result:
    """What came of a case.

    Attributes:
        name, kind: of the case.
        op: the operator that it is about; expanded cases are about the one that was expanded.
        is_expanded: whether it is the function body of an operator.
        status: `pass`, `mismatch`, `refused`, `error`, `crash` or `timeout`.
        message: why it did not pass.
    """

    name: str
    kind: str
    op: str
    is_expanded: bool
    status: str
    message: str = ""


def read(log: Path) -> list[Result]:
    """The results of a log."""
    lines = log.read_text(encoding="utf-8").splitlines()
    return [Result(**json.loads(line)) for line in lines]


def table(ours: list[Result], *theirs: list[Result]) -> str:
    """The page of relaxc's log, of ONNX Runtime's and of TVM's."""
    others = [{r.name: r for r in results} for results in theirs]
    lines = [
        "# Conformance",
        "",
        _HEAD,
        *_totals(ours, others),
        "",
        "## By operator",
        "",
        "Cases that pass, of how many: direct ones and expanded ones.",
        "",
        "| operator | relaxc | ONNX Runtime | TVM | relaxc, expanded | ONNX Runtime, expanded "
        "| TVM, expanded |",
        "|---|---|---|---|---|---|---|",
        *_by_operator(ours, others),
        "",
        "## What does not pass",
        "",
        "| case | status | why |",
        "|---|---|---|",
        *(
            f"| {r.name} | {r.status} | {_cell(r.message)}{_NOTES.get(r.name, '')} |"
            for r in sorted(ours, key=lambda r: r.name)
            if r.status != "pass"
        ),
    ]
    return "\n".join(lines) + "\n"


def _totals(ours: list[Result], others: Sequence[dict[str, Result]]) -> list[str]:
    lines = [
        "| cases | number | relaxc passes | refuses | wrong | errors, crashes, timeouts "
        "| ONNX Runtime passes | wrong | TVM passes | wrong |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups = {
        "nodes, direct": [r for r in ours if r.kind == "node" and not r.is_expanded],
        "nodes, expanded": [r for r in ours if r.is_expanded],
        **{kind: [r for r in ours if r.kind == kind] for kind in KINDS if kind != "node"},
        "**all**": ours,
    }
    for name, members in groups.items():
        counts = Counter(r.status for r in members)
        broken = counts["error"] + counts["crash"] + counts["timeout"]
        cells = [_share(counts["pass"], members), counts["refused"], counts["mismatch"], broken]
        for other in others:
            found = Counter(other[r.name].status for r in members if r.name in other)
            cells += [_share(found["pass"], members), found["mismatch"]]
        lines.append(f"| {name} | {len(members)} | {' | '.join(map(str, cells))} |")
    return lines


def _share(count: int, members: list[Result]) -> str:
    return f"{count} ({100 * count / max(1, len(members)):.1f} %)"


def _by_operator(ours: list[Result], others: Sequence[dict[str, Result]]) -> Iterable[str]:
    by_op: dict[str, list[Result]] = defaultdict(list)
    for result in ours:
        if result.kind == "node":
            by_op[result.op].append(result)
    for op, members in sorted(by_op.items()):
        cells = []
        for is_expanded in (False, True):
            chosen = [r for r in members if r.is_expanded == is_expanded]
            logs = [[other[r.name] for r in chosen if r.name in other] for other in others]
            for results in (chosen, *logs):
                passed = sum(r.status == "pass" for r in results)
                cells.append(f"{passed}/{len(chosen)}" if chosen else "")
        yield f"| {op} | {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")[:160]
