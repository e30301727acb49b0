"""relaxc tune."""

from __future__ import annotations

from pathlib import Path

from commands import Run


def test_the_plan_of_a_model(relaxc: Run, conv_onnx: Path, tmp_path: Path) -> None:
    records = tmp_path / "records"
    done = relaxc("tune", conv_onnx, "--dry-run", "--tuning-records", records)
    assert done.code == 0, done.err
    assert "conv2d 3x3 3x8x8 to 4x8x8 +add +relu" in done.out
    assert "nothing was measured" in done.out and "for all choices" in done.out
    plan = relaxc("tune", conv_onnx, "--dry-run", "--tuning-records", records, "--json").json
    assert plan["trials"] == plan["known_trials"] == 0 and plan["estimate_s"] > 0
    assert plan["records"] == str(records / "records.jsonl")
    assert not records.exists()


def test_places_of_records_exclude_each_other(relaxc: Run, conv_onnx: Path) -> None:
    done = relaxc("compile", conv_onnx, "--no-tuning-records", "--tuning-records", "x")
    assert done.code == 2
    assert "give `--tuning-records` or `--no-tuning-records`, not both" in done.err
