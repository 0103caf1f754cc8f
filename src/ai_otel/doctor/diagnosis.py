"""The findings as text and as JSON."""

from __future__ import annotations

import json
import platform
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ai_otel.doctor.finding import GROUPS, Finding, Level
from ai_otel.inputs.shown import shown
from ai_otel.version import __version__

_COLOURS = {Level.OK: "32", Level.NOTE: "33", Level.WRONG: "31"}
_SUBJECT_WIDTH = 38


def as_text(findings: Sequence[Finding], *, coloured: bool, width: int | None = None) -> str:
    """Grouped and aligned; the last line is the summary."""
    width = width or max(72, min(shutil.get_terminal_size((120, 24)).columns, 140))
    lines = [f"ai-otel {__version__}, Python {platform.python_version()}, {shown(sys.prefix)}"]
    for group, title in GROUPS.items():
        found = [finding for finding in findings if finding.group == group]
        if found:
            lines += ["", title, *_lines_of(found, width, coloured=coloured)]
    return "\n".join([*lines, "", summary(findings)])


def _lines_of(findings: Sequence[Finding], width: int, *, coloured: bool) -> Iterator[str]:
    column = min(max(len(finding.subject) for finding in findings), _SUBJECT_WIDTH)
    indent = " " * (9 + column + 2)
    following = [finding.next_step for finding in findings[1:]] + [""]
    for finding, next_step in zip(findings, following, strict=True):
        level = f"{finding.level.value:<5}"
        head = f"  {_painted(level, finding.level) if coloured else level}  {finding.subject:<{column}}  "
        first, *rest = _wrapped(_sentence(finding), indent, width) or [indent]
        if len(finding.subject) > column:
            yield head.rstrip()
            yield first
        else:
            yield head + first[len(indent) :]
        yield from rest
        if finding.next_step and finding.next_step != next_step:  # once is enough for several in a row
            yield from _wrapped(finding.next_step, indent + "-> ", width)


def _wrapped(text: str, indent: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=" " * len(indent),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _sentence(finding: Finding) -> str:
    """A hook's line also says how deep it reaches, and for which versions it is."""
    details = finding.details
    if "rung" not in details:
        return finding.says
    return f"{details['rung']}, {details['versions'] or 'any version'}: {finding.says}"


def _painted(text: str, level: Level) -> str:
    return f"\033[{_COLOURS[level]}m{text}\033[0m"


def summary(findings: Iterable[Finding]) -> str:
    """One line: all is well, or what is not."""
    wrong = [finding.subject for finding in findings if finding.level is Level.WRONG]
    if not wrong:
        return "All is well."
    return f"{len(wrong)} {'thing is' if len(wrong) == 1 else 'things are'} wrong: {', '.join(wrong)}."


def as_json(findings: Sequence[Finding]) -> str:
    """The findings as JSON: keys, groups, subjects, levels and details are stable, sentences may change."""
    diagnosis: dict[str, Any] = {
        "ai_otel": __version__,
        "python": platform.python_version(),
        "prefix": shown(sys.prefix),
        "well": all(finding.level is not Level.WRONG for finding in findings),
        "summary": summary(findings),
        "findings": [
            {
                "group": finding.group,
                "subject": finding.subject,
                "level": finding.level.value,
                "says": finding.says,
                "next_step": finding.next_step,
                "details": dict(finding.details),
            }
            for finding in findings
        ],
    }
    return json.dumps(diagnosis, indent=2, ensure_ascii=False)
