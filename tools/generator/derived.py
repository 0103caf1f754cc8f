"""
Writes generated/features/span_to_metric.yaml: the common metrics of requests, out of the spans of others.

A server that ai-otel runs in emits these metrics itself, so its spans make none here. Of other servers' spans only
a span stands for an inference if its kind is SERVER and its operation is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ai_otel.contract import Metric
from generator import ottl
from generator.model import Contract, Tree
from generator.normaliser import dump

HEAD = """\
# Generated from src/ai_otel/schema/ by `make generate`. Do not edit.
# Span to metric: duration, first token, tokens and counts of requests, out of the spans of servers in which ai-otel
# does not run and whose endpoint is not scraped, but that follow the conventions for inference. For the role
# gateway_stateful. All spans count, also those that tail sampling then leaves out. What a span does not hold is absent.
#
# A trace's spans are at one instance, but a server's are at all of them: so an instance adds its own name to the
# server's service.instance.id, and sums over instances are right.
#
# AI_OTEL_DERIVED_INTERVAL   how often the metrics leave
# AI_OTEL_DERIVED_LISTEN     host:port on loopback, by which what is derived comes back to be added up
# K8S_POD_NAME               the name of this instance; left out: one that is new with each start
"""

# What `gen_ai.operation.name` may be and is no inference.
OTHERS = {
    *("retrieval", "fetch_response", "plan", "create_agent", "invoke_agent", "invoke_workflow", "execute_tool"),
    *("search_memory", "create_memory", "update_memory", "upsert_memory", "delete_memory"),
    *("create_memory_store", "delete_memory_store"),
}
OPERATION, ERROR_TYPE, OUTCOME = "gen_ai.operation.name", "error.type", "ai_otel.outcome"
INPUT, OUTPUT = "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"
FIRST_TOKEN = ("ai_otel.time_to_first_token", "gen_ai.response.time_to_first_chunk")
"""Where a span may hold it, the better first: the second is of a chunk, which need not hold a token."""

LISTEN = "${env:AI_OTEL_DERIVED_LISTEN:-127.0.0.1:14317}"
INTERVAL = "${env:AI_OTEL_DERIVED_INTERVAL:-10s}"

NS_PER_S = 1_000_000_000
DURATION = f"Double(span.end_time_unix_nano - span.start_time_unix_nano) / {NS_PER_S}.0"


def attribute(key: str) -> str:
    """An attribute of the span."""
    return f"span.attributes[{ottl.text(key)}]"


@dataclass(frozen=True)
class Row:
    """A metric, its value, and which spans have it."""

    metric: str
    value: str
    where: str = ""


def rows() -> Iterator[Row]:
    """Every metric; of two rows with one name a span meets at most one."""
    rejected = f'({attribute(OUTCOME)} == "rejected" or IsMatch({attribute(ERROR_TYPE)}, "^4[0-9][0-9]$$"))'
    left = f'({attribute(OUTCOME)} == "cancelled" or {attribute(OUTCOME)} == "abandoned")'
    left = f'({left} or {attribute(ERROR_TYPE)} == "cancelled" or {attribute(ERROR_TYPE)} == "499")'
    went_well = f"span.status.code != STATUS_CODE_ERROR and {attribute(ERROR_TYPE)} == nil"
    went_well += f' and ({attribute(OUTCOME)} == nil or {attribute(OUTCOME)} == "finished")'
    yield Row("gen_ai.server.request.duration", DURATION, "span.end_time_unix_nano >= span.start_time_unix_nano")
    for place, key in enumerate(FIRST_TOKEN):
        known = [f"{attribute(better)} == nil" for better in FIRST_TOKEN[:place]] + [f"{attribute(key)} >= 0"]
        first = f"Double({attribute(key)})"
        yield Row("gen_ai.server.time_to_first_token", first, ottl.every(went_well, *known))
        later = [f"{attribute(OUTPUT)} >= 2", f"{DURATION} >= {first}"]
        per_token = f"({DURATION} - {first}) / (Double({attribute(OUTPUT)}) - 1.0)"
        yield Row("gen_ai.server.time_per_output_token", per_token, ottl.every(went_well, *known, *later))
    yield Row("ai_otel.usage.input_tokens", f"Int({attribute(INPUT)})", f"{attribute(INPUT)} >= 0")
    yield Row("ai_otel.usage.output_tokens", f"Int({attribute(OUTPUT)})", f"{attribute(OUTPUT)} >= 0")
    yield Row("ai_otel.request.finished", "1", f"not {rejected} and not {left}")
    yield Row("ai_otel.request.rejected", "1", f"{rejected} and not {left} and {attribute(ERROR_TYPE)} != nil")


def render(contract: Contract) -> str:
    """The text of the file."""
    return HEAD + dump(fragment(contract))


def fragment(contract: Contract) -> Tree:
    """The connector, and what makes sums since the start of its sums of a moment."""
    return {
        "receivers": {"otlp/derived": {"protocols": {"grpc": {"endpoint": LISTEN}}}},
        "connectors": {
            "signal_to_metrics": {
                "error_mode": "ignore",
                "spans": [_definition(row, contract) for row in rows()],
            },
            "forward/derived": {},
        },
        "processors": {
            "groupbyattrs/derived": {},
            "transform/derived": {"error_mode": "ignore", "metric_statements": list(_merged())},
        },
        "exporters": {"otlp_grpc/derived": _one_after_the_other()},
        "service": {
            "pipelines": {
                "traces/otlp": {"receivers": ["otlp"], "exporters": ["signal_to_metrics"]},
                # Nothing for it to do; but the role with this pipeline is the one that makes sums of deltas.
                "traces/kept": {"processors": []},
                "metrics/spans": {
                    "receivers": ["signal_to_metrics"],
                    "processors": [],
                    "exporters": ["otlp_grpc/derived"],
                },
                "metrics/derived": {
                    "receivers": ["otlp/derived"],
                    "processors": ["groupbyattrs/derived", "transform/derived"],
                    "exporters": ["forward/derived"],
                },
                "metrics/otlp": {"receivers": ["forward/derived"]},
            }
        },
    }


def _one_after_the_other() -> Tree:
    """
    A connection back to this Collector, through a queue with one consumer.

    Requests come at the same time, and delta_to_cumulative throws away a point that is older than the one before it: of
    six senders at once, half of all spans were not counted. With one consumer, and times given behind it, none is.
    """
    return {
        "endpoint": f"http://{LISTEN}",
        "retry_on_failure": {"enabled": True, "initial_interval": "1s", "max_interval": "5s", "max_elapsed_time": 0},
        "sending_queue": {
            "enabled": True,
            "sizer": "bytes",
            "queue_size": 100_000_000,
            "block_on_overflow": True,
            "num_consumers": 1,
            "batch": {"flush_timeout": INTERVAL, "sizer": "bytes", "min_size": 3_000_000, "max_size": 3_000_000},
        },
    }


def _merged() -> Iterator[Tree]:
    """What came in one interval becomes one point a series; whose it is and since when is said."""
    instance, writer = ottl.resource("service.instance.id"), ottl.resource("signal_to_metrics.service.instance.id")
    pod, name = ottl.resource("k8s.pod.uid"), ottl.text("${env:K8S_POD_NAME:-}").replace("$$", "$")
    yield {
        "context": "resource",
        "statements": [
            ottl.do(ottl.call("set", writer, name), f'{name} != ""'),
            ottl.do(ottl.call("set", instance, pod), f"{instance} == nil and {pod} != nil"),
            ottl.do(
                ottl.call("set", instance, ottl.call("Concat", f"[{instance}, {writer}]", ottl.text("/"))),
                f"{instance} != nil",
            ),
            ottl.do(ottl.call("set", instance, writer), f"{instance} == nil"),
            ottl.call("delete_matching_keys", "resource.attributes", ottl.text("^signal_?to_?metrics[.]")),
        ],
    }
    # Only points of one time are added.
    yield {"context": "datapoint", "statements": [ottl.call("set", "datapoint.time_unix_nano", "1")]}
    yield {"context": "metric", "statements": [ottl.call("aggregate_on_attributes", ottl.text("sum"))]}
    since = f"datapoint.time - Duration({ottl.text(INTERVAL).replace('$$', '$')})"
    yield {
        "context": "datapoint",
        "statements": [
            ottl.call("set", "datapoint.time", "Now()"),
            ottl.call("set", "datapoint.start_time", since),
        ],
    }


def _definition(row: Row, contract: Contract) -> Tree:
    metric = contract.metric(row.metric)
    if metric is None:
        raise ValueError(f"{row.metric} is no metric of the contract")
    return {
        "name": metric.name,
        "description": metric.brief,
        "unit": metric.unit,
        "conditions": [ottl.every(inference(contract), row.where)],
        "attributes": [{"key": key, "optional": True} for key in metric.keys],
        **_kind(metric, row, contract),
    }


def _kind(metric: Metric, row: Row, contract: Contract) -> Tree:
    if metric.bucket_set:
        return {"histogram": {"buckets": contract.buckets[metric.bucket_set]["bounds"], "value": row.value}}
    return {"sum": {"value": row.value, "monotonic": True}}


def inference(contract: Contract) -> str:
    """A span of an inference in a server, and not one that ai-otel made."""
    own = ottl.either(f"instrumentation_scope.name == {ottl.text(scope['name'])}" for scope in contract.scopes)
    operations = [name for name in contract.attributes[OPERATION].members if name not in OTHERS]
    one_of = ottl.either(f"{attribute(OPERATION)} == {ottl.text(name)}" for name in operations)
    return ottl.every("span.kind == SPAN_KIND_SERVER", f"not {own}", one_of)
