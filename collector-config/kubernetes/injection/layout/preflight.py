# ruff: noqa: INP001 - no package: read by its path
"""
Decides whether ai-otel can work beside what a server has; the server's own packages always win.

What the server lacks comes from `vendored/`, at the end of `sys.path`. Where the server has a package in a version that
ai-otel, or something vendored, does not work with, nothing is added, and one line says why. Only the standard library,
and of it only what every interpreter has loaded: this runs in every Python process of a pod.
"""

from __future__ import annotations

import os
import sys

OLDEST = (3, 10)
SAID = "AI_OTEL_INJECTION"
"""Set once the line is written, so that no child process repeats it."""


def enter(home: str) -> None:
    """Load ai-otel's entry point, or log in one line why it is not loaded. `home`: where `parts.txt` is."""
    present = installed(sys.path)
    if "ai-otel" in present:
        return  # the server brought its own ai-otel, with its own entry point
    why, lacking = judge(read_parts(home), present)
    if why:
        log(why)
        return
    wanted = [os.path.join(home, "library"), *(os.path.join(home, "vendored", name) for name in lacking)]  # noqa: PTH118
    sys.path += [entry for entry in wanted if entry not in sys.path]
    from ai_otel.entrypoints import site

    site()


def read_parts(home: str) -> dict[str, tuple[str, list[str], list[tuple[str, str]]]]:
    """Version, places on the path, and requirements of each part, by its name; the library is `ai-otel`."""
    parts = {}
    with open(os.path.join(home, "parts.txt"), encoding="utf-8") as lines:  # noqa: PTH118, PTH123
        for line in lines:
            name, version, places, requires = line.rstrip("\n").split("\t")
            bounds = [(each.partition(" ")[0], each.partition(" ")[2]) for each in requires.split(";") if each]
            parts[name] = (version, places.split(), bounds)
    return parts


def installed(path: list[str]) -> dict[str, tuple[str, str]]:
    """Version and metadata directory of each distribution; where there are two, the first on the path is imported."""
    found: dict[str, tuple[str, str]] = {}
    for entry in path:
        try:
            names = os.listdir(entry or ".")  # noqa: PTH208
        except OSError:  # a zip file, or nothing
            continue
        for file in names:
            stem, end = os.path.splitext(file)  # noqa: PTH122
            if end in {".dist-info", ".egg-info"}:
                name, _, rest = stem.partition("-")
                # Of an .egg-info, the Python version follows; one without a version cannot be judged.
                version = rest.partition("-")[0]
                found.setdefault(plain(name), (version, os.path.join(entry, file)))  # noqa: PTH118
    return found


def plain(name: str) -> str:
    """A distribution's name as all its spellings have it."""
    return name.lower().replace("_", "-").replace(".", "-")


def judge(
    parts: dict[str, tuple[str, list[str], list[tuple[str, str]]]], present: dict[str, tuple[str, str]]
) -> tuple[str, list[str]]:
    """Why it cannot work, or an empty text and the names of what the server lacks."""
    if sys.version_info < OLDEST:
        return "Python {}.{} is older than {}.{}".format(*sys.version_info[:2], *OLDEST), []
    lacking: list[str] = []
    waiting = ["ai-otel"]
    while waiting:
        asking = waiting.pop()
        for name, bounds in parts[asking][2]:
            if name in present:
                if not meets(present[name][0], bounds):
                    return f"{name} {present[name][0]} is installed, {asking} needs {bounds}", []
            elif name not in lacking:
                if place := hidden(parts[name][1]):
                    return f"{place} is in the way of {name}, which the server lacks", []
                lacking.append(name)
                waiting.append(name)
    # Made for a range of protobuf, and the one that fails at import outside it.
    if "opentelemetry-proto" in present:
        for bounds in requirement(present["opentelemetry-proto"][1], "protobuf"):
            version = present.get("protobuf", ("none", ""))[0]
            if not meets(version, bounds):
                return f"protobuf {version} is installed, the installed opentelemetry-proto needs {bounds}", []
    return "", lacking


def hidden(places: list[str]) -> str:
    """The file on the path that is imported before one of these, or the `__init__.py` that shuts their namespace."""
    for place in places:
        top, *rest = place.split("/")
        for entry in sys.path:
            above = os.path.join(entry, top)  # noqa: PTH118
            if not rest:
                names = [above, f"{above}.py"]
            elif os.path.isdir(above):  # noqa: PTH112
                shut = [os.path.join(above, *rest[:depth], "__init__.py") for depth in range(len(rest))]  # noqa: PTH118
                names = [os.path.join(entry, place), *shut]  # noqa: PTH118
            else:
                continue
            for name in names:
                if os.path.exists(name):  # noqa: PTH110
                    return name
    return ""


def requirement(metadata: str, wanted: str) -> list[str]:
    """Bounds that the installed distribution of this metadata directory sets for another."""
    try:
        with open(os.path.join(metadata, "METADATA"), encoding="utf-8") as lines:  # noqa: PTH118, PTH123
            heads = [line[15:].strip() for line in lines if line.startswith("Requires-Dist: ")]
    except OSError:
        return []
    found = []
    for head in heads:
        text = head.partition(";")[0].replace("(", " ").replace(")", " ").strip()
        name = text
        for sign in "<>=!~ [":
            name = name.partition(sign)[0]
        if plain(name) == wanted:
            found.append(text[len(name) :].strip())
    return found


def numbers(version: str) -> tuple[list[int], tuple[int, int]]:
    """Release numbers, then what orders pre-releases, the release itself, and those after it."""
    text = version.lower().partition("+")[0].lstrip("v")
    release = ""
    while text and (text[0].isdigit() or text[0] == "."):
        release, text = release + text[0], text[1:]
    found = [int(each) for each in release.split(".") if each]
    text = text.lstrip("-_.")
    ranks = (("post", 1), ("dev", -4), ("a", -3), ("b", -2), ("rc", -1), ("c", -1))
    rank = next((rank for start, rank in ranks if text.startswith(start)), 0)
    digits = "".join(each for each in text.partition(".")[0] if each.isdigit())
    while found and found[-1] == 0:
        found.pop()
    return found, (rank, int(digits or 0))


def meets(version: str, bounds: str) -> bool:
    """Whether a version lies in bounds like `>=1.31,<2`; a version that is no version lies in none but the empty."""
    if not bounds:
        return True
    if not version[:1].isdigit():
        return False
    return all(_meets(version, each.strip()) for each in bounds.split(",") if each.strip())


def _meets(version: str, bound: str) -> bool:
    size = 2 if bound[1] == "=" else 1
    sign, asked = bound[:size], bound[size:].strip()
    if asked.endswith(".*"):
        parts = asked[:-2].split(".")
        same = ([*version.split("."), *("0" * len(parts))])[: len(parts)] == parts
        return same if sign == "==" else not same
    have, want = numbers(version), numbers(asked)
    if sign == "~=":
        family = asked.split(".")[:-1]
        return have >= want and version.split(".")[: len(family)] == family
    answers = {
        "==": have == want,
        "!=": have != want,
        ">=": have >= want,
        "<=": have <= want,
        ">": have > want,
        "<": have < want,
    }
    return answers[sign]


def log(why: str) -> None:
    """One line for a pod: not from children of who said it, nor from a probe, which is a `python -c`."""
    if os.environ.get(SAID) or "-c" in getattr(sys, "orig_argv", ())[1:2]:
        return
    os.environ[SAID] = "aside"
    sys.stderr.write(f"ai-otel: steps aside, the server runs without it: {why}\n")
