"""
The `OTEL_*` variables that ai-otel's own providers read, checked before the SDK reads them.

The specification asks that a value which cannot be read is reported and treated as unset. The SDK raises for some, logs
a traceback for others, and fails on import for two; so each has a row here, and the SDK only sees what it can read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from ai_otel.inputs import readers
from ai_otel.inputs.environ import process_variables, read_as
from ai_otel.inputs.readers import Invalid
from ai_otel.inputs.shown import shown

log = logging.getLogger("ai_otel")

Reader = Callable[[str], str]
"""Returns a value as the SDK can read it; raises `Invalid`."""


class Row(NamedTuple):
    """How a variable is read, and what holds without it."""

    read: Reader
    default: str
    group: str = "providers"
    """Who reports it: `providers`, `resource`, `propagation` or `globals`."""
    secret: bool = False
    """Its value is not shown at all."""


class Complaint(NamedTuple):
    """A variable with a value that cannot be read."""

    variable: str
    sentence: str
    group: str
    step: str
    """What to write instead."""


class Checked(NamedTuple):
    """An environment as the SDK gets to read it."""

    values: Mapping[str, str]
    replaced: Mapping[str, str | None]
    """What differs from the environment; `None` is an unset variable."""
    complaints: tuple[Complaint, ...]


_MOST = 2**31 - 1
_limit, _size = readers.whole(0, _MOST, empty=True), readers.whole(1, _MOST)
_flag, _milliseconds = readers.one_of("true", "false"), readers.number(0, _MOST, above=True)
_seconds = readers.number(0, _MOST / 1000, above=True)
_CREDENTIALS = readers.entry_point("opentelemetry_otlp_credential_provider")


def _otlp(option: str, read: Reader, default: str, *, secret: bool = False) -> dict[str, Row]:
    """The general variable of an option of OTLP exporters, and that of each signal."""
    general = f"OTEL_EXPORTER_OTLP_{option}"
    signals = {
        f"OTEL_EXPORTER_OTLP_{signal}_{option}": Row(read, "", secret=secret) for signal in ("TRACES", "METRICS")
    }
    return {general: Row(read, default, secret=secret), **signals}


ROWS: Mapping[str, Row] = {
    "OTEL_SDK_DISABLED": Row(_flag, "false"),
    "OTEL_PROPAGATORS": Row(
        readers.entry_points_of("opentelemetry_propagator", "none"), "tracecontext,baggage", "propagation"
    ),
    "OTEL_PYTHON_TRACER_PROVIDER": Row(
        readers.entry_point("opentelemetry_tracer_provider"), "no global provider", "globals"
    ),
    "OTEL_PYTHON_METER_PROVIDER": Row(
        readers.entry_point("opentelemetry_meter_provider"), "no global provider", "globals"
    ),
    "OTEL_RESOURCE_ATTRIBUTES": Row(readers.resource_attributes, "none of it", "resource"),
    "OTEL_SERVICE_NAME": Row(readers.resolved, "the engine's name", "resource"),
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": Row(
        readers.entry_points_of("opentelemetry_resource_detector", "*", "otel", "service_instance"), "none", "resource"
    ),
    "OTEL_TRACES_SAMPLER": Row(
        readers.one_of(
            "always_on",
            "always_off",
            "traceidratio",
            "parentbased_always_on",
            "parentbased_always_off",
            "parentbased_traceidratio",
        ),
        "parentbased_always_on",
    ),
    "OTEL_TRACES_SAMPLER_ARG": Row(readers.number(0, 1, otherwise="1.0"), "1.0"),
    "OTEL_ATTRIBUTE_COUNT_LIMIT": Row(_limit, "128"),
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": Row(_limit, "no limit"),
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": Row(_limit, "128"),
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": Row(_limit, "no limit"),
    "OTEL_SPAN_EVENT_COUNT_LIMIT": Row(_limit, "128"),
    "OTEL_SPAN_LINK_COUNT_LIMIT": Row(_limit, "128"),
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": Row(_limit, "128"),
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": Row(_limit, "128"),
    "OTEL_BSP_SCHEDULE_DELAY": Row(_size, "5000"),
    "OTEL_BSP_EXPORT_TIMEOUT": Row(readers.whole(0, _MOST), "30000"),
    "OTEL_BSP_MAX_QUEUE_SIZE": Row(_size, "2048"),
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": Row(_size, "512"),
    "OTEL_METRIC_EXPORT_INTERVAL": Row(_milliseconds, "60000"),
    "OTEL_METRIC_EXPORT_TIMEOUT": Row(_milliseconds, "30000"),
    "OTEL_METRICS_EXEMPLAR_FILTER": Row(readers.one_of("always_on", "always_off", "trace_based"), "trace_based"),
    "OTEL_TRACES_EXPORTER": Row(readers.entry_points_of("opentelemetry_traces_exporter", "otlp", "none"), "otlp"),
    "OTEL_METRICS_EXPORTER": Row(readers.entry_points_of("opentelemetry_metrics_exporter", "otlp", "none"), "otlp"),
    **_otlp("PROTOCOL", readers.one_of("http/protobuf", "grpc"), "http/protobuf"),
    **_otlp("ENDPOINT", readers.endpoint, "the local Collector's port"),
    **_otlp("HEADERS", readers.headers, "none of it", secret=True),
    **_otlp("TIMEOUT", _seconds, "10"),
    **_otlp("COMPRESSION", readers.one_of("none", "gzip", "deflate"), "none"),
    **_otlp("INSECURE", _flag, "false"),
    **_otlp("CERTIFICATE", readers.certificates, "the system's certificates"),
    **_otlp("CLIENT_KEY", readers.readable_file, "none"),
    **_otlp("CLIENT_CERTIFICATE", readers.readable_file, "none"),
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": Row(
        readers.one_of("cumulative", "delta", "lowmemory"), "cumulative"
    ),
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": Row(
        readers.one_of("explicit_bucket_histogram", "base2_exponential_bucket_histogram"), "explicit_bucket_histogram"
    ),
    "OTEL_PYTHON_EXPORTER_OTLP_GRPC_RETRYABLE_ERROR_CODES": Row(readers.grpc_codes, "the exporter's own list"),
    **{
        f"OTEL_PYTHON_EXPORTER_OTLP_{protocol}_{signal}CREDENTIAL_PROVIDER": Row(_CREDENTIALS, "none")
        for protocol in ("HTTP", "GRPC")
        for signal in ("", "TRACES_", "METRICS_")
    },
    "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": Row(_flag, "false"),
}
"""Variable → its row. Not here: what only `opentelemetry-instrument`, logs or exporters of other packages read."""


def check(environment: Mapping[str, str]) -> Checked:
    """Read every variable that is set."""
    values, complaints = dict(environment), list[Complaint]()
    for name, row in ROWS.items():
        text = environment.get(name)
        if text is None or (name == "OTEL_TRACES_SAMPLER_ARG" and "ratio" not in values.get("OTEL_TRACES_SAMPLER", "")):
            continue
        try:
            values[name] = row.read(text)
            if not values[name].strip() and row.read is not _limit:
                # An empty variable is an unset one; for a limit the SDK reads it as no limit.
                del values[name]
        except Invalid as invalid:
            values.pop(name)
            if invalid.rest:
                values[name] = invalid.rest
            complaints.append(_complaint(name, row, text, invalid, values))
    _fit_batches(environment, values, complaints)
    _fit_endpoints(values, complaints)
    _fit_compression(values, complaints)
    names = {*environment, *values}
    replaced = {name: values.get(name) for name in sorted(names) if environment.get(name) != values.get(name)}
    return Checked(values, replaced, tuple(complaints))


@contextmanager
def readable(*groups: str, environment: Mapping[str, str] | None = None) -> Iterator[Mapping[str, str]]:
    """
    Have this thread, so the SDK that it calls, see only what can be read; what cannot, of these groups, is logged once.

    `environment` is this process's unless given. Yields it as the SDK sees it.
    """
    checked = check(process_variables() if environment is None else environment)
    for complaint in checked.complaints:
        if complaint.group in groups and complaint.sentence not in _logged:
            _logged.add(complaint.sentence)  # inherited by the children of a fork
            log.warning("ai-otel: %s", complaint.sentence)
    with read_as(checked.replaced):
        yield checked.values


_logged: set[str] = set()


def _complaint(name: str, row: Row, text: str, invalid: Invalid, values: Mapping[str, str]) -> Complaint:
    what = name if row.secret else f"{name}={shown(text)!r}"
    using = invalid.using or row.default
    if not row.default:
        general = name.replace("_TRACES_", "_").replace("_METRICS_", "_")
        using = general if general in values else ROWS[general].default
    sentence = f"{what} is invalid: {invalid}; using {shown(using)}"
    return Complaint(name, sentence, row.group, invalid.step)


def _fit_batches(environment: Mapping[str, str], values: dict[str, str], complaints: list[Complaint]) -> None:
    """The SDK refuses batches that are larger than the queue, the default of one included."""
    queue, batch = "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"
    longest, size = (int(values.get(name, ROWS[name].default)) for name in (queue, batch))
    if size <= longest:
        return
    values[batch] = str(longest)
    if batch in environment:
        step = f"write a number up to {queue}, {longest}"
        sentence = f"{batch}={shown(environment[batch])!r} is invalid: {step}; using {longest}"
        complaints.append(Complaint(batch, sentence, "providers", step))


def _of_signal(values: Mapping[str, str], signal: str, option: str) -> str | None:
    """The value of an option that holds for a signal."""
    general = values.get(f"OTEL_EXPORTER_OTLP_{option}")
    return values.get(f"OTEL_EXPORTER_OTLP_{signal}_{option}", general)


def _over_grpc(values: Mapping[str, str], signal: str) -> bool:
    exporters = {name.strip() for name in values.get(f"OTEL_{signal}_EXPORTER", "otlp").split(",")}
    by_protocol = "otlp" in exporters and _of_signal(values, signal, "PROTOCOL") == "grpc"
    return by_protocol or "otlp_proto_grpc" in exporters


def _fit_compression(values: dict[str, str], complaints: list[Complaint]) -> None:
    """
    To the gRPC exporters `gzip` is the only value of a compression that is set; they raise for others.

    Where one of them would read another, each signal gets its own variable.
    """
    wanted = {signal: _of_signal(values, signal, "COMPRESSION") for signal in ("TRACES", "METRICS")}
    unread = [signal for signal, value in wanted.items() if value not in (None, "gzip") and _over_grpc(values, signal)]
    if not unread:
        return
    values.pop("OTEL_EXPORTER_OTLP_COMPRESSION", None)
    for signal, value in wanted.items():
        name = f"OTEL_EXPORTER_OTLP_{signal}_COMPRESSION"
        values.pop(name, None)
        if value is not None and signal not in unread:
            values[name] = value
        elif value == "deflate":
            step = "write gzip or none, for gRPC"
            sentence = f"{name}='deflate' is invalid: {step}; using none"
            complaints.append(Complaint(name, sentence, "providers", step))


def _fit_endpoints(values: dict[str, str], complaints: list[Complaint]) -> None:
    """Only gRPC exporters read an endpoint without `http://` or `https://`."""

    def over_http(signal: str) -> bool:
        return _of_signal(values, signal, "PROTOCOL") != "grpc"

    read_by = {f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT": over_http(signal) for signal in ("TRACES", "METRICS")}
    read_by["OTEL_EXPORTER_OTLP_ENDPOINT"] = all(read_by.values())
    for name, http in read_by.items():
        if http and name in values and not values[name].lower().startswith(("http://", "https://")):
            text = values.pop(name)
            invalid = Invalid("write it like http://HOST:4318")
            complaints.append(_complaint(name, ROWS[name], text, invalid, values))
