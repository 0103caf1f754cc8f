from __future__ import annotations

import pytest

from ai_otel.inputs import otel
from ai_otel.inputs.otel import check, readable

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def complaint(**variables: str) -> str:
    (only,) = check(variables).complaints
    return only.sentence


def test_good_values_are_left_as_they_are() -> None:
    good = {
        "OTEL_PROPAGATORS": "tracecontext,baggage",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.25",
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "64",
        "OTEL_BSP_MAX_QUEUE_SIZE": "4096",
        "OTEL_RESOURCE_ATTRIBUTES": "team=blue,deployment.environment.name=prod%20eu",
        ENDPOINT: "https://collector:4318/otlp",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Basic dXNlcjpwYXNz==,x-team=a%20b",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2.5",
        "UNRELATED": "$(NAME)",
    }
    assert check(good) == (good, {}, ())


def test_the_sdk_reads_words_in_small_letters() -> None:
    checked = check({"OTEL_METRICS_EXEMPLAR_FILTER": " TRACE_BASED ", "OTEL_EXPORTER_OTLP_COMPRESSION": "GZIP"})
    assert checked.complaints == ()
    assert checked.replaced == {"OTEL_METRICS_EXEMPLAR_FILTER": "trace_based", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}


def test_an_empty_variable_is_an_unset_one() -> None:
    checked = check({"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "", "OTEL_EXPORTER_OTLP_COMPRESSION": " "})
    assert (checked.complaints, dict(checked.values)) == ((), {})


def test_an_empty_limit_is_no_limit_as_in_the_sdk() -> None:
    assert check({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": ""}) == ({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": ""}, {}, ())


def test_a_complaint_names_the_variable_the_step_and_what_is_used() -> None:
    said = complaint(OTEL_METRICS_EXEMPLAR_FILTER="bogus")
    assert said == (
        "OTEL_METRICS_EXEMPLAR_FILTER='bogus' is invalid: write always_on, always_off or trace_based; using trace_based"
    )


def test_a_signals_own_variable_leaves_the_general_one() -> None:
    said = complaint(OTEL_EXPORTER_OTLP_TRACES_TIMEOUT="soon", OTEL_EXPORTER_OTLP_TIMEOUT="3")
    assert said.endswith("using OTEL_EXPORTER_OTLP_TIMEOUT")
    assert complaint(OTEL_EXPORTER_OTLP_TRACES_TIMEOUT="soon").endswith("using 10")


def test_the_readable_part_of_a_list_holds() -> None:
    checked = check(
        {
            "OTEL_PROPAGATORS": "tracecontext,ottrace",
            "OTEL_RESOURCE_ATTRIBUTES": "team=blue,sk,pod=$(POD)",
            "OTEL_EXPORTER_OTLP_HEADERS": "x-team=blue,Authorization: Bearer s3cret",
        }
    )
    assert checked.replaced == {
        "OTEL_PROPAGATORS": "tracecontext",
        "OTEL_RESOURCE_ATTRIBUTES": "team=blue",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-team=blue",
    }
    assert "s3cret" not in repr(checked.complaints)


def test_a_queue_that_is_smaller_than_a_batch_gets_smaller_batches() -> None:
    """The SDK refuses its own default for a short queue."""
    checked = check({"OTEL_BSP_MAX_QUEUE_SIZE": "100"})
    assert (checked.replaced, checked.complaints) == ({"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "100"}, ())
    said = complaint(OTEL_BSP_MAX_QUEUE_SIZE="100", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="200")
    assert said.startswith("OTEL_BSP_MAX_EXPORT_BATCH_SIZE='200' is invalid")


def test_placeholders_in_the_destination_are_not_sent() -> None:
    assert "a placeholder in it was not resolved" in complaint(**{ENDPOINT: "http://$(HOST_IP):4318"})
    checked = check({"OTEL_EXPORTER_OTLP_HEADERS": "x-team=blue,authorization=Bearer%20${TOKEN}"})
    assert checked.values == {"OTEL_EXPORTER_OTLP_HEADERS": "x-team=blue"}


@pytest.mark.parametrize("address", ["collector:4317", "dns:///collector:4317", "unix:///run/otel.sock"])
def test_grpc_takes_an_address_without_http(address: str) -> None:
    assert check({ENDPOINT: address, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}).complaints == ()
    assert "http://HOST:4318" in complaint(**{ENDPOINT: address})


OTLP = "OTEL_EXPORTER_OTLP_"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"COMPRESSION": "none"}, {}),
        ({"COMPRESSION": "gzip"}, {"COMPRESSION": "gzip"}),
        ({"COMPRESSION": "gzip", "TRACES_COMPRESSION": "none"}, {"METRICS_COMPRESSION": "gzip"}),
        ({"COMPRESSION": "none", "METRICS_COMPRESSION": "gzip"}, {"METRICS_COMPRESSION": "gzip"}),
        ({"COMPRESSION": "deflate", "METRICS_PROTOCOL": "http/protobuf"}, {"METRICS_COMPRESSION": "deflate"}),
        ({"COMPRESSION": "none", "PROTOCOL": "http/protobuf"}, {"COMPRESSION": "none"}),
    ],
    ids=str,
)
def test_to_grpc_no_compression_is_one_that_is_not_set(given: dict[str, str], read: dict[str, str]) -> None:
    variables = {OTLP + name: value for name, value in {"PROTOCOL": "grpc", **given}.items()}
    found = check(variables).values
    assert {name.removeprefix(OTLP): value for name, value in found.items() if "COMPRESSION" in name} == read


def test_a_compression_that_grpc_has_not_is_reported() -> None:
    sentences = [
        each.sentence for each in check({f"{OTLP}PROTOCOL": "grpc", f"{OTLP}COMPRESSION": "deflate"}).complaints
    ]
    assert sentences == [
        f"{OTLP}{signal}_COMPRESSION='deflate' is invalid: write gzip or none, for gRPC; using none"
        for signal in ("TRACES", "METRICS")
    ]


def test_the_argument_of_a_sampler_that_takes_none_is_not_read() -> None:
    assert check({"OTEL_TRACES_SAMPLER": "always_on", "OTEL_TRACES_SAMPLER_ARG": "abc"}).complaints == ()


def test_a_complaint_is_logged_once_by_its_group(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(otel, "_logged", set())
    bad = {"OTEL_BSP_MAX_QUEUE_SIZE": "abc", "OTEL_SERVICE_NAME": "$(NAME)"}
    for _ in range(2):
        with readable("providers", environment=bad):
            pass
    assert caplog.messages == [
        "ai-otel: OTEL_BSP_MAX_QUEUE_SIZE='abc' is invalid: write a whole number from 1 to 2147483647; using 2048"
    ]
