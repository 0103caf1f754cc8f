"""
A session for OTLP/HTTP that notices redirects.

To the SDK's exporter every status below 400 is a success, and `requests` follows a redirect of a POST with a GET that
carries nothing. In both cases all telemetry would be lost without a trace.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

from ai_otel.inputs.shown import shown

log = logging.getLogger("ai_otel")

# With one of these, the session is the one that the user's own credential provider makes.
_PROVIDERS = "_CREDENTIAL_PROVIDER"


class Redirects:
    """Whether the last request of one exporter was answered by a redirect; logged once."""

    def __init__(self) -> None:
        self._seen = False
        self._logged = False

    def saw(self, url: str, status: int, location: str) -> None:
        """Note the status of a response."""
        self._seen = 300 <= status < 400
        if self._seen and not self._logged:
            self._logged = True
            log.warning(
                "ai-otel: %s answers %d, Location: %s; redirects are not followed, nothing is exported: "
                "set the endpoint to the final URL",
                shown(url),
                status,
                shown(location) or "none",
            )

    def take(self) -> bool:
        """Whether a redirect was seen since the last call."""
        seen, self._seen = self._seen, False
        return seen


def made(exporter: Callable[..., Any], environment: Mapping[str, str]) -> tuple[Any, Redirects | None]:
    """Make an exporter; one that sends by `requests` gets a session that notices redirects."""
    by_user = any(value and name.endswith(_PROVIDERS) for name, value in environment.items())
    if by_user or "session" not in inspect.signature(exporter).parameters:
        return exporter(), None
    import requests

    session = requests.Session()
    return exporter(session=session), _watched(session)


def watched(exporter: Any) -> Redirects | None:
    """Notice the redirects of an exporter that was made elsewhere, if it sends by a plain session of `requests`."""
    transport = getattr(getattr(exporter, "_client", None), "_transport", exporter)  # where the SDK keeps it
    session = getattr(transport, "_session", None)
    plain = (type(session).__module__, type(session).__name__) == ("requests.sessions", "Session")
    return _watched(session) if plain else None


def _watched(session: Any) -> Redirects:
    redirects, request = Redirects(), session.request

    def watching(method: Any, url: Any, *arguments: Any, **options: Any) -> Any:
        options["allow_redirects"] = False
        response = request(method, url, *arguments, **options)
        redirects.saw(str(url), response.status_code, response.headers.get("Location", ""))
        return response

    session.request = watching
    return redirects
