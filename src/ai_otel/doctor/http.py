"""Which web frameworks and servers are installed, and what the HTTP view sees of a server without an adapter."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from ai_otel.doctor.engines import check_hook
from ai_otel.doctor.finding import Finding, Level
from ai_otel.doctor.source import InstalledSource, package_folders
from ai_otel.hooks.point import HookPoint


def check_http(*, on: bool, engines: bool, provider: str, wanted: bool = True) -> Iterator[Finding]:
    """
    One finding on servers without an adapter, then one for each hook in an installed framework or server.

    `wanted` says that `AI_OTEL_ENGINES` is empty or names the provider.
    """
    installed = [point for point in _points() if package_folders(_package(point))] if on else []
    if not engines:
        yield _without_adapter(bool(installed), provider, on=on) if wanted else _unwanted(provider)
    if on and not installed:
        says = "no web framework or server that ai-otel knows is installed"
        next_step = "Wrap your application: ai_otel.asgi(app) or ai_otel.wsgi(app)."
        yield Finding("engines", "HTTP", Level.NOTE, says, next_step, {"state": "not installed"})
    source = InstalledSource()
    for point in installed:
        package = _package(point)
        try:
            found: str | None = version(package)
        except PackageNotFoundError:
            found = None
        yield check_hook(source, package, found, point)


def _without_adapter(seen: bool, provider: str, *, on: bool) -> Finding:
    details = {"provider": provider, "seen": list(_SEEN) if seen else [], "not_seen": list(_NOT_SEEN)}
    if seen:
        says = (
            f"no engine with an adapter is installed: requests to inference routes are seen over HTTP, as {provider}. "
            f"Seen: {', '.join(_SEEN)}. Not seen: {', '.join(_NOT_SEEN)}"
        )
        next_step = "Report what only your code knows with ai_otel.inference(): docs/manual.md."
        return Finding("engines", "engines", Level.NOTE, says, next_step, details)
    why = "no web framework that ai-otel knows" if on else "AI_OTEL_EDGE is off"
    says = f"no engine with an adapter is installed, and requests are not seen over HTTP either: {why}"
    next_step = "Install ai-otel into the environment that runs the server, or use ai_otel.inference()."
    return Finding("engines", "engines", Level.WRONG, says, next_step, details)


def _unwanted(provider: str) -> Finding:
    details = {"provider": provider, "seen": [], "not_seen": list(_NOT_SEEN)}
    says = f"no engine with an adapter is installed, and AI_OTEL_ENGINES does not name {provider}: no request is seen"
    next_step = f"Add {provider} to AI_OTEL_ENGINES, or unset it."
    return Finding("engines", "engines", Level.WRONG, says, next_step, details)


_SEEN = (
    "status, duration, first and last byte, client disconnects",
    "model, id, finish reasons and token counts of OpenAI-shaped answers",
)
_NOT_SEEN = ("queue, prefill and decode", "requested model and parameters", "running requests, KV cache")


def _points() -> tuple[HookPoint, ...]:
    from ai_otel.http import asgi, servers, wsgi

    return (asgi.STARLETTE, wsgi.FLASK, *servers.POINTS)


def _package(point: HookPoint) -> str:
    return point.module.partition(".")[0]
