"""Overview: is the fleet well? Every engine in the same terms, from whichever source measures it."""

from __future__ import annotations

from collections.abc import Mapping

from grafana_foundation_sdk.models.dashboard import Dashboard
from names import Contract, Metric
from outcomes import Outcomes
from panels import EVENTS, NUMBER, REQUESTS, SECONDS, SHARE, TOKENS, Panel, Query, Row, build
from promql import Queries, first_of, highest, ratio, shown, total

ABOUT = (
    "Requests, latency, load, cache and errors of all model servers, in OpenTelemetry's names, whether ai-otel measures"
    " them or the Collector reads their metrics endpoint."
)
BOUNDS = (
    "Interpolated within a bucket. Engines differ in their buckets, so these are never mixed: an engine that is"
    " measured in two ways (library, page) has a line for each."
)
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}

# From which share on which colour.
ERRORS = {0.01: "orange", 0.05: "red"}
FULL = {0.8: "orange", 0.95: "red"}


def overview(contract: Contract) -> Dashboard:
    q = Queries(contract)
    rows = [
        Row("Service levels", 5, levels(q), per_line=8),
        Row("Throughput", 9, throughput(q)),
        Row("Latency", 9, latency(q)),
        Row("Load", 8, load(q)),
        Row("Cache", 8, cache(q), per_line=4),
        Row("Outcomes and errors", 9, endings(q)),
    ]
    return build("ai-otel / Overview", "ai-otel-overview", ABOUT, q, rows)


# ---------------------------------------------------------------- service levels


def levels(q: Queries) -> list[Panel]:
    by, outcomes = q.engine, Outcomes(q)
    ended, errors = total(by, outcomes.ended), total(by, outcomes.errors)
    tokens = {
        "in": total(by, q.rate(q.metric("AI_OTEL_USAGE_INPUT_TOKENS"))),
        "out": total(by, q.rate(q.metric("AI_OTEL_USAGE_OUTPUT_TOKENS"))),
    }
    waiting = q.gauge(q.metric("AI_OTEL_REQUEST_WAITING"))
    kv = q.gauge(q.metric("AI_OTEL_KV_CACHE_UTILIZATION"), on_device(q))
    return [
        tile(q, "Requests", "Requests that ended, refused ones included, per second.", REQUESTS, {"": ended}),
        first_token_level(q),
        per_token_level(q),
        duration_level(q),
        tile(
            q,
            "Errors",
            "Share that failed or was refused, of all that ended.",
            SHARE,
            {"": ratio(errors, ended)},
            ERRORS,
        ),
        tile(q, "Tokens", "Input and output tokens per second.", TOKENS, tokens),
        tile(q, "Waiting", "Requests that wait now.", NUMBER, {"": total(by, waiting)}),
        tile(q, "KV cache", "How full the fullest KV cache on a device is.", SHARE, {"": highest(by, kv)}, FULL),
    ]


def first_token_level(q: Queries) -> Panel:
    value = q.quantile(0.95, q.metric("GEN_AI_SERVER_TIME_TO_FIRST_TOKEN"), q.engine)
    return tile(q, "First token, p95", f"From arrival to the first output token. {BOUNDS}", SECONDS, {"": value})


def per_token_level(q: Queries) -> Panel:
    value = q.quantile(0.95, q.metric("GEN_AI_SERVER_TIME_PER_OUTPUT_TOKEN"), q.engine)
    return tile(q, "Per token, p95", f"Mean time for each token after the first. {BOUNDS}", SECONDS, {"": value})


def duration_level(q: Queries) -> Panel:
    value = q.quantile(0.95, q.metric("GEN_AI_SERVER_REQUEST_DURATION"), q.engine, no_error(q))
    return tile(q, "Duration, p95", f"Of requests without an error type. {BOUNDS}", SECONDS, {"": value})


def tile(
    q: Queries,
    title: str,
    meaning: str,
    unit: str,
    parts: Mapping[str, str],
    thresholds: Mapping[float, str] | None = None,
) -> Panel:
    queries = [Query(expression, f"{shown(q.engine)} {part}".strip()) for part, expression in parts.items()]
    return Panel(title, meaning, unit, queries, thresholds or {}, tile=True)


# ---------------------------------------------------------------- throughput


def throughput(q: Queries) -> list[Panel]:
    by, outcomes = q.by_split, Outcomes(q)
    given = total(by, q.rate(q.metric("AI_OTEL_USAGE_INPUT_TOKENS")))
    cached = total(by, q.rate(q.metric("AI_OTEL_USAGE_CACHE_READ_INPUT_TOKENS")))
    made = total(by, q.rate(q.metric("AI_OTEL_USAGE_OUTPUT_TOKENS")))
    return [
        Panel(
            "Input tokens",
            "Input tokens per second, and how many of them a cache supplied.",
            TOKENS,
            [Query(given, f"{q.legend} in"), Query(cached, f"{q.legend} cached")],
        ),
        Panel("Output tokens", "Output tokens per second.", TOKENS, [Query(made, f"{q.legend} out")]),
        Panel(
            "Requests by outcome",
            "Requests that ended, per second. Failed and refused are one, because not every source distinguishes them.",
            REQUESTS,
            [
                Query(total(by, outcomes.finished), f"{q.legend} finished"),
                Query(total(by, outcomes.cancelled), f"{q.legend} cancelled"),
                Query(total(by, outcomes.errors), f"{q.legend} failed or refused"),
            ],
            stacked=True,
        ),
    ]


# ---------------------------------------------------------------- latency


def latency(q: Queries) -> list[Panel]:
    first, each = q.metric("GEN_AI_SERVER_TIME_TO_FIRST_TOKEN"), q.metric("GEN_AI_SERVER_TIME_PER_OUTPUT_TOKEN")
    whole, queue = q.metric("GEN_AI_SERVER_REQUEST_DURATION"), q.metric("AI_OTEL_REQUEST_QUEUE_DURATION")
    prefill, decode = q.metric("AI_OTEL_REQUEST_PREFILL_DURATION"), q.metric("AI_OTEL_REQUEST_DECODE_DURATION")
    whose = q.label("ai_otel.queue")
    return [
        quantiles(q, "Time to first token", "From arrival to the first output token.", first),
        quantiles(q, "Time per output token", "Mean time for each token after the first.", each),
        quantiles(q, "Duration", "From arrival to the end, without an error type.", whole, no_error(q)),
        quantiles(q, "Queue", "Waiting to be scheduled, by whose queue it is.", queue, also=whose),
        quantiles(q, "Prefill", "From being scheduled to the first output token.", prefill),
        quantiles(q, "Decode", "From the first output token to the last.", decode),
    ]


def quantiles(q: Queries, title: str, meaning: str, metric: Metric, *where: str, also: str = "") -> Panel:
    by, name = (f"{q.by_split}, {also}", f"{q.legend} {shown(also)}") if also else (q.by_split, q.legend)
    queries = [
        # Exemplars belong to the buckets, not to a quantile: to show them once is enough.
        Query(q.quantile(share, metric, by, *where), f"{name} {called}", exemplars=called == "p95")
        for called, share in QUANTILES.items()
    ]
    return Panel(title, f"{meaning} {BOUNDS}", SECONDS, queries)


def no_error(q: Queries) -> str:
    return f'{q.label("error.type")}=""'


# ---------------------------------------------------------------- load


def load(q: Queries) -> list[Panel]:
    reason = q.label("ai_otel.wait.reason")
    running = total(q.by_split, q.gauge(q.metric("AI_OTEL_REQUEST_RUNNING")))
    waiting = total(f"{q.by_split}, {reason}", q.gauge(q.metric("AI_OTEL_REQUEST_WAITING")))
    preempted = total(q.by_split, q.rate(q.metric("AI_OTEL_REQUEST_PREEMPTED")))
    return [
        Panel("Running", "Requests in the engines' batches now.", NUMBER, [Query(running, q.legend)]),
        Panel(
            "Waiting by reason",
            "Requests that wait now, by reason if the engine reports it.",
            NUMBER,
            [Query(waiting, f"{q.legend} {shown(reason)}")],
            stacked=True,
        ),
        Panel(
            "Preemptions",
            "Running requests that were taken off the device again, per second: the KV cache is short.",
            EVENTS,
            [Query(preempted, q.legend)],
        ),
    ]


# ---------------------------------------------------------------- cache


def cache(q: Queries) -> list[Panel]:
    tier = q.label("ai_otel.cache.tier")
    by, name = f"{q.by_split}, {tier}", f"{q.legend} {shown(tier)}"
    fullest = highest(by, q.gauge(q.metric("AI_OTEL_KV_CACHE_UTILIZATION")))
    found = total(by, q.rate(q.metric("AI_OTEL_PREFIX_CACHE_HIT_TOKENS")))
    queried = total(by, q.rate(q.metric("AI_OTEL_PREFIX_CACHE_QUERIED_TOKENS")))
    cached = total(q.by_split, q.rate(q.metric("AI_OTEL_USAGE_CACHE_READ_INPUT_TOKENS")))
    given = total(q.by_split, q.rate(q.metric("AI_OTEL_USAGE_INPUT_TOKENS")))
    return [
        Panel("KV cache, fullest", "How full the fullest KV cache is, by tier.", SHARE, [Query(fullest, name)], FULL),
        kv_tokens(q, by, name, tier),
        Panel(
            "Prefix cache hits",
            "Tokens found, of those looked up, by tier. A slower tier is asked for what a faster one lacks.",
            SHARE,
            [Query(ratio(found, queried), name)],
        ),
        Panel(
            "Input from a cache",
            "Share of the input tokens that any cache supplied.",
            SHARE,
            [Query(ratio(cached, given), q.legend)],
        ),
    ]


def kv_tokens(q: Queries, by: str, name: str, tier: str) -> Panel:
    share, used = q.gauge(q.metric("AI_OTEL_KV_CACHE_UTILIZATION")), q.gauge(q.metric("AI_OTEL_KV_CACHE_USED"))
    capacity = q.metric("AI_OTEL_KV_CACHE_CAPACITY")
    # An engine whose page gives the capacity no model gives one to the share: the model is taken from there.
    one_cache = f"{q.one_server}, {q.label('ai_otel.engine.index')}, {tier}"
    room = f"* on ({one_cache}) group_left () {highest(one_cache, q.gauge(capacity, of_any='model'))}"
    held = first_of((used, f"{share} {room}"), one_cache)
    whole = first_of((f"({share} >= bool 0) {room}", q.gauge(capacity)), one_cache)
    return Panel(
        "KV cache, tokens",
        "Tokens that all KV caches together hold, and can hold. If an engine does not report the tokens that it holds,"
        " they are its share in use times its capacity.",
        NUMBER,
        [Query(total(by, held), f"{name} held"), Query(total(by, whole), f"{name} capacity")],
    )


def on_device(q: Queries) -> str:
    return f'{q.label("ai_otel.cache.tier")}="{q.value("ai_otel.cache.tier", "device")}"'


# ---------------------------------------------------------------- outcomes and errors


def endings(q: Queries) -> list[Panel]:
    by, outcomes = q.by_split, Outcomes(q)
    reason, error = q.label("ai_otel.finish_reason"), q.label("error.type")
    finished = total(f"{by}, {reason}, {error}", q.rate(q.metric("AI_OTEL_REQUEST_FINISHED")))
    refused = total(f"{by}, {error}", q.rate(q.metric("AI_OTEL_REQUEST_REJECTED")))
    share = ratio(total(by, outcomes.errors), total(by, outcomes.ended))
    return [
        Panel(
            "Finished by reason",
            "What the engines ended, per second, by finish reason and error type.",
            REQUESTS,
            [Query(finished, f"{q.legend} {shown(reason, error)}")],
        ),
        Panel(
            "Refused by reason",
            "Refused requests per second, by error type.",
            REQUESTS,
            [Query(refused, f"{q.legend} {shown(error)}")],
        ),
        Panel(
            "Error share",
            "Share that failed or was refused, of all requests that ended. Cancelled ones are no errors.",
            SHARE,
            [Query(share, q.legend)],
            ERRORS,
        ),
    ]
