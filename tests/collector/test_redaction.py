"""The feature `redaction` on the real Collector: a corpus of what must not leave, one of what must arrive as sent."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from ai_otel.collector.fragments import ROLES
from ai_otel.contract import load
from generator.model import read
from generator.redaction import patterns as expressions
from harness.collector.process import Tree, composed, exports, running, validate
from harness.collector.redaction import Case, arrived, cases, requests, wrong
from harness.collector.redaction_innocents import innocents
from harness.polling import eventually
from harness.telemetry.otlp_json import any_value, attributes, plain_attributes, send, span

pytestmark = pytest.mark.requires(part="collector")

HERE = Path(__file__).parent
SCHEMA = HERE.parents[1] / "src" / "ai_otel" / "schema"
POSITIVES = cases(HERE / "redaction" / "positives.yaml")
NEGATIVES = cases(HERE / "redaction" / "negatives.yaml")


def tree() -> Tree:
    return composed(
        role="sidecar",
        engines=("vllm",),
        features=("redaction", "local"),
        without=("persistence",),
        backends=("file",),
    )


def through(
    requests: list[tuple[str, Tree]], directory: Path, done: Callable[[list[Tree]], bool], **environment: str
) -> list[Tree]:
    """What came out of it."""
    out = directory / "out.jsonl"
    with running(tree(), directory, {"AI_OTEL_SCRAPE_INTERVAL": "1h", **environment}) as collector:
        for signal, request in requests:
            send(collector.ports["http"], signal, request)
        eventually(lambda: done(exports(out)), 20, lambda: collector.output()[-4000:])
    return exports(out)


def logs(values: list[Any]) -> tuple[str, Tree]:
    return "logs", {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": any_value(value)} for value in values]}]}]}


def bodies(exported: list[Tree]) -> list[str]:
    found = [export["resourceLogs"][0]["scopeLogs"][0]["logRecords"] for export in exported]
    return [log["body"]["stringValue"] for batch in found for log in batch]


# ---------------------------------------------------------------- the corpus


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[Mapping[str, Any], str]:
    """What each case's value had become, by its id, and everything that left."""
    corpus = [*POSITIVES, *NEGATIVES]
    directory = tmp_path_factory.mktemp("redaction")
    exported = through(list(requests(corpus)), directory, lambda found: len(arrived(found)) >= len(corpus))
    readers = arrived(exported)
    return {case.id: readers[case.id](case) for case in corpus}, json.dumps(exported, ensure_ascii=False)


@pytest.mark.fault(
    "collector",
    "a secret, a card or an address stands in a query, a header, YAML, JSON, XML or a command line",
    "redaction masks it; a corpus of more than 500 forms runs through the Collector, and each leak fails the test",
)
@pytest.mark.fault(
    "collector",
    "a log line says `API key provided: …`, `Token … expired`, `JSESSIONID=…` or `verification code: …`",
    "redaction masks it",
)
@pytest.mark.fault(
    "collector",
    "a log body has prompts in a map below its top level, or in a list of maps",
    "redaction masks them",
)
@pytest.mark.fault(
    "collector",
    "a framework writes prompts under keys of its own, or in another case (`genkit:input`, `Gen_AI.Prompt`)",
    "redaction deletes the attribute",
)
def test_no_secret_of_the_corpus_leaves(outcome: tuple[Mapping[str, Any], str]) -> None:
    found, _ = outcome
    misses = [(case, complaint) for case in POSITIVES if (complaint := wrong(case, found[case.id]))]
    print(f"{len(POSITIVES) - len(misses)} of {len(POSITIVES)} positives right")
    assert not misses, report(found, misses)
    assert len(POSITIVES) >= 500


def test_what_is_no_secret_arrives_as_it_was_sent(outcome: tuple[Mapping[str, Any], str]) -> None:
    found, _ = outcome
    # With their types: 1 is not 1.0 and not true.
    misses = [(case, "it was changed") for case in NEGATIVES if repr(found[case.id]) != repr(case.value)]
    print(f"{len(NEGATIVES) - len(misses)} of {len(NEGATIVES)} negatives right")
    assert not misses, report(found, misses)
    assert len(NEGATIVES) >= 200


def test_redaction_leaves_no_trace_of_its_own(outcome: tuple[Mapping[str, Any], str]) -> None:
    """Neither the attributes in which names pass the patterns, nor the redaction processor's own counts."""
    _, text = outcome
    assert "ai_otel.redaction" not in text
    assert '"redaction.' not in text


def test_the_corpus_covers_every_place_and_every_pattern() -> None:
    places = {case.where for case in POSITIVES}
    assert places == {
        *("span", "event", "log", "metric", "resource", "scope"),
        *("body", "message", "name", "event_name", "status"),
    }
    assert {type(case.value) for case in POSITIVES} == {str, int, list, dict}
    secrets = [as_text(case.value) for case in POSITIVES]
    unused = {name for name, regex in patterns() if not any(regex.search(text) for text in secrets)}
    unused -= {name for name, regex in patterns() if any(regex.search(text) for text in secrets)}
    assert not unused


def test_a_scanner_of_repositories_finds_nothing_in_the_corpus() -> None:
    files = [HERE / "redaction" / name for name in ("positives.yaml", "negatives.yaml")]
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    # A vendor's tokens have the vendor's name; the others ask for a word beside them.
    tokens = [(name, regex) for name, regex in patterns() if name[0].isupper() or name == "private key"]
    assert not [name for name, regex in tokens if regex.search(text)]


def patterns() -> Iterator[tuple[str, re.Pattern[str]]]:
    """What is masked, by its name, in Python's spelling."""
    for name, expression in expressions(read(SCHEMA / "redaction.yaml")):
        regex = re.sub(r"\\x\{([0-9A-F]+)\}", lambda code: chr(int(code[1], 16)), expression)
        yield name, re.compile(regex.replace(r"\z", r"\Z"))


def as_text(value: Any) -> str:
    """A value as the patterns see it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def report(found: Mapping[str, Any], misses: Sequence[tuple[Case, str]]) -> str:
    """Each miss in three lines."""
    lines = [f"{len(misses)} are wrong:"]
    for case, complaint in misses:
        lines.append(f"{case.id} ({case.kind}; {case.where} {case.key}): {complaint}")
        lines.append(f"    {case.value!r}\n    {found[case.id]!r}")
    return "\n".join(lines)


# ---------------------------------------------------------------- what must survive


def test_every_attribute_of_the_conventions_that_is_no_content_survives(tmp_path: Path) -> None:
    pinned = yaml.safe_load((SCHEMA / "upstream" / "gen-ai-newest.yaml").read_text())["attributes"]
    types = {**pinned, **{key: attribute.type for key, attribute in load().attributes.items()}}
    content = re.compile(
        "gen_ai[.](input[.]messages|output[.]messages|system_instructions|tool[.]definitions|tool[.]call[.](arguments|result)|"
        "retrieval[.](documents|query[.]text)|memory[.](records|query[.]text)|prompt[.]variable|evaluation[.]explanation|"
        "request[.]stop_sequences)"
    )
    samples = {"int": 4111111111111111, "double": 0.4111111111111111, "boolean": True, "string[]": ["word"]}
    sent = {key: samples.get(kind, "word") for key, kind in types.items()}
    exported = through([traces(span(sent))], tmp_path, bool)
    found = plain_attributes(spans(exported)[0])
    assert {key: value for key, value in sent.items() if not content.fullmatch(key)} == found


@pytest.mark.fault(
    "collector",
    "10,000 values that are no secrets run through redaction: ids, digests, paths, models, times, log lines, JSON",
    "at most one in a thousand is changed",
)
def test_values_that_are_no_secrets_survive(tmp_path: Path) -> None:
    drawn = list(innocents(seed=20261123, each=250))
    sent = [value for _, value in drawn]
    assert len(sent) == 10_000
    exported = through([logs(sent)], tmp_path, lambda found: len(bodies(found)) == len(sent))
    pairs = zip(drawn, bodies(exported), strict=True)
    changed = [(kind, before, after) for (kind, before), after in pairs if before != after]
    print(f"{len(changed)} of {len(sent)} changed: {changed}")
    assert len(changed) <= len(sent) // 1000, "\n".join(map(str, changed))


# ---------------------------------------------------------------- the rest


def test_points_that_have_become_the_same_are_one(tmp_path: Path) -> None:
    def series(address: str, value: int) -> Tree:
        given = attributes({"tenant": address, "gen_ai.operation.name": "chat"})
        return {"attributes": given, "asInt": str(value), "startTimeUnixNano": "1", "timeUnixNano": "2"}

    total = [series("jane@example.org", 3), series("john@example.org", 4), series("team-ml", 5)]
    gauge = [series("jane@example.org", 3), series("john@example.org", 4)]
    metrics = [
        {"name": "requests", "sum": {"aggregationTemporality": 2, "isMonotonic": True, "dataPoints": total}},
        {"name": "queue", "gauge": {"dataPoints": gauge}},
    ]
    request = {"resourceMetrics": [{"scopeMetrics": [{"metrics": metrics}]}]}
    (export,) = through([("metrics", request)], tmp_path, bool)
    resource = export["resourceMetrics"][0]
    assert not plain_attributes(resource.get("resource", {}))
    found = {
        metric["name"]: {
            plain_attributes(point)["tenant"]: int(point["asInt"])
            for point in (metric.get("sum") or metric["gauge"])["dataPoints"]
        }
        for metric in resource["scopeMetrics"][0]["metrics"]
    }
    assert found == {"requests": {"****": 7, "team-ml": 5}, "queue": {"****": 4}}


def test_exemplars_keep_the_ids_of_their_trace_only(tmp_path: Path) -> None:
    exemplar = {
        "timeUnixNano": "2",
        "asDouble": 0.5,
        "traceId": "0af7651916cd43dd8448eb211c80319c",
        "spanId": "00f067aa0ba902b7",
        "filteredAttributes": attributes({"prompt": "Tell me about Jane", "user": "jane@example.org"}),
    }
    point = {"count": "1", "sum": 0.5, "bucketCounts": ["1", "0"], "explicitBounds": [1.0], "exemplars": [exemplar]}
    histogram = {"aggregationTemporality": 2, "dataPoints": [{**point, "timeUnixNano": "2"}]}
    request = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"name": "duration", "histogram": histogram}]}]}]}
    (export,) = through([("metrics", request)], tmp_path, bool)
    (found,) = export["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["histogram"]["dataPoints"][0]["exemplars"]
    del exemplar["filteredAttributes"]
    assert found == exemplar


def test_a_pattern_of_ones_own_is_masked_too(tmp_path: Path) -> None:
    # The last would not be searched for anything else: it is like a path.
    sent = ["employee E-12345 asked", "employee X-12345 asked", "a/E-123"]
    exported = through(
        [logs(sent)], tmp_path, lambda found: len(bodies(found)) == 3, AI_OTEL_REDACT_PATTERN=r"\bE-[0-9]{3,5}\b"
    )
    assert bodies(exported) == ["employee **** asked", "employee X-12345 asked", "a/****"]


@pytest.mark.parametrize("role", ROLES)
def test_the_collector_accepts_redaction_in_every_role(role: str) -> None:
    assert not validate(composed(role=role, features=("redaction",)))


def traces(*found: Tree) -> tuple[str, Tree]:
    return "traces", {"resourceSpans": [{"scopeSpans": [{"spans": list(found)}]}]}


def spans(exported: list[Tree]) -> list[Tree]:
    return [found for export in exported for found in export["resourceSpans"][0]["scopeSpans"][0]["spans"]]
