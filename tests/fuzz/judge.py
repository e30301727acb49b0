"""What relaxc makes of a model, judged by ONNX Runtime."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from fuzz.graphs import run_reference
from onnx.reference import ReferenceEvaluator

import relaxc
from relaxc.errors import InputError, ModelError, OptionError, TargetError
from relaxc.runtime.model import Model
from relaxc.runtime.session import load

Feeds = dict[str, np.ndarray]
# Operators with jumps: the last bit of an input may change their results entirely.
_JUMPS = frozenset(
    [
        "Floor",
        "Ceil",
        "Round",
        "Sign",
        "Shrink",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "ArgMax",
        "ArgMin",
        "TopK",
        "Cast",
        "QuantizeLinear",
        "Hardmax",
        "Div",
        "Mod",
    ]
)


@dataclass(frozen=True)
class Verdict:
    """How a case went.

    Attributes:
        status: `passed`; `refused` by name; `wrong` numbers, shape or type; `unclean`, an error
            that is no refusal; `rejected` by ONNX Runtime, so that nothing is to compare with.
        detail: what was said, or by how much it differs.
    """

    status: str
    detail: str = ""


def judge(
    model: onnx.ModelProto | bytes,
    trials: list[Feeds],
    stage: Callable[[str], None] = lambda _: None,
) -> Verdict:
    """Compile the model, run it on every trial and compare.

    Args:
        model: the model, or the bytes of a file that may be none.
        trials: what to feed it; where the inputs are others by now, feeds are made up.
        stage: told what is about to run.
    """
    data = model if isinstance(model, bytes) else model.SerializeToString()
    with tempfile.TemporaryDirectory(prefix="relaxc-") as folder:
        source, path = Path(folder, "case.onnx"), Path(folder, "case.rxc")
        source.write_bytes(data)
        stage("compile")
        try:
            relaxc.compile(source, path)
        except (ModelError, OptionError) as err:
            return Verdict("refused", str(err))
        except Exception as err:
            return Verdict("unclean", f"{type(err).__name__}: {err}")
        stage("load")
        try:
            compiled = load(path, threads=1, cache_dir=folder)
        except TargetError as err:  # no memory
            return Verdict("refused", str(err))
        except Exception as err:
            return Verdict("unclean", f"load: {type(err).__name__}: {err}")
        verdicts = [_judge_trial(data, compiled, feeds, stage) for feeds in trials]
    for status in ("wrong", "unclean", "passed"):
        for verdict in verdicts:
            if verdict.status == status:
                return verdict
    return verdicts[0]


def _judge_trial(
    data: bytes, compiled: Model, feeds: Feeds, stage: Callable[[str], None]
) -> Verdict:
    feeds = _fitting(compiled, feeds)
    stage("reference")
    try:
        wanted = run_reference(data, feeds)
    except Exception:
        wanted = None
    stage("run")
    try:
        results = compiled.run(feeds)
    except Exception as err:
        # ONNX Runtime lets one symbol have two sizes.
        if isinstance(err, InputError) and (wanted is None or str(err).startswith("input `")):
            return Verdict("rejected")
        return Verdict("unclean", f"run: {type(err).__name__}: {err}")
    if wanted is None:
        return Verdict("rejected")
    for value, want in zip(compiled.outputs, wanted):
        complaint = difference(np.asarray(results[value.name]), np.asarray(want))
        if not complaint or _is_ill_conditioned(data, feeds, wanted):
            continue
        if _agrees_with_onnx(data, feeds, results):
            return Verdict("passed", f"as ONNX says; ONNX Runtime: {value.name}: {complaint}")
        return Verdict("wrong", f"{value.name}: {complaint}")
    return Verdict("passed")


def run_references(model: onnx.ModelProto | bytes, trials: list[Feeds]) -> None:
    """Run ONNX Runtime alone, whatever becomes of it."""
    data = model if isinstance(model, bytes) else model.SerializeToString()
    for feeds in trials:
        with contextlib.suppress(Exception):
            run_reference(data, feeds)


def _agrees_with_onnx(data: bytes, feeds: Feeds, results: Mapping[str, np.ndarray]) -> bool:
    """Whether ONNX's reference implementation is on our side against ONNX Runtime."""
    try:
        evaluator = ReferenceEvaluator(onnx.ModelProto.FromString(data))
        wanted = dict(zip(evaluator.output_names, evaluator.run(None, feeds)))
    except Exception:
        return False
    return not any(
        difference(np.asarray(results[name]), np.asarray(want)) for name, want in wanted.items()
    )


def _fitting(compiled: Model, feeds: Feeds) -> Feeds:
    """The feeds, or others where they do not fit the inputs."""
    fitting = {}
    for value in compiled.inputs:
        given = feeds.get(value.name)
        wanted = value.shape
        fits = (
            given is not None
            and str(given.dtype) == value.dtype
            and len(wanted) == given.ndim
            and all(w == n for w, n in zip(wanted, given.shape) if isinstance(w, int))
        )
        sizes = [w if isinstance(w, int) else 2 for w in wanted]
        made_up = np.ones(sizes, value.dtype) if not fits and _is_moderate(sizes) else None
        fitting[value.name] = given if given is not None and (fits or made_up is None) else made_up
    return {name: array for name, array in fitting.items() if array is not None}


def _is_moderate(sizes: list[int]) -> bool:
    return min(sizes, default=0) >= 0 and bool(np.prod(sizes, dtype=float) < 1e7)


def difference(actual: np.ndarray, wanted: np.ndarray) -> str:
    """What is wrong with a result; empty if nothing is."""
    if actual.shape != wanted.shape or actual.dtype != wanted.dtype:
        return f"{actual.dtype}{actual.shape}, not {wanted.dtype}{wanted.shape}"
    if wanted.dtype.kind != "f":
        count = int((actual != wanted).sum())
        return f"{count} of {wanted.size} differ" if count else ""
    relative = {2: 2e-2, 4: 1e-3, 8: 1e-6}[wanted.dtype.itemsize]
    given, exact = actual.astype(np.float64), wanted.astype(np.float64)
    scale = max(1.0, float(np.abs(exact[np.isfinite(exact)]).max(initial=0)))
    close = np.isclose(given, exact, rtol=relative, atol=relative / 10 * scale, equal_nan=True)
    if close.all():
        return ""
    with np.errstate(invalid="ignore"):
        worst = np.abs(given - exact)[~close].max()
    return f"{int((~close).sum())} of {wanted.size} differ, by up to {worst:.3g}"


def _is_ill_conditioned(data: bytes, feeds: Feeds, wanted: list[Any]) -> bool:
    """Whether changes in the inputs' last bits change ONNX Runtime's own result as much."""
    if any(node.op_type in _JUMPS for node in onnx.ModelProto.FromString(data).graph.node):
        return False
    rng = np.random.default_rng(0)
    moved = {
        name: np.asarray(a * (1 + 1e-6 * rng.standard_normal(a.shape)), a.dtype)
        if a.dtype.kind == "f"
        else a
        for name, a in feeds.items()
    }
    after = run_reference(data, moved)
    return any(difference(np.asarray(a), np.asarray(w)) for a, w in zip(after, wanted))
