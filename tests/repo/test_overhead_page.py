"""docs/overhead.md says what the committed results of the benchmarks say."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import chart
import pytest
import report

RESULT = {
    "where": {},
    "how": {},
    "figures": [
        {"part": "total", "key": "total.ai-otel", "name": "ai-otel", "unit": "us", "median": 81.26, "best": 79.0,
         "worst": 1234.5, "ratio": 0.2712},
        {"part": "total", "key": "total.plain", "name": "plain SDK by hand: 4 spans", "unit": "us", "median": 300.0,
         "best": 299.0, "worst": 310.0, "ratio": 1.0},
        {"part": "path", "key": "path.engine.ai-otel", "name": "ai-otel", "unit": "us", "median": 9.0, "best": 8.0,
         "worst": 9.9, "ratio": None},
    ],
}  # fmt: skip


def test_page_agrees_with_the_results() -> None:
    assert report.PAGE.read_text() == report.page(), "stale; next: python benchmarks/report.py"


def test_charts_agree_with_the_results() -> None:
    stale = [path.name for path, text in report.images().items() if path.read_text() != text]
    assert not stale, "stale; next: python benchmarks/report.py"


def test_every_table_of_the_results_is_on_the_page() -> None:
    named = [found["name"] for found in report.BLOCK.finditer(report.PAGE.read_text())]
    assert sorted(named) == sorted(report.blocks())


def test_page_shows_the_charts_in_both_themes_with_a_description() -> None:
    text = report.PAGE.read_text()
    for path in report.images():
        assert f'srcset="images/{path.name}"' in text or f'src="images/{path.name}"' in text
    assert 'alt="' in text


def test_a_row_has_its_figure_and_its_ratio() -> None:
    assert report.Overhead(RESULT).rows("total").splitlines()[2:] == [
        "| **ai-otel** | 81.3 µs | 0.27 | 79.0 µs | 1,234 µs |",
        "| plain SDK by hand: 4 spans | 300 µs | 1.00 | 299 µs | 310 µs |",
    ]


def test_what_is_not_met_stands_first() -> None:
    met = [line.rpartition(" | ")[2] for line in report.Overhead(RESULT).targets().splitlines()[2:]]
    assert met == ["**no** |", "yes |"]


def test_engine_table_has_the_ratio_with_its_interval() -> None:
    other = {"ratio": 0.9871, "low": -0.0213, "high": 0.0041}
    result = {
        "variants": {"bare": "without", "ai-otel": "ai-otel"},
        "loads": {"chat": [{"name": "requests per second", "unit": "/s", "bare": 61.3, "others": {"ai-otel": other}}]},
    }
    assert report.Engine(result).load("chat").splitlines()[2:] == [
        "| requests per second | 61.3/s | 0.987 (-2.1 to +0.4 %) |"
    ]


@pytest.mark.parametrize("theme", chart.THEMES)
def test_chart_is_well_formed_and_readable(theme: str) -> None:
    rows = report.Overhead(RESULT).bars()
    root = ET.fromstring(chart.bars("a <title>", "µs", rows, chart.THEMES[theme]))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[:2] == ["a <title>", "µs"]
    assert {"ai-otel", "81.3 µs", "plain SDK by hand", "300 µs"} <= set(texts)
    assert "ai-otel 81.3 µs" in str(root.get("aria-label"))
    background = {"light": "#ffffff", "dark": "#0d1117"}[theme]
    for colour in (chart.THEMES[theme].text, chart.THEMES[theme].faint):
        assert contrast(colour, background) >= 4.5


def contrast(one: str, other: str) -> float:
    """As the Web Content Accessibility Guidelines define it."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_images_are_beside_the_page() -> None:
    assert {path.parent for path in report.images()} == {Path(report.PAGE).parent / "images"}
