"""The project's text uses the field's terms: each pattern below is a word that was replaced, with the term to use.

A match is shown as `path:line word -> term`. Snake case counts as separate words, so identifiers are checked too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCHEMA = "src/ai_otel/schema"

# Pattern -> term to use. Matched without case; no letter may stand directly before or after a match.
WORDS = {
    r"told|tells?|telling": "report, expose, log, emit or return",
    r"retold|foretold|foretell": "predicted",
    r"nobody(?:'s)?|nobodys": "unattributed; no client; none",
    r"somebody(?:'s)?|anybody(?:'s)?|everybody(?:'s)?": "name it",
    r"whoever|whomever|whatever|whosoever": "name it",
    r"anew": "again, rediscover, retry",
    r"ours|ourselves": "name it: the recorder, ai-otel's exporter",
    r"to be had|(?:is|are) to be|was to be|were to be": "available; is; must be",
    r"by itself that": "name it",
    r"thereof|thereby|whence|hither|lest|heretofore|hitherto|betimes|for ever": "plain English",
    r"looks?(?![ _-]?(?:ups?|like|ahead|behind|back))|looked(?! up)|looking(?! up)": "sample, collect, read, check",
    r"(?:a|one|each|every|last|next|two|per|slow|skipped)[ _]pass(?:es)?(?![ _-]?(?:through|rate))": "sample",
    r"(?:goes|went|gone|go)[ _]by": "elapsed",
    r"it is over": "is ended, is closed",
    r"books?|bookkeeping": "accounts",
    r"tally|tallies": "engine counters",
    r"doors?": "entry point, activation",
    r"surroundings": "environment",
    r"(?<!in[ _-])(?<!pre[ _-])flights?": "request timeline",
    r"spells?": "event",
    r"moments": "timing",
    r"paces?": "interval",
    r"(?:http|asgi|starlette|fastapi|the|an|our)[ _]edges?(?! of)|AsgiEdge|StarletteEdge": "HTTP middleware",
    r"native (?:metrics?|names?|labels?|series)": "source metric",
    r"(?:metrics?|own) pages?|recorded pages?": "metrics endpoint, scrape target",
    r"promis(?:e|es|ed)": "guarantee; SLO, objective",
    r"memory in all": "total memory",
    r"EnergyJoin|EnergyRing|XidWatch|WholeGpu": "the class's new name",
}

PATTERNS = {re.compile(rf"(?<![a-z])(?:{words})(?![a-z])", re.IGNORECASE): term for words, term in WORDS.items()}

# What may hold such a word: path pattern, text around the match, reason.
ALLOWED = (
    ("*", r"ai_otel[._]gpu[._]pass\b|ai_otel\.gpu\.pass\.", "telemetry names stay"),
    ("src/ai_otel/schema/renames.yaml", r"id: ours", "a key that the generator reads"),
    ("tools/generator/model.py", r'renames\["ours"\]', "the same key"),
    ("*", r"AI_OTEL_EDGE", "environment variables stay"),
    ("src/ai_otel/demo/tiny_llama.py", r".*", "its text is the model's training data, its bytes the key of a cache"),
    ("src/ai_otel/demo/gguf.py", r"^[a-z ]+$", "a list of words for the model's vocabulary"),
    ("tools/sources.py", r"archive\.tell\(\)", "a method of files"),
    ("CHANGELOG.md", r"details\.told", "the name that a key had"),
    ("*", r"looked_up", "a lookup"),
    ("*", r"""(?:Guard\(|errors\[)"door\"""", "attribute values stay"),
    ("*", r"""["'][^"']*\b(?:Tell|tell) (?:me|us|a)\b""", "the text of a prompt"),
    ("*", r"OReilly|notebook|[Rr]unbook|[Pp]laybook", "another word"),
)

# Third-party text, recordings, lock files, and this list.
NOT_OURS = (
    "*/upstream/*",
    "*/generated/*",
    "*/files/*",
    "*/__pycache__/*",
    "*/recordings/*",
    "LICENSE",
    "*NOTICE",
    "*.lock",
    "*.prom",
    "*/expected*.txt",
    "tests/engines/*/page*",
    "tests/repo/test_words.py",
)
TEXT = {
    ".py",
    ".pyi",
    ".md",
    ".yaml",
    ".yml",
    ".toml",
    ".txt",
    ".tpl",
    ".json",
    ".sh",
    ".cfg",
    ".c",
    ".h",
    ".go",
    ".pth",
}

AREAS = (SCHEMA, "docs", "examples", ".", "src", "collector-config", "tests", "tools", "benchmarks")


def paths(area: str) -> Iterator[Path]:
    """The text files of an area, without those of an area inside it."""
    for path in sorted((ROOT / area).iterdir() if area == "." else (ROOT / area).rglob("*")):
        name = path.relative_to(ROOT).as_posix()
        if not path.is_file() or (path.suffix not in TEXT and path.name != "Makefile"):
            continue
        if area == "src" and name.startswith(f"{SCHEMA}/"):
            continue
        if not any(fnmatch(name, pattern) for pattern in NOT_OURS) and not is_generated(path):
            yield path


def is_generated(path: Path) -> bool:
    """Generated files say so in their first lines; their source is checked instead."""
    if path.suffix == ".json" or path.name == "ai_otel.pth":
        return True
    return bool(re.search(r"generated (?:from|by)", "\n".join(path.read_text().splitlines()[:3]), re.IGNORECASE))


def offenders(path: Path) -> Iterator[str]:
    name = path.relative_to(ROOT).as_posix()
    allowed = [re.compile(text) for pattern, text, _ in ALLOWED if fnmatch(name, pattern)]
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        kept = line
        for text in allowed:
            kept = text.sub("", kept)
        for pattern, term in PATTERNS.items():
            yield from (f"{name}:{number} {found} -> {term}" for found in pattern.findall(kept))


@pytest.mark.parametrize("area", AREAS)
def test_text_uses_the_terms_of_the_field(area: str) -> None:
    found = [line for path in paths(area) for line in offenders(path)]
    if found:
        pytest.fail("\n".join([f"{len(found)} words to replace", *found]), pytrace=False)


@pytest.mark.parametrize(
    "line",
    ["It is told once.", "def test_a_look_is_slow() -> None:", "Nobody's energy", "the HTTP edge", "in the books"],
)
def test_a_replaced_word_is_found(line: str) -> None:
    assert any(pattern.search(line) for pattern in PATTERNS)


@pytest.mark.parametrize(
    "line", ["in-flight requests", "look up a row", "lookup", "a passenger", "namespace", "outdoors"]
)
def test_a_similar_word_is_not(line: str) -> None:
    assert not any(pattern.search(line) for pattern in PATTERNS)
