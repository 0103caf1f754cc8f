"""
Whose child a request is: the parent policy.

1. An HTTP span that another instrumentation opened for this request, and that is exported by the same provider, is the
   parent.
2. A local span that is current and is exported by the same provider is the parent.
3. A valid remote context in the request's headers is the parent.
4. A valid local span of a foreign provider may never be exported, or be unsampled: by default it is only linked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import Link, SpanKind

from ai_otel.inputs.otel import readable
from ai_otel.record import RequestRecord

with readable("propagation"):  # the API loads the propagators when it is imported
    from opentelemetry import propagate

FOREIGN_PARENT = ("link", "parent", "ignore")
MAX_HEADER_CHARACTERS = 8192
"""The longest `baggage` that is valid. A propagator of the API logs a longer one, at each request and as a whole."""


class Parent(NamedTuple):
    """Where a request span hangs."""

    context: Context
    kind: SpanKind
    links: tuple[Link, ...] = ()


def capture() -> Context:
    """The caller's current context."""
    return get_current()


def parent_of(record: RequestRecord, *, same_provider: bool, foreign: str = "link") -> Parent:
    """
    The parent of a record's span.

    `same_provider` is true if the application's own spans reach the same provider as ai-otel's; `foreign` says what
    to do with the others: `link`, `parent` or `ignore`.
    """
    local = http_span_of(record) or _local_span(record.context)
    if local is not None and (same_provider or foreign == "parent"):
        return Parent(trace.set_span_in_context(local, Context()), SpanKind.INTERNAL)
    remote = extract(record.headers)
    span = local if local is not None and foreign == "link" else None
    # A link to a span in the caller's own trace says nothing that the parent does not.
    same = span is not None and span.get_span_context().trace_id == _trace_id(remote)
    links = (Link(span.get_span_context()),) if span is not None and not same else ()
    return Parent(remote, SpanKind.SERVER, links)


class _HeaderGetter(Getter[Mapping[str, str]]):
    """
    Reads headers of which one name may stand on several lines.

    These are one list (RFC 9110, 5.3): `tracestate: a=1` and `tracestate: b=2` are `a=1,b=2`. An application that
    reports its requests itself may give values that are no text.
    """

    def get(self, carrier: Mapping[str, str], key: str) -> list[str] | None:
        """Return every value of a header that a propagator can read; `None` where there is none."""
        get_all = getattr(carrier, "get_all", None)
        values = (get_all(key) or ()) if get_all is not None else (carrier.get(key),)
        return [value for value in values if isinstance(value, str) and len(value) <= MAX_HEADER_CHARACTERS] or None

    def keys(self, carrier: Mapping[str, str]) -> list[str]:
        """Return the names of all headers."""
        return list(carrier)


_GETTER = _HeaderGetter()


def extract(headers: Mapping[str, str] | None) -> Context:
    """The remote context in these headers, by the configured propagators; empty where there is none."""
    return propagate.extract(headers, Context(), _GETTER) if headers else Context()


def _trace_id(context: Context) -> int:
    return trace.get_current_span(context).get_span_context().trace_id


def http_span_of(record: RequestRecord) -> trace.Span | None:
    """The HTTP span that another instrumentation opened for this request, inside the HTTP middleware or around it."""
    if record.exchange is None:
        return None
    inner, outer = _local_span(record.exchange.inner_context), _local_span(record.context)
    if inner is None or outer is None or inner.get_span_context() != outer.get_span_context():
        return inner
    return inner if _serves_http(inner) else None


def _serves_http(span: trace.Span) -> bool:
    # FastAPI's own telemetry, from 0.137 on, opens its span outside of Starlette. Only the SDK's spans can be read.
    attributes = getattr(span, "attributes", None) or {}
    return getattr(span, "kind", None) is SpanKind.SERVER and "http.request.method" in attributes


def _local_span(context: object) -> trace.Span | None:
    if not isinstance(context, Context):
        return None
    span = trace.get_current_span(context)
    found = span.get_span_context()
    return span if found.is_valid and not found.is_remote else None
