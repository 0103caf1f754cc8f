"""
The HTTP view of a request to a WSGI application: the same record as in `asgi`.

An answer in one piece (a list, a file that the server sends itself) stays the object that it is, because servers treat
it by its type: its record ends with the call. Any other iterable is passed through item by item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

from ai_otel.hooks.arguments import Arguments
from ai_otel.hooks.guard import Guard
from ai_otel.hooks.patch import Patcher
from ai_otel.hooks.point import HookPoint, Rung
from ai_otel.http.view import METHODS, SEEN, View, close
from ai_otel.record import Exchange, RequestRecord, clock
from ai_otel.recorder import CURRENT, Recorder

Environ = MutableMapping[str, Any]
StartResponse = Callable[..., Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]


class EnvironHeaders(Mapping[str, str]):
    """The request's headers as a carrier of trace context. The environment also holds the request's body."""

    __slots__ = ("_values",)

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self._values = {key: value for key, value in environ.items() if key.startswith("HTTP_")}

    @property
    def size(self) -> int:
        """About how many bytes the headers take in memory."""
        return sum(128 + len(key) + len(value) for key, value in self._values.items())

    def get(self, name: str, default: Any = None) -> Any:
        """Return a header; servers join its lines with commas."""
        return self._values.get(f"HTTP_{name.upper().replace('-', '_')}", default)

    def __getitem__(self, name: str) -> str:
        value: str | None = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return (key[5:].lower().replace("_", "-") for key in self._values)

    def __len__(self) -> int:
        return len(self._values)


class WsgiMiddleware:
    """Serves requests through a WSGI application. `serving` returns whether requests are observed in this process."""

    def __init__(self, recorder: Recorder, serving: Callable[[], bool], view: View | None = None) -> None:
        self._recorder = recorder
        self._serving = serving
        self._view = view or View()
        self.guard = Guard("edge")
        self._started_in = 0
        """The process in which an application was seen last."""

    def begin(self) -> None:
        """An application is ready to serve, or serves already."""
        if self._view.app_seen is not None and self._started_in != self._recorder.generation:
            self._started_in = self._recorder.generation
            self._view.app_seen()

    def wants(self, environ: Environ) -> bool:
        """Return whether this request could be an inference and has no record yet."""
        self.begin()
        return (
            environ["REQUEST_METHOD"] in METHODS
            and SEEN not in environ
            and self._serving()
            and not self._view.routes.of(environ.get("PATH_INFO", "")).background
            and not _is_inside_of_another()
        )

    def serve(self, app: App, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Call `app` for an environment that is wanted. What it raises is raised."""
        guard = self.guard
        opened = guard(self._open, environ)
        if opened is None:
            return app(environ, start_response)
        call = Call(self, opened, environ)
        token = CURRENT.set(call.record)
        try:
            result = app(environ, call.observed(start_response))
        except BaseException as error:
            guard.finish(call.end, error)
            raise
        finally:
            CURRENT.reset(token)
        answer = guard.finish(call.answer, result)
        return result if answer is None else answer

    def _open(self, environ: Environ) -> RequestRecord:
        environ[SEEN] = True
        operation = self._view.routes.of(environ.get("PATH_INFO", "")).operation
        record = self._recorder.open(operation, EnvironHeaders(environ))
        record.exchange = exchange = Exchange.started(environ["REQUEST_METHOD"])
        port = str(environ.get("SERVER_PORT", ""))
        if environ.get("SERVER_NAME") and port.isdecimal():
            exchange.server_address, exchange.server_port = environ["SERVER_NAME"], int(port)
        return record

    # What a call notices.

    def started(self, call: Call, status: str, headers: Iterable[tuple[str, str]] = (), *_: Any, **__: Any) -> None:
        """The application has chosen a status; until the first byte it may choose another."""
        if call.exchange.first_byte_ns is not None:
            return
        call.exchange.status = int(status[:3])
        call.exchange.inner_context = self._recorder.capture()
        # Flask forgets its request when the call returns, before a stream begins.
        call.exchange.route = route_of(call.environ)
        if self._view.answers is not None:
            call.exchange.answer = call.exchange.complete = None
            encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
            self._view.answers.begin(call.record, call.exchange, encoded)

    def saw(self, call: Call, body: bytes) -> None:
        """A piece of the answer is handed to the server."""
        if body and call.exchange.first_byte_ns is None:
            call.exchange.first_byte_ns = clock(call.record)
        if call.exchange.answer is not None and self._view.answers is not None:
            self._view.answers.saw(call.record, call.exchange, body)

    def end(self, call: Call) -> None:
        """The request is over."""
        if call.exchange.route is None:
            call.exchange.route = self._view.routes.of(call.environ.get("PATH_INFO", "")).route
        close(self._recorder, call.record, call.exchange)


class Call:
    """One request on its way through an application."""

    __slots__ = ("_middleware", "ended", "environ", "exchange", "record")

    def __init__(self, middleware: WsgiMiddleware, record: RequestRecord, environ: Environ) -> None:
        assert record.exchange is not None  # noqa: S101 - the middleware has just set it
        self._middleware = middleware
        self.record, self.exchange, self.environ = record, record.exchange, environ
        self.ended = False

    def observed(self, start_response: StartResponse) -> StartResponse:
        """What the application calls instead of the server's `start_response`."""
        middleware, call = self._middleware, self

        def observed_start(*args: Any, **kwargs: Any) -> Any:
            middleware.guard(middleware.started, call, *args)
            write = start_response(*args, **kwargs)

            def observed_write(data: bytes) -> Any:
                middleware.guard(middleware.saw, call, data)
                try:
                    return write(data)
                except OSError:
                    call.exchange.hung_up = True
                    raise

            return observed_write

        return observed_start

    def answer(self, result: Any) -> Answer | None:
        """What stands in place of the result; `None` where it must stay."""
        if isinstance(result, (list, tuple)):
            for item in result:
                self._middleware.saw(self, item)
        else:
            file_wrapper = self.environ.get("wsgi.file_wrapper")
            if not isinstance(file_wrapper, type) or not isinstance(result, file_wrapper):
                return (SizedAnswer if hasattr(type(result), "__len__") else Answer)(self._middleware, self, result)
        self.end(None, complete=True)
        return None

    def end(self, error: BaseException | None, complete: bool = False) -> None:
        """The application has ended the answer; the first end counts. Without any error, the server may have."""
        if self.ended:
            return
        self.ended = True
        if complete:
            self.exchange.last_byte_ns = clock(self.record)
        elif error is None or isinstance(error, GeneratorExit):
            self.exchange.hung_up = True
        elif not self.exchange.hung_up:
            self.exchange.error_type = type(error).__name__
        self._middleware.end(self)


class Answer:
    """An answer that passes through item by item."""

    __slots__ = ("_call", "_items", "_middleware", "_result")

    def __init__(self, middleware: WsgiMiddleware, call: Call, result: Any) -> None:
        self._middleware = middleware
        self._call = call
        self._result = result
        self._items: Iterator[bytes] | None = None

    def __iter__(self) -> Answer:
        self._items = iter(self._result)
        return self

    def __next__(self) -> bytes:
        call, guard = self._call, self._middleware.guard
        token = CURRENT.set(call.record)
        try:
            if self._items is None:
                self._items = iter(self._result)
            item = next(self._items)
        except StopIteration:
            guard.finish(call.end, None, True)
            raise
        except BaseException as error:
            guard.finish(call.end, error)
            raise
        finally:
            CURRENT.reset(token)
        answer = call.exchange.answer
        if call.exchange.first_byte_ns is None or (answer is not None and not answer.takes(item)):
            guard(self._middleware.saw, call, item)
        return item

    def close(self) -> None:
        """Called by the server at the end; before the last item because the client has left."""
        token = CURRENT.set(self._call.record)
        try:
            close = getattr(self._result, "close", None)
            if close is not None:
                close()
        finally:
            CURRENT.reset(token)
            self._middleware.guard.finish(self._call.end, None)

    def __del__(self) -> None:
        if not self._call.ended:  # a server that does not close
            self._middleware.guard.finish(self._call.end, None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._result, name)


class SizedAnswer(Answer):
    """Of known length: servers read it."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._result)


def route_of(environ: Mapping[str, Any]) -> str | None:
    """The low-cardinality route as the framework says it: Flask and other users of Werkzeug, Bottle."""
    rule = getattr(getattr(environ.get("werkzeug.request"), "url_rule", None), "rule", None)
    if rule is None:
        rule = getattr(environ.get("bottle.route"), "rule", None)
    return rule if isinstance(rule, str) else None


def _is_inside_of_another() -> bool:
    """Whether a server or an ASGI application has a record of this request: it is one call of one client."""
    record = CURRENT.get()
    return record is not None and record.exchange is not None and not record.closed


FLASK = HookPoint(
    "flask.app:Flask.__call__",
    reads=("environ", "start_response"),
    versions=">=2.0",
    rung=Rung.PUBLIC,
    why="Every request to a Flask application enters here, before any middleware can refuse it.",
)


class FlaskInstrumentation:
    """Wraps every Flask application of this process in the middleware."""

    hooks = (FLASK,)

    def __init__(self, middleware: WsgiMiddleware) -> None:
        self._middleware = middleware

    def attach(self, hooks: Patcher) -> None:
        """Register the hook; waits until Flask is imported."""
        hooks.around(FLASK, self._wants, self._serve)

    def _wants(self, _app: Any, arguments: Arguments) -> bool:
        return self._middleware.wants(arguments.get("environ"))

    def _serve(self, call: Callable[..., Any], app: Any, environ: Environ, start_response: Any) -> Any:
        return self._middleware.serve(lambda *given: call(app, *given), environ, start_response)
