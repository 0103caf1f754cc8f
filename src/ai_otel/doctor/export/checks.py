"""Checks where telemetry is exported and whether it arrives; each failure has a next step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ai_otel.doctor.export.delivery import SDK_DISABLED, Verdict, deliver_all
from ai_otel.doctor.export.destination import Destination, destinations
from ai_otel.doctor.export.reach import Reach
from ai_otel.doctor.finding import Finding, Level
from ai_otel.inputs.otel import check
from ai_otel.inputs.shown import shown


def check_export(otel: Mapping[str, str], *, direct: bool = True) -> Iterator[Finding]:
    """One finding for each exporter of each signal. `direct` says that `AI_OTEL_EMITTER` is so."""
    if otel.get("OTEL_CONFIG_FILE"):
        says = "OTEL_CONFIG_FILE says where; what it names is not tried from here"
        yield Finding("export", "traces, metrics", Level.NOTE, says)
        return
    checked = check(otel)
    for complaint in checked.complaints:
        next_step = f"{complaint.step[:1].upper()}{complaint.step[1:]}."
        yield Finding("export", complaint.variable, Level.WRONG, complaint.sentence, next_step)
    found = list(destinations(checked.values))
    verdicts = deliver_all(
        [destination for destination in found if destination.exporter == "otlp"], otel, direct=direct
    )
    for destination in found:
        yield _delivered(destination, verdicts[destination]) if destination in verdicts else _not_otlp(destination)


def _not_otlp(destination: Destination) -> Finding:
    details = {"signal": destination.signal, "exporter": shown(destination.exporter)}
    if destination.exporter == "none":
        return Finding("export", destination.signal, Level.NOTE, "go nowhere: the exporter is none", details=details)
    return Finding(
        "export",
        destination.signal,
        Level.NOTE,
        f"go to the exporter {shown(destination.exporter)}; it is not tried",
        details=details,
    )


def _delivered(destination: Destination, verdict: Verdict) -> Finding:
    where = f"{destination.protocol} to {destination.shown}"
    if destination.header_names:
        where += f" with headers {', '.join(destination.header_names)}"
    answer = f"{verdict.reach.value} {verdict.status}" if verdict.status is not None else verdict.reach.value
    details = {
        "signal": destination.signal,
        "exporter": destination.exporter,
        "protocol": destination.protocol,
        "endpoint": destination.shown,
        "from": destination.origin,
        "tls": destination.secure,
        "headers": destination.header_names,
        "reach": verdict.reach.value,
        "status": verdict.status,
        "emitter": verdict.emitter,
    }
    if verdict.reach is Reach.ACCEPTED:
        return Finding(
            "export", destination.signal, Level.OK, f"{where}: accepted (emitter: {verdict.emitter})", details=details
        )
    says = f"{where}: {answer}" + (f" ({shown(verdict.detail)})" if verdict.detail else "")
    return Finding("export", destination.signal, Level.WRONG, says, next_step(destination, verdict), details)


def next_step(destination: Destination, verdict: Verdict) -> str:
    """What to do about a failed delivery."""
    if verdict == SDK_DISABLED:
        return "Unset OTEL_SDK_DISABLED."
    if isinstance(verdict.status, str):
        return _after_grpc_status(verdict.status)
    if verdict.reach is Reach.STATUS and verdict.status is not None:
        return _after_status(destination, verdict.status)
    if verdict.reach in (Reach.OTHER_PROTOCOL, Reach.NO_ANSWER, Reach.TLS) and _wrong_port(destination):
        return _wrong_port(destination)
    if verdict.reach is Reach.TLS and destination.protocol == "grpc" and "://" not in destination.endpoint:
        return f"Without a scheme gRPC means TLS: write http://{destination.shown} if the server speaks plain text."
    if verdict.reach is Reach.TLS and destination.protocol != "grpc" and destination.certificate:
        # requests asks these variables before its session's `verify`, which newer exporters set (psf/requests#3829).
        signer = shown(destination.certificate)
        return f"Did {signer} sign it? Where set, REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE win over it."
    if verdict.reach is Reach.REFUSED and destination.address is not None and _is_local(destination.address[0]):
        return (
            "Start a Collector there, or set OTEL_EXPORTER_OTLP_ENDPOINT. In a Kubernetes pod localhost is the pod "
            "itself: run the Collector as its sidecar, or name the node (status.hostIP) or the Collector's service."
        )
    return _STEPS[verdict.reach]


_STEPS: Mapping[Reach, str] = {
    Reach.PARTLY: "The server says why; telemetry of that kind is lost.",
    Reach.REFUSED: "Nothing listens there: is the Collector up, and its otlp receiver bound to 0.0.0.0?",
    Reach.NO_ANSWER: "A firewall or network policy drops it, or the server hangs: allow the port, or see its log.",
    Reach.NO_NAME: "Correct the host name; across namespaces a Kubernetes service is NAME.NAMESPACE.svc.",
    Reach.TLS: "Set OTEL_EXPORTER_OTLP_CERTIFICATE to the CA that signed it, or write http:// if it speaks plain text.",
    Reach.UNREACHABLE: "There is no route to that address: correct the endpoint.",
    Reach.OTHER_PROTOCOL: "The port speaks something else: OTLP over HTTP is usually on 4318, over gRPC on 4317.",
    Reach.STATUS: "See the server's log.",
    Reach.MALFORMED: "Write it like http://HOST:4318.",
    Reach.NOT_TRIED: "pip install opentelemetry-exporter-otlp",
}


def _after_status(destination: Destination, status: int) -> str:
    whole = destination.endpoint.endswith(f"/v1/{destination.signal}")
    if status in (404, 405) and not whole:
        return (
            f"{destination.origin} is taken as it stands: end it with /v1/{destination.signal}, "
            "or set OTEL_EXPORTER_OTLP_ENDPOINT."
        )
    if status in (404, 405):
        return f"No OTLP receiver for {destination.signal} at that path: is this a Collector's otlp port?"
    return next((step for statuses, step in _AFTER_STATUS if status in statuses), "See the server's log.")


_AFTER_STATUS = (
    (range(300, 400), "The exporter follows no redirect: write the final address, usually with https."),
    ((400,), "The server does not take this as OTLP: does it want https, or is a proxy in between?"),
    ((401, 403), "Put the credentials into OTEL_EXPORTER_OTLP_HEADERS, as NAME=VALUE; a space is written %20."),
    (
        (408, 429, 502, 503, 504),
        "It is there, but overloaded or not ready: see the Collector's log and memory limiter.",
    ),
)


def _after_grpc_status(code: str) -> str:
    if code == "UNIMPLEMENTED":
        return "The server speaks gRPC, but takes no OTLP of this signal: add a pipeline for it to the Collector."
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return "Put the credentials into OTEL_EXPORTER_OTLP_HEADERS, as NAME=VALUE; names in small letters."
    return "See the server's log."


def _wrong_port(destination: Destination) -> str:
    port = destination.address[1] if destination.address is not None else None
    if port == 4317 and destination.protocol != "grpc":
        return "4317 is the gRPC port: write 4318, or set OTEL_EXPORTER_OTLP_PROTOCOL=grpc."
    if port == 4318 and destination.protocol == "grpc":
        return "4318 is the HTTP port: write 4317, or set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf."
    return ""


def _is_local(host: str) -> bool:
    return host in ("localhost", "127.0.0.1", "::1")
