"""Whole searches, on a small network."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import onnx_model

import relaxc
from relaxc.errors import InputError, ModelError, OptionError
from relaxc.options import CompileOptions, QuantizeOptions
from relaxc.search.dataset import split
from relaxc.search.goal import Goal, MaxDrop
from relaxc.search.optimize import Search, Watcher, optimize
from relaxc.search.options import SearchOptions
from relaxc.search.recipe import Recipe
from relaxc.search.replay import replay
from relaxc.search.result import Result

OPTIONS = SearchOptions(latency_s=0.05, threads=1, tune=False)
SAMPLES = [
    {"x": np.random.default_rng(i).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    for i in range(24)
]


@dataclass(frozen=True)
class Searched:
    """A whole search.

    Attributes:
        output: the artifact.
        front: folder of the others that are best in some way.
        result: what came of it.
        seen: after each trial, whether there was an artifact.
    """

    output: Path
    front: Path
    result: Result
    seen: list[bool]


@pytest.fixture(scope="module")
def searched(conv_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    folder = tmp_path_factory.mktemp("searched")
    output, front = folder / "m.rxc", folder / "front"
    seen: list[bool] = []
    watcher = Watcher(finished=lambda _trial, _search: seen.append(output.is_file()))
    options = replace(OPTIONS, pareto_dir=front)
    result = optimize(conv_onnx, output, SAMPLES, None, options, watcher)
    return Searched(output, front, result, seen)


def test_the_best_is_at_the_output(searched: Searched) -> None:
    result = searched.result
    assert all(searched.seen)
    assert len(searched.seen) == len(result.trials) >= 5
    assert result.metric == "cosine"
    assert result.meets_goal
    assert result.held_out_drop <= 0.01
    assert relaxc.load(searched.output)(SAMPLES[0]["x"]).shape == (1, 4, 1, 1)


def test_the_front_is_kept(searched: Searched) -> None:
    names = {path.name for path in searched.front.iterdir()}
    assert searched.result.front
    for trial in searched.result.front:
        assert {f"{trial.number:03}.rxc", f"{trial.number:03}.recipe.yaml"} <= names


def test_a_recipe_builds_the_same_bytes(
    conv_onnx: Path, searched: Searched, tmp_path: Path
) -> None:
    again = tmp_path / "again.rxc"
    recipe = searched.output.with_name("m.rxc.recipe.yaml")
    replay(conv_onnx, again, recipe, SAMPLES, None, CompileOptions())
    assert again.read_bytes() == searched.output.read_bytes()
    with pytest.raises(InputError, match="these samples are not those of recipe"):
        replay(conv_onnx, again, recipe, SAMPLES[1:], None, CompileOptions())
    with pytest.raises(OptionError, match="cannot read recipe `.*none.yaml`"):
        replay(conv_onnx, again, tmp_path / "none.yaml", SAMPLES, None, CompileOptions())


def test_a_recipe_of_another_model(mnist_onnx: Path, searched: Searched, tmp_path: Path) -> None:
    recipe = searched.output.with_name("m.rxc.recipe.yaml")
    with pytest.raises(ModelError, match="is not the model of recipe"):
        replay(mnist_onnx, tmp_path / "m.rxc", recipe, SAMPLES, None, CompileOptions())


def test_a_search_goes_on_where_it_was(conv_onnx: Path, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(trial: object, search: object) -> None:
        if len(search.standing.trials) == 3:  # type: ignore[attr-defined]
            raise Killed

    output = tmp_path / "m.rxc"
    with pytest.raises(Killed):
        optimize(conv_onnx, output, SAMPLES, None, OPTIONS, Watcher(finished=kill))
    assert output.is_file()
    started: list[object] = []
    watcher = Watcher(started=lambda recipe, _search: started.append(recipe))
    result = optimize(conv_onnx, output, SAMPLES, None, replace(OPTIONS, resume=True), watcher)
    assert len(started) == len(result.trials) - 3
    again = optimize(conv_onnx, output, SAMPLES, None, replace(OPTIONS, resume=True))
    assert again.trials == result.trials
    assert again.best == result.best


def test_the_budget_ends_it(conv_onnx: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, time_budget_s=1e-3)
    result = optimize(conv_onnx, tmp_path / "m.rxc", SAMPLES, None, options)
    assert [trial.number for trial in result.trials] == [0]
    assert result.stopped == "budget"
    assert relaxc.load(tmp_path / "m.rxc")(SAMPLES[0]["x"]).size == 4


def test_a_goal_that_nothing_meets(conv_onnx: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, goal=Goal(max_latency_ms=1e-6), time_budget_s=1e-3)
    result = optimize(conv_onnx, tmp_path / "m.rxc", SAMPLES, None, options)
    assert not result.meets_goal
    assert (tmp_path / "m.rxc").is_file()


def test_no_drop_at_all_is_float(conv_onnx: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, goal=Goal(max_drop=MaxDrop(0)))
    result = optimize(conv_onnx, tmp_path / "m.rxc", SAMPLES, None, options)
    assert result.best.number == 0
    assert result.meets_goal


def test_the_layer_that_loses_most_comes_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((3, 3, 3, 3)).astype(np.float32)
    model = onnx_model(
        """g (float[1,3,8,8] x) => (float[1,3,4,4] y) {
            a = Conv (x, v)
            y = Conv (a, w)
        }""",
        v=weight * np.array([1, 1, 500], np.float32)[:, None, None, None],
        w=weight / np.array([1, 1, 500], np.float32)[None, :, None, None],
    )
    onnx.save(model, tmp_path / "m.onnx")
    dataset = split(SAMPLES, None, 0)
    search = Search(tmp_path / "m.onnx", "", tmp_path / "m.rxc", dataset, False, OPTIONS)
    # `smooth` would make up for it.
    options = QuantizeOptions(speed_gate=False, least_sqnr_db=None, correct=("round", "bias"))
    recipe = Recipe(quantize=options)
    # The second one reads channels of unlike size.
    assert search._sensitive_nodes(recipe) == ("y", "a")


def test_a_function_of_the_users(conv_onnx: Path, tmp_path: Path) -> None:
    calls = []

    def evaluate(model: relaxc.Model) -> float:
        calls.append(model.inputs)
        return 1.0

    options = replace(OPTIONS, evaluate=evaluate, time_budget_s=1e-3)
    result = optimize(conv_onnx, tmp_path / "m.rxc", SAMPLES, None, options)
    assert result.metric == "evaluate"
    assert len(calls) >= sum(trial.is_ok for trial in result.trials)
    with pytest.raises(InputError, match="returned `None`; it must return a number"):
        optimize(
            conv_onnx,
            tmp_path / "m.rxc",
            SAMPLES,
            None,
            replace(OPTIONS, evaluate=lambda _model: None),  # type: ignore[arg-type,return-value]
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (lambda: SearchOptions(time_budget_s=0), "time budget must be positive"),
        (lambda: SearchOptions(seed=-1), "seed must not be negative, not -1"),
        (lambda: SearchOptions(threads=0), "at least one thread, not 0"),
        (
            lambda: SearchOptions(compile=CompileOptions(quantize=QuantizeOptions())),
            "chooses precision and quantization itself",
        ),
        (
            lambda: SearchOptions(metric="top1", evaluate=lambda _model: 1.0),
            "either a metric or a function",
        ),
    ],
)
def test_options_that_make_no_sense(options: Callable[[], object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        options()


@pytest.mark.long
def test_killed_ten_times(conv_onnx: Path, tmp_path: Path) -> None:
    """`kill -9` at random moments: the search goes on, and ends with an artifact that runs."""
    np.savez(tmp_path / "data.npz", x=np.concatenate([feed["x"] for feed in SAMPLES]))
    command = [
        sys.executable,
        "-m",
        "relaxc",
        "optimize",
        str(conv_onnx),
        "--resume",
        "--json",
        "--no-tune",
    ]
    command += ["--data", str(tmp_path / "data.npz"), "-o", str(tmp_path / "m.rxc")]
    rng = np.random.default_rng(0)
    for _ in range(10):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        time.sleep(float(rng.uniform(0.5, 8)))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert relaxc.load(tmp_path / "m.rxc")(SAMPLES[0]["x"]).size == 4
