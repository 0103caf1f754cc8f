"""Sends one span and one metric point through the providers that a server would have, and reports the outcome."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import requests
from opentelemetry.metrics import CallbackOptions, Observation
from requests.exceptions import InvalidSchema, InvalidURL, MissingSchema

from ai_otel import providers, resource, semconv
from ai_otel.doctor.export.destination import Destination
from ai_otel.doctor.export.reach import Reach, chain, classify
from ai_otel.doctor.logs import captured_messages
from ai_otel.hooks import guard
from ai_otel.inputs.environ import process_variables, read_as
from ai_otel.inputs.otel import readable
from ai_otel.inputs.shown import shown
from ai_otel.instruments import observable
from ai_otel.settings import Environment
from ai_otel.version import __version__

SERVICE = "ai-otel-doctor"
SPAN = "ai-otel doctor"
ATTEMPT_S = 3.0
"""Timeout of an exporter in seconds. Name resolution has none, so it is abandoned after twice this time."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of the export. `detail` is the message of the server or of the failing library."""

    reach: Reach
    detail: str = ""
    status: int | str | None = None
    """The HTTP status, or the name of the gRPC one."""
    emitter: str = "sdk"
    """What made the telemetry, a value of `AI_OTEL_EMITTER`."""


SDK_DISABLED = Verdict(Reach.NOT_TRIED, "OTEL_SDK_DISABLED is set")


def deliver_all(
    destinations: Sequence[Destination], otel: Mapping[str, str], *, direct: bool = True
) -> dict[Destination, Verdict]:
    """Try all OTLP destinations at the same time, from a process with these `OTEL_*` variables."""
    if otel.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return dict.fromkeys(destinations, SDK_DISABLED)
    probes = {(each.signal, each.exporter): _Probe(each) for each in destinations}
    here: dict[str, str | None] = {name: None for name in process_variables() if name.startswith("OTEL_")}
    with (
        captured_messages("opentelemetry"),
        captured_messages("ai_otel") as messages,
        guard.strict() as failures,
        read_as({**here, **otel}, another_process=True),
    ):
        built = providers.own(
            _resource(otel), otel, lambda signal, name, kind: _make(probes, signal, name, kind), direct=direct
        )
        with readable():
            _record(built)
        # Daemon threads: one that hangs does not keep the process alive.
        ends = [each.shutdown for each in (built.tracer_provider, built.meter_provider) if hasattr(each, "shutdown")]
        threads = [threading.Thread(target=end, daemon=True) for end in ends]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * ATTEMPT_S)
    reason = shown(failures[-1] if failures else messages[-1] if messages else "")
    untried = Verdict(Reach.NOT_TRIED, f"its exporter cannot be made: {reason}")
    return {
        probe.destination: replace(
            probe.verdict or untried, emitter="direct" if probe.destination.signal in built.direct else "sdk"
        )
        for probe in probes.values()
    }


def _resource(otel: Mapping[str, str]) -> Any:
    built = resource.build(Environment.read(otel), instance=SERVICE)
    own = {semconv.SERVICE_NAME: SERVICE, semconv.SERVICE_INSTANCE_ID: SERVICE}
    return built.merge(type(built)({**own, semconv.TELEMETRY_DISTRO_VERSION: __version__}))


def _record(built: providers.Providers) -> None:
    """One span, and one point of a metric of the contract: the records that are open here, 0."""
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    def open_here(_: CallbackOptions | None = None) -> Iterator[Observation]:
        yield Observation(0)

    # This one is sampled under any sampler.
    vars(built.tracer_provider)["sampler"] = ALWAYS_ON
    built.tracer_provider.get_tracer("ai_otel").start_span(SPAN).end()
    observable(built.meter_provider.get_meter("ai_otel"), semconv.AI_OTEL_RECORD_OPEN, open_here)


# What is in the way of the exporter.


class _Probe:
    """Exports once, at any interval, and keeps the verdict."""

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self.verdict: Verdict | None = None
        self._result: Any = None
        self._sent = False

    def watch(self, exporter: Any, session: _Session | None) -> Any:
        """Have an exporter export here."""
        export = exporter.export

        def once(*arguments: Any, **options: Any) -> Any:
            if not self._sent:
                self._sent = True
                self.verdict = Verdict(Reach.NO_ANSWER)
                self.verdict = self._send(lambda: export(*arguments, **options), session)
            return self._result

        exporter.export = once
        return exporter

    def _send(self, export: Callable[[], Any], session: _Session | None) -> Verdict:
        if self.destination.address is None:
            return Verdict(Reach.MALFORMED)
        if self.destination.protocol == "grpc":
            refused = _refused(self.destination)
            if refused is not None:
                return refused
        try:
            self._result = export()
        except _Answered:
            pass
        except (requests.RequestException, OSError, ValueError) as error:
            return _http_failure(error)
        if session is not None and session.verdict is not None:
            return session.verdict
        if getattr(self._result, "name", "") == "SUCCESS":
            return Verdict(Reach.ACCEPTED)
        return Verdict(
            Reach.STATUS, "an empty request is taken, this one is not" if session is None else "no request was sent"
        )


def _make(probes: Mapping[tuple[str, str], _Probe], signal: str, name: str, exporter: type[Any]) -> Any:
    """The exporter as a server makes it, but for a session that keeps the response, and a shorter timeout."""
    probe = probes.get((signal, name))
    if probe is None:
        return None
    if probe.destination.protocol == "grpc":
        return probe.watch(exporter(timeout=ATTEMPT_S), None), None
    if probe.destination.credentials:
        return probe.watch(exporter(), None), None
    session = _Session(signal)
    return probe.watch(exporter(session=session), session), None


def _refused(destination: Destination) -> Verdict | None:
    """Why the server refuses an empty request: the exporter does not say. `None` where it takes it."""
    from ai_otel.doctor.export import grpc_call

    try:
        credentials = grpc_call.credentials(destination) if destination.secure else None
    except OSError as error:
        return Verdict(Reach.TLS, f"{error.filename}: {error.strerror}")
    refusal = grpc_call.refusal(destination, credentials, ATTEMPT_S)
    return None if refusal is None else Verdict(*refusal)


# Over HTTP: the exporter's session keeps the response.


class _Answered(Exception):
    """Ends the exporter's retries: the server has answered, or cannot."""


class _Session(requests.Session):
    """Keeps the outcome of the first request."""

    def __init__(self, signal: str) -> None:
        super().__init__()
        self.signal = signal
        self.verdict: Verdict | None = None

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        # Newer exporters follow no redirect; older ones would turn the export into a GET.
        options["allow_redirects"] = False
        options["timeout"] = ATTEMPT_S
        try:
            response = super().request(*arguments, **options)
        except (requests.RequestException, OSError) as error:
            self.verdict = _http_failure(error)
            raise _Answered from error
        self.verdict = _http_verdict(self.signal, response)
        if self.verdict.reach is not Reach.ACCEPTED:
            raise _Answered
        return response


def _http_failure(error: Exception) -> Verdict:
    if isinstance(error, (InvalidSchema, InvalidURL, MissingSchema)):
        return Verdict(Reach.MALFORMED, str(error))
    innermost = list(chain(error))[-1]
    return Verdict(classify(error) or Reach.UNREACHABLE, str(innermost))


def _http_verdict(signal: str, response: requests.Response) -> Verdict:
    status = response.status_code
    if not 200 <= status < 300:
        return Verdict(Reach.STATUS, response.reason or "", status)
    left_out = _left_out(signal, response)
    return Verdict(Reach.PARTLY if left_out else Reach.ACCEPTED, left_out, status)


def _left_out(signal: str, response: requests.Response) -> str:
    """The server's reason, where it answered 200 but took not everything."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    answer: Any = ExportTraceServiceResponse() if signal == "traces" else ExportMetricsServiceResponse()
    if "protobuf" not in response.headers.get("Content-Type", ""):
        return ""
    try:
        answer.ParseFromString(response.content)
    except DecodeError:
        return ""
    partial = answer.partial_success
    count = partial.rejected_spans if signal == "traces" else partial.rejected_data_points
    return (partial.error_message or f"{count} left out") if count else ""
