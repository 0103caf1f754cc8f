"""Bar charts as SVG, in two themes: text is text, and the background is the page's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Theme:
    """Colours that are readable on a page of this theme."""

    text: str
    faint: str
    bar: str
    own: str


THEMES = {
    "light": Theme(text="#1f2328", faint="#59636e", bar="#8c959f", own="#0969da"),
    "dark": Theme(text="#f0f6fc", faint="#9198a1", bar="#656c76", own="#4493f8"),
}

WIDTH, LEFT, RIGHT, ROW, TOP = 760, 330, 120, 30, 52
FONT = "-apple-system,BlinkMacSystemFont,'Segoe UI','Noto Sans',Helvetica,Arial,sans-serif"


@dataclass(frozen=True)
class Bar:
    """One row of a chart."""

    label: str
    value: float
    note: str
    own: bool
    """Whether it is ai-otel's."""


def bars(title: str, unit: str, rows: Sequence[Bar], theme: Theme) -> str:
    """A chart with one horizontal bar a row, its label to the left, its value to the right."""
    height = TOP + ROW * len(rows) + 12
    most = max((row.value for row in rows), default=0.0) or 1.0
    words = escape(described(title, unit, rows), quote=True)
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{words}">',
        f'<g font-family="{FONT}" font-size="13">',
        f'<text x="0" y="20" font-size="15" font-weight="600" fill="{theme.text}">{escape(title)}</text>',
        f'<text x="{LEFT}" y="40" font-size="12" fill="{theme.faint}">{escape(unit)}</text>',
    ]
    for number, row in enumerate(rows):
        y = TOP + ROW * number
        width = max(1.0, (WIDTH - LEFT - RIGHT) * max(0.0, row.value) / most)
        fill = theme.own if row.own else theme.bar
        lines += [
            f'<text x="{LEFT - 10}" y="{y + 17}" text-anchor="end" fill="{theme.text}">{escape(row.label)}</text>',
            f'<rect x="{LEFT}" y="{y + 4}" width="{width:.1f}" height="{ROW - 10}" rx="2" fill="{fill}"/>',
            f'<text x="{LEFT + width + 8:.1f}" y="{y + 17}" fill="{theme.text}">{escape(row.note)}</text>',
        ]
    return "\n".join([*lines, "</g>", "</svg>", ""])


def described(title: str, unit: str, rows: Sequence[Bar]) -> str:
    """The chart in words, for those who do not see it."""
    return f"{title}, {unit}: " + "; ".join(f"{row.label} {row.note}" for row in rows)
