"""The HTML report."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from relaxc.errors import OutputError, TargetError
from relaxc.measure.machine import this_machine
from relaxc.report.html.collect import bounds, build_of
from relaxc.report.html.page import Build, write_report
from relaxc.report.html.search import write_search_report
from relaxc.search.optimize import optimize
from relaxc.search.options import SearchOptions

OPTIONS = SearchOptions(latency_s=0.05, threads=1, tune=False)
SAMPLES = [
    {"x": np.random.default_rng(i).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    for i in range(16)
]


@pytest.fixture(scope="module")
def page(conv_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    result = optimize(conv_onnx, folder / "m.rxc", SAMPLES, None, OPTIONS)
    write_search_report(folder / "report.html", result, OPTIONS)
    return folder / "report.html"


@pytest.fixture
def build(conv_artifact: Path) -> Build:
    return build_of(conv_artifact, "a <b> & c", 1, SAMPLES[0])


class Balanced(HTMLParser):
    """Fails at a tag that is not closed in order, and keeps ids and links."""

    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.ids.append(str(found["id"]))
        link = found.get("href") or found.get("xlink:href")
        if link:
            self.links.append(link)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(path: Path) -> Balanced:
    parser = Balanced()
    parser.feed(path.read_text(encoding="utf-8"))
    assert parser.open == []
    return parser


def test_every_point_leads_to_its_recipe(page: Path) -> None:
    found = parsed(page)
    rows = [name for name in found.ids if re.fullmatch(r"trial-\d+", name)]
    assert len(rows) >= 5
    points = {link for link in found.links if link.startswith("#trial-")}
    assert points <= {f"#{name}" for name in rows}
    text = page.read_text(encoding="utf-8")
    # Trials that failed, as those that change nothing do, have no point.
    assert "changes nothing" in text
    assert len(points) == len(rows) - text.count("</pre><p>") >= 2
    assert "calibration: minmax" in text
    assert "★" in text


def test_nothing_comes_from_elsewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert not re.search(r"(src|href)=\"https?:", text)
    assert all(link.startswith("#") for link in parsed(page).links)


def test_charts_are_well_formed_and_take_the_pages_colours(page: Path) -> None:
    charts = re.findall(r"<svg.*?</svg>", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(charts) >= (5 if bounds(1) else 4)
    for chart in charts:
        ET.fromstring(chart)
        assert "currentColor" in chart
        assert "<title>" in chart or "MB alive" in chart or "seconds" in chart


def test_artifacts_alone(build: Build, tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", "x", [build, build], this_machine(), None)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    parsed(tmp_path / "r.html")
    assert "a &lt;b&gt; &amp; c" in text
    assert "a <b>" not in text
    assert "Roofline" not in text


def test_packages_are_missing(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(TargetError, match=r"reports need matplotlib and jinja2; run `pip install"):
        write_report(tmp_path / "r.html", "x", [build], this_machine(), None)


def test_nowhere_to_write(build: Build, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write `.*none/r.html`: No such file"):
        write_report(tmp_path / "none" / "r.html", "x", [build], this_machine(), None)


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_a_browser_has_nothing_to_complain_about(page: Path) -> None:
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += ["--virtual-time-budget=2000", "--dump-dom", f"file://{page}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    assert "Where the time goes" in done.stdout
