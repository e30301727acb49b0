"""How much language models lose by pruning and by four bits: embeddings of sentences, and stories.

    python benchmarks/prune_tasks.py FOLDER [--only NAME] [--case WORD]

FOLDER holds the models and texts of `accuracy_tasks.py`, which says what tests and what calibrates;
stories for distillation are told by the dense model itself, from other seeds than those that test.
Magnitude without any correction stands beside what is done without labels. Each line is compiled
and run as users do it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import accuracy_tasks
import numpy as np
import stories

import relaxc
from relaxc.options import (
    CompileOptions,
    DistillOptions,
    PruneOptions,
    QuantizeOptions,
    SparsifyOptions,
)

# Of the stories that the dense model tells; others test.
_SEED = 100
# Reads the embeddings, which are the product's weights as well.
_HEAD = ("node_linear_35",)
_DENSE = "dense"


@dataclass(frozen=True)
class Case:
    """One line of a table.

    Attributes:
        name: what it is called.
        options: of the compilation.
        has_bar: whether the issue's bar is for this line.
    """

    name: str
    options: CompileOptions
    has_bar: bool = False


@dataclass(frozen=True)
class Subject:
    """A model, what is done to it, and what is promised.

    Attributes:
        name: of the model.
        make: reads model, texts and measure.
        cases: lines of the table.
        bar: of the dense model's score; the least or, of perplexities, the most.
    """

    name: str
    make: Callable[[Path], accuracy_tasks.Task]
    cases: tuple[Case, ...]
    bar: float


def sentence_cases() -> tuple[Case, ...]:
    """A quarter of the heads and of the width of every MLP."""
    bare = PruneOptions(saving="channels", share=0.25)
    corrected = replace(bare, recover=True)
    judged = replace(corrected, importance="obs")
    return (
        Case(_DENSE, CompileOptions()),
        Case("channels=0.25 l2", CompileOptions(prune=bare)),
        Case("channels=0.25 l2, recovered", CompileOptions(prune=corrected), True),
        Case("channels=0.25 obs, recovered", CompileOptions(prune=judged), True),
    )


def story_cases(epochs: int) -> tuple[Case, ...]:
    """Half of the weights, one by one, but for those that are the embeddings; or four bits."""
    bare = SparsifyOptions(share=0.5, exclude=_HEAD)
    swept = replace(bare, criterion="obs")
    how = DistillOptions(epochs=epochs, learning_rate=0.015, batch=16, logits=("logits",))
    trained = replace(swept, distill=how)
    four = QuantizeOptions(scheme="int4-weights")
    slow = replace(how, learning_rate=0.003)
    return (
        Case(_DENSE, CompileOptions()),
        Case("unstructured=0.5 magnitude", CompileOptions(sparsify=bare)),
        Case(
            "unstructured=0.5 wanda",
            CompileOptions(sparsify=replace(bare, criterion="wanda")),
        ),
        Case("unstructured=0.5 obs", CompileOptions(sparsify=swept)),
        Case("unstructured=0.5 obs, distilled", CompileOptions(sparsify=trained), True),
        Case("int4", CompileOptions(quantize=four)),
        Case("int4, distilled", CompileOptions(quantize=replace(four, distill=slow))),
    )


def subjects(epochs: int, count: int) -> tuple[Subject, ...]:
    """All of them; `count` stories are told to prune by."""
    return (
        Subject("MiniLM-L6", accuracy_tasks.sentences, sentence_cases(), 0.95),
        Subject("stories260k", lambda folder: _stories(folder, count), story_cases(epochs), 1.25),
    )


def _stories(folder: Path, count: int) -> accuracy_tasks.Task:
    task = accuracy_tasks.language(folder)
    told = stories.told_together(task.path, _SEED, count)
    return replace(task, calibration=[stories.feed(ids) for ids in told])


def score(task: accuracy_tasks.Task, options: CompileOptions) -> float:
    """What the compiled model gets."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.rxc"
        data = task.calibration
        relaxc.compile(task.path, path, options, calibration_data=data, recovery_data=data)
        model = relaxc.load(path)
        outputs = task.predict(lambda feed: [np.asarray(a) for a in model.run(feed).values()])
    return task.score(outputs, outputs)


def main() -> None:
    """Print the table, or one JSON object per line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", help="the model whose name has this in it")
    parser.add_argument("--case", help="lines whose name has this in it, beside `dense`")
    parser.add_argument("--epochs", type=int, default=10, help="of distillation")
    parser.add_argument("--stories", type=int, default=1024, help="that stories260k is pruned by")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    for subject in subjects(args.epochs, args.stories):
        if args.only and args.only.lower() not in subject.name.lower():
            continue
        task, dense = subject.make(args.folder), 0.0
        for case in subject.cases:
            if args.case and args.case not in case.name and case.name != _DENSE:
                continue
            start = perf_counter()
            found = score(task, case.options)
            dense = dense or found
            ratio, took = found / dense, perf_counter() - start
            is_met = task.sign * ratio >= task.sign * subject.bar
            verdict = "" if not case.has_bar else "  ok" if is_met else "  MISSED"
            if args.json:
                line = {"model": subject.name, "case": case.name, task.measure: found}
                print(json.dumps({**line, "of dense": ratio, "seconds": took}), flush=True)
            else:
                text = f"{task.measure} {found:.4f}  of dense {ratio:.3f}{verdict}  {took:.0f} s"
                print(f"{subject.name:12} {case.name:32} {text}", flush=True)


if __name__ == "__main__":
    main()
