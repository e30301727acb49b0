"""Charts and tables of layers."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from relaxc.report.html.layers import channels_chart, exactness_chart, layer_rows

LAYERS = [
    {
        "nodes": ["/a/very/long/name/of/a/convolution/Conv", "Add"],
        "sqnr_db": 31.5,
        "cosine": 0.999,
        "float_us": 2.0,
        "integer_us": 1.0,
        "is_integer": True,
        "reason": "faster",
    },
    {
        "nodes": ["b"],
        "sqnr_db": 12.0,
        "cosine": 0.9,
        "float_us": None,
        "integer_us": None,
        "is_integer": False,
        "reason": "",
    },
]


def test_exactness_the_worst_first() -> None:
    svg = exactness_chart(LAYERS)
    assert svg is not None
    ET.fromstring(svg)
    assert "<title>b: 12.0 dB, float</title>" in svg
    assert svg.index("b: 12.0 dB") < svg.index("Add: 31.5 dB, integer")


def test_nothing_was_measured() -> None:
    assert exactness_chart([]) is None
    assert exactness_chart([{**LAYERS[0], "sqnr_db": None}]) is None
    assert channels_chart([]) is None


def test_rows() -> None:
    first, second = layer_rows(LAYERS)
    assert first[1:] == ("31.5", "0.999000", "2.0", "1.0", "integer", "faster")
    assert second == ("b", "12.0", "0.900000", "", "", "float", "")


def test_channels() -> None:
    svg = channels_chart([{"name": "conv<1>", "before": 64, "after": 16}])
    assert svg is not None
    ET.fromstring(svg)
    assert "conv&lt;1&gt;: 16 of 64 channels" in svg
