"""Attaches the HTTP view to web frameworks and servers, each when it is imported."""

from __future__ import annotations

from collections.abc import Callable

from ai_otel.hooks.patch import Patcher, imported_version
from ai_otel.http.asgi import HttpMiddleware, StarletteInstrumentation
from ai_otel.http.servers import ServerInstrumentation
from ai_otel.http.shutdown import UvicornShutdown
from ai_otel.http.termination import Termination
from ai_otel.http.view import View
from ai_otel.http.workers import WorkerInstrumentation
from ai_otel.http.wsgi import FlaskInstrumentation, WsgiMiddleware
from ai_otel.recorder import Recorder


class HttpInstrumentation:
    """
    Everything that is hooked for the HTTP view. `patchers` has one entry for each distribution.

    `serving` returns whether requests are observed in this process. `hand_over` exports what is left when a server
    stops: see `UvicornShutdown`.
    """

    def __init__(
        self,
        recorder: Recorder,
        serving: Callable[[], bool],
        view: View,
        hand_over: Callable[[Callable[[], None]], float],
    ) -> None:
        self.patchers: dict[str, Patcher] = {}
        self.asgi = HttpMiddleware(recorder, serving, view)
        self.wsgi = WsgiMiddleware(recorder, serving, view)
        StarletteInstrumentation(recorder, serving, view).attach(self._patcher("starlette"))
        FlaskInstrumentation(self.wsgi).attach(self._patcher("flask"))
        ServerInstrumentation(self.asgi, self.wsgi).attach(self._patcher)
        UvicornShutdown(hand_over).attach(self._patcher("uvicorn"))
        WorkerInstrumentation().attach(self._patcher("python"))
        Termination(hand_over, self.wsgi.begin).attach(self._patcher)

    def _patcher(self, distribution: str) -> Patcher:
        if distribution not in self.patchers:
            # Their metadata: to read `__version__` of Flask is deprecated.
            self.patchers[distribution] = Patcher(distribution, lambda: imported_version("", (distribution,)))
        return self.patchers[distribution]
