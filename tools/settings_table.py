"""Writes the settings table of README.md from `Settings`: `python tools/settings_table.py`, or `--check` to compare."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from ai_otel.settings import PREFIX, Settings

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN = "<!-- settings: written by tools/settings_table.py -->"
END = "<!-- end of settings -->"


def table() -> str:
    """One row for each option, in the order of the class."""
    rows = [
        f"| `{PREFIX}{option.name.upper()}` | {shown(option.default)} | {option.metadata['doc']} |"
        for option in fields(Settings)
    ]
    return "\n".join(["| variable | default | meaning |", "| --- | --- | --- |", *rows])


def shown(value: Any) -> str:
    """A default, as one writes it into the variable."""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        value = ", ".join(value)
    return f"`{value}`" if value not in {"", None} else "empty"


def rendered(text: str) -> str:
    """The page with a fresh table between its two marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"README.md lacks its marks: put {BEGIN} and {END} where the table belongs")
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


def main(arguments: list[str]) -> int:
    """Exit status: 0 when the table is fresh or written, 1 when `--check` finds it stale."""
    text = README.read_text(encoding="utf-8")
    fresh = rendered(text)
    if "--check" in arguments:
        if text != fresh:
            print("README.md is stale; run: python tools/settings_table.py", file=sys.stderr)
        return int(text != fresh)
    if text != fresh:
        README.write_text(fresh, encoding="utf-8")
        print("wrote README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
