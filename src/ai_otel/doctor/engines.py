"""Which engines are installed, and whether each hook finds what it hooks. No engine is imported."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from typing import NamedTuple

from ai_otel.doctor.finding import Finding, Level
from ai_otel.doctor.source import Absent, InstalledSource, Unreadable, package_folders
from ai_otel.engines import EngineEntry
from ai_otel.engines.adapter import EngineAdapter
from ai_otel.hooks.point import HookPoint, release_numbers


class Installed(NamedTuple):
    """An engine in this environment."""

    name: str
    distribution: str | None
    version: str | None
    adapter: EngineAdapter


def installed_engines(engines: Mapping[str, EngineEntry]) -> Iterator[Installed | Finding]:
    """Each engine that is installed; where its adapter cannot be loaded, what is wrong with it."""
    for name, engine in engines.items():
        if not any(package_folders(package) for package in engine.packages):
            continue
        module, _, cls = engine.adapter.partition(":")
        try:
            adapter: EngineAdapter = getattr(importlib.import_module(module), cls)()
        except (ImportError, AttributeError) as error:
            says = f"is installed, but its adapter cannot be loaded: {error}"
            yield Finding(
                "engines", name, Level.WRONG, says, "Reinstall ai-otel, or the package that brings the adapter."
            )
            continue
        yield Installed(name, *_distribution(adapter), adapter)


def broken_adapter(sentence: str) -> Finding:
    """What the library says of a third party's adapter that it cannot use."""
    return Finding("engines", "ai_otel.engines", Level.WRONG, sentence.removeprefix("ai-otel: "))


def _distribution(adapter: EngineAdapter) -> tuple[str | None, str | None]:
    """The distribution that carries the engine, and its version, from the metadata alone."""
    carriers = [name for package in adapter.packages for name in _carriers().get(package, ())]
    for name in (*adapter.distributions, *carriers):
        try:
            return name, version(name)
        except PackageNotFoundError:
            continue
    return None, None


@functools.cache
def _carriers() -> Mapping[str, list[str]]:
    return packages_distributions()


def check_engines(found: Iterable[Installed | Finding]) -> Iterator[Finding]:
    """One finding for each engine, then one for each of its hooks."""
    source = InstalledSource()
    for each in found:
        if isinstance(each, Finding):
            yield each
        else:
            yield from _check_engine(each, source)


def _check_engine(engine: Installed, source: InstalledSource) -> Iterator[Finding]:
    # An adapter may cover several packages of one engine; what is not installed has nothing to be missing.
    points = [point for point in engine.adapter.hooks if package_folders(point.module.partition(".")[0])]
    hooks = [check_hook(source, engine.name, engine.version, point) for point in points]
    in_range = [hook for hook in hooks if hook.details["state"] != "out of range"]
    level, says, next_step = _judge_version(engine, any_hook=bool(in_range) or not hooks)
    details = {
        "distribution": engine.distribution,
        "version": engine.version,
        "tested": list(engine.adapter.tested),
        "hooks": len(hooks),
    }
    yield Finding("engines", engine.name, level, says, next_step, details)
    yield from hooks


def _judge_version(engine: Installed, *, any_hook: bool) -> tuple[Level, str, str]:
    oldest, newest = engine.adapter.tested
    tested = f"tested from {oldest} to {newest}"
    if engine.version is None:
        says = f"version unknown, {tested}: hooks attach regardless of their version ranges"
        return Level.NOTE, says, "Install the engine as a distribution, so that its version is known."
    says = f"{engine.distribution} {engine.version}, {tested}"
    if not any_hook:
        return (
            Level.WRONG,
            f"{says}: no hook holds for this version, nothing is observed",
            "Upgrade the engine or ai-otel.",
        )
    release = release_numbers(engine.version)
    if release > release_numbers(newest):
        return Level.NOTE, f"{says}: this one is newer", "The hooks below say whether they still find what they need."
    if release < release_numbers(oldest):
        return Level.NOTE, f"{says}: this one is older", f"Upgrade the engine to {oldest} or newer."
    return Level.OK, says, ""


def check_hook(source: InstalledSource, engine: str, engine_version: str | None, point: HookPoint) -> Finding:
    """Whether a hook finds what it hooks."""
    state, detail = _state_of(source, engine_version, point)
    details = {
        "target": point.target,
        "rung": point.rung.value,
        "versions": point.versions,
        "state": state,
        "why": point.why,
    }
    next_step = "Please report it with the engine's version." if _LEVELS[state] is Level.WRONG else ""
    says = point.why if state == "here" else detail
    return Finding("engines", f"{engine} {point.path}", _LEVELS[state], says, next_step, details)


_LEVELS = {
    "here": Level.OK,
    "out of range": Level.NOTE,
    "not readable": Level.NOTE,
    "missing": Level.WRONG,
    "changed": Level.WRONG,
}


def _state_of(source: InstalledSource, engine_version: str | None, point: HookPoint) -> tuple[str, str]:
    if engine_version is not None and not point.covers(engine_version):
        return "out of range", f"{engine_version} is another version"
    try:
        lacking = source.function(point.target).lacks(point.reads)
    except Absent as error:
        return "missing", f"missing: {error}"
    except (Unreadable, OSError, SyntaxError) as error:
        return "not readable", f"cannot be checked, {error}"
    if lacking:
        return "changed", f"changed: it takes no {', '.join(lacking)}"
    return "here", ""
