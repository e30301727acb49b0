"""Candidates, tuned and not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from builders import dense_model

from relaxc.manifest import versions
from relaxc.options import CompileOptions
from relaxc.search.building import Builder, can_tune, write_records
from relaxc.search.dataset import split
from relaxc.search.options import SearchOptions
from relaxc.search.recipe import Recipe, Run
from relaxc.search.replay import replay
from relaxc.targets.tuning.records import RecordStore

SAMPLES = [
    {"x": np.random.default_rng(i).standard_normal((1, 300)).astype(np.float32)} for i in range(4)
]


def test_what_tuning_found_goes_into_the_candidate(tmp_path: Path) -> None:
    onnx.save(dense_model(300, 300), tmp_path / "m.onnx")
    options = SearchOptions(compile=CompileOptions(input_shapes={"x": (64, 300)}))
    dataset = split([{"x": np.repeat(s["x"], 64, 0)} for s in SAMPLES], None, 0)
    builder = Builder(tmp_path / "m.onnx", options, dataset, 1, tmp_path)
    builder.tune(Recipe(), 4.0)
    records = builder.records()
    assert records
    built = builder.build(Recipe(tuned=True), tmp_path / "a.rxc")
    write_records(tmp_path / "copy.jsonl", records)
    assert len(RecordStore(tmp_path / "copy.jsonl").read().records) == len(records)
    assert built.warnings == ()


def test_a_tuned_recipe_gives_the_same_bytes_again(tmp_path: Path) -> None:
    onnx.save(dense_model(300, 300), tmp_path / "m.onnx")
    options = SearchOptions(compile=CompileOptions(input_shapes={"x": (1, 300)}))
    dataset = split(SAMPLES, None, 0)
    builder = Builder(tmp_path / "m.onnx", options, dataset, 1, tmp_path)
    builder.tune(Recipe(), 2.0)
    built = builder.build(Recipe(tuned=True), tmp_path / "a.rxc")
    run = Run(
        recipe=Recipe(tuned=True),
        seed=0,
        model_sha256=built.manifest["model"]["sha256"],
        data_sha256=dataset.sha256,
        target="llvm",
        input_shapes={"x": (1, 300)},
        versions=versions(),
        records=builder.records(),
    )
    (tmp_path / "r.yaml").write_text(run.to_yaml())
    again = tmp_path / "b.rxc"
    replay(tmp_path / "m.onnx", again, tmp_path / "r.yaml", SAMPLES, None, options.compile)
    assert again.read_bytes() == (tmp_path / "a.rxc").read_bytes()


def test_which_targets_can_be_tuned() -> None:
    assert can_tune("llvm")
    assert not can_tune("cuda -arch=sm_90")
