"""
The HTTP view of a request, as a pure ASGI layer.

It opens one record for each HTTP request that could be an inference, notes status, first byte, last byte and hang-up,
and closes it. No byte is held back or changed, no span is made for a chunk, and a chunk costs one comparison, where no
engine is known also the keeping of its last bytes. What the engine's hooks see on the way belongs to the same record,
through `recorder.CURRENT`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from types import MethodType
from typing import Any

from ai_otel.hooks.arguments import Arguments
from ai_otel.hooks.guard import Guard
from ai_otel.hooks.patch import Patcher
from ai_otel.hooks.point import HookPoint, Rung
from ai_otel.http.routes import ROUTES, Routes
from ai_otel.http.view import METHODS, SEEN, View, close
from ai_otel.record import Exchange, RequestRecord, clock
from ai_otel.recorder import CURRENT, Recorder

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Headers(Mapping[str, str]):
    """The request's headers as a carrier of trace context; decoded only when read."""

    __slots__ = ("_raw",)

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        self._raw = raw

    @property
    def size(self) -> int:
        """About how many bytes the headers take in memory."""
        return sum(128 + len(name) + len(value) for name, value in self._raw)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the first line of a header; `Mapping` would raise and catch for each that is absent."""
        wanted = name.lower().encode("latin-1")
        for key, value in self._raw:
            if key == wanted:
                return value.decode("latin-1")
        return default

    def get_all(self, name: str) -> list[str]:
        """Return every line of a header, in the order in which they came."""
        wanted = name.lower().encode("latin-1")
        return [value.decode("latin-1") for key, value in self._raw if key == wanted]

    def __getitem__(self, name: str) -> str:
        value: str | None = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Any:
        return (key.decode("latin-1") for key, _ in self._raw)

    def __len__(self) -> int:
        return sum(1 for _ in self._raw)


class HttpMiddleware:
    """Serves requests through an ASGI application. `serving` returns whether requests are observed in this process."""

    def __init__(self, recorder: Recorder, serving: Callable[[], bool], view: View | None = None) -> None:
        self._recorder = recorder
        self._serving = serving
        self._view = view or View()
        self._guard = Guard("edge")
        self._started_in = 0
        """The process in which an application was seen last."""

    async def serve(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        """Run `app` for a scope that is wanted. What it raises is raised."""
        guard = self._guard
        if scope["type"] == "lifespan":
            await self._start(app, scope, receive, send)
            return
        opened = guard(self._open, scope)
        if opened is None:
            await app(scope, receive, send)
            return
        record, exchange = opened
        saw = self._saw

        async def observed_send(message: Message) -> None:
            """Pass a message to the client, inspect its type, and notice when the client is gone."""
            # Between the first byte and the last there is nothing to see, unless the answer is read. A plain
            # dictionary cannot fail here.
            if (
                exchange.first_byte_ns is None
                or type(message) is not dict
                or message.get("more_body") is not True
                or ((answer := exchange.answer) is not None and not answer.takes(message.get("body")))
            ):
                guard(saw, record, exchange, message)
            try:
                await send(message)
            except OSError:
                # So servers say it; an OSError of the application's own does not come from here.
                exchange.hung_up = True
                raise

        async def observed_receive() -> Message:
            """Pass on what the client sends, and notice when it leaves."""
            message = await receive()
            if message.get("type") == "http.disconnect" and exchange.last_byte_ns is None:
                exchange.hung_up = True
            return message

        token = CURRENT.set(record)
        error: BaseException | None = None
        try:
            await app(scope, observed_receive, observed_send)
        except BaseException as raised:
            error = raised
            raise
        finally:
            guard.finish(self._close, record, exchange, scope, error)
            try:  # noqa: SIM105 - `suppress` costs half a microsecond here
                CURRENT.reset(token)
            except ValueError:
                # A coroutine that garbage collection closes is in another context, which never had this record.
                pass

    async def _start(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application's startup and shutdown, and notice that it is ready."""

        async def observed_send(message: Message) -> None:
            await send(message)
            self._guard(self._saw_startup, message)

        await app(scope, receive, observed_send)

    def _saw_startup(self, message: Message) -> None:
        if message.get("type") == "lifespan.startup.complete":
            self._saw_application()

    def _saw_application(self) -> None:
        if self._view.app_seen is not None and self._started_in != self._recorder.generation:
            self._started_in = self._recorder.generation
            self._view.app_seen()

    def wants(self, scope: Scope) -> bool:
        """Return whether this request could be an inference and has no record yet."""
        kind = scope.get("type")
        if self._view.app_seen is not None and self._started_in != self._recorder.generation:
            if kind == "lifespan":
                return True
            if kind == "http":  # a server that does not say when it starts
                self._saw_application()
        return (
            kind == "http"
            and scope["method"] in METHODS
            and SEEN not in scope
            and self._serving()
            and not self._view.routes.of_scope(scope).background
        )

    def _open(self, scope: Scope) -> tuple[RequestRecord, Exchange]:
        scope[SEEN] = True
        operation = self._view.routes.of_scope(scope).operation
        record = self._recorder.open(operation, Headers(scope["headers"]))
        record.exchange = exchange = Exchange.started(scope["method"])
        server = scope.get("server")
        if server is not None and server[1] is not None:
            exchange.server_address, exchange.server_port = server[0], int(server[1])  # granian: a string
        return record, exchange

    def _saw(self, record: RequestRecord, exchange: Exchange, message: Message) -> None:
        kind = message.get("type")
        if kind == "http.response.body":
            now_ns = clock(record)
            if exchange.first_byte_ns is None and message.get("body"):
                exchange.first_byte_ns = now_ns
            if exchange.answer is not None and self._view.answers is not None:
                self._view.answers.saw(record, exchange, message.get("body", b""))
            if not message.get("more_body", False):
                exchange.last_byte_ns = now_ns
        elif kind == "http.response.start":
            if exchange.status is not None:
                return  # the server refuses a second one
            exchange.status = message.get("status")
            # Sent from inside the application: the HTTP span of another instrumentation is current here.
            exchange.inner_context = self._recorder.capture()
            if self._view.answers is not None:
                self._view.answers.begin(record, exchange, message.get("headers", ()))
        elif kind == "http.response.pathsend":
            # The server sends a whole file itself; no message follows.
            exchange.last_byte_ns = clock(record)

    def _close(self, record: RequestRecord, exchange: Exchange, scope: Scope, error: BaseException | None) -> None:
        exchange.route = route_of(scope, self._view.routes)
        if error is not None and exchange.last_byte_ns is None and _is_hang_up(error):
            exchange.hung_up = True
        elif error is not None and not exchange.hung_up:
            exchange.error_type = type(error).__name__
        close(self._recorder, record, exchange)


def _is_hang_up(error: BaseException) -> bool:
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        return True
    nested = getattr(error, "exceptions", None)
    if isinstance(nested, tuple) and nested:
        # An exception group: task groups wrap what cancelled their tasks.
        return all(_is_hang_up(each) for each in nested)
    if type(error).__name__ == "Cancelled" and type(error).__module__.partition(".")[0] == "trio":
        return True
    # Starlette turns every OSError of a streamed response into its ClientDisconnect, the application's own too.
    return type(error).__name__ == "ClientDisconnect" and not isinstance(error.__context__, OSError)


def route_of(scope: Scope, routes: Routes = ROUTES) -> str | None:
    """The low-cardinality route: the framework's template, or a known path."""
    template = getattr(scope.get("route"), "path", None) or scope.get("path_template")
    return template if isinstance(template, str) else routes.of_scope(scope).route


STARLETTE = HookPoint(
    "starlette.applications:Starlette.__call__",
    reads=("scope", "receive", "send"),
    versions=">=0.20",
    rung=Rung.PUBLIC,
    why="Every request to a Starlette or FastAPI application enters here, before any middleware can refuse it.",
)


class StarletteInstrumentation:
    """Wraps every Starlette application of this process in the middleware."""

    hooks = (STARLETTE,)

    def __init__(self, recorder: Recorder, serving: Callable[[], bool], view: View | None = None) -> None:
        self._middleware = HttpMiddleware(recorder, serving, view)

    def attach(self, hooks: Patcher) -> None:
        """Register the hook; waits until Starlette is imported."""
        hooks.around(STARLETTE, self._wants, self._serve)

    def _wants(self, _app: Any, arguments: Arguments) -> bool:
        scope = arguments.get("scope")
        # uvicorn calls an application without arguments to learn which interface it has.
        return scope is not None and self._middleware.wants(scope)

    def _serve(self, call: Callable[..., Any], app: Any, *args: Any, **kwargs: Any) -> Awaitable[None]:
        return self._middleware.serve(MethodType(call, app), *args, **kwargs)
