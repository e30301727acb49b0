"""What the int8 benchmark makes of its measurements."""

from __future__ import annotations

import pytest

pytest.importorskip("onnxruntime")

from engines import OPENVINO, ORT, OURS
from quantize_speed import OURS_FLOAT, Row, judge, table


def _row(model: str, ours: float, openvino: float) -> Row:
    times = {OURS: ours, OPENVINO: openvino, ORT: 4.0, OURS_FLOAT: 3.0}
    return Row(model, times, {name: 2 * ms for name, ms in times.items()})


def test_promises_are_judged() -> None:
    found = judge([_row("resnet50", 1.0, 1.0), _row("bert_base_s128", 1.6, 2.0)], "min")
    verdicts = {verdict.what: str(verdict).split()[-1] for verdict in found}
    assert verdicts == {
        "geometric mean of openvino": "MISSED",  # resnet50 alone: bert_base has its own bar
        "geometric mean of onnxruntime": "ok",
        "worst of OpenVINO, resnet50": "ok",
        "of OpenVINO, bert_base_s128": "ok",
        "of float32, resnet50": "ok",
        "of float32, bert_base_s128": "MISSED",
    }


def test_the_table_has_minimum_and_median() -> None:
    assert "| resnet50 | 1.00 / 2.00 | 2.00 / 4.00 |" in table([_row("resnet50", 1.0, 2.0)])
