"""Writes collector-config/generated/features/redaction.yaml from schema/redaction.yaml: what must not leave."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from generator import ottl
from generator.model import SCHEMA, Contract, Tree, read
from generator.normaliser import dump

HEAD = """\
# Generated from src/ai_otel/schema/redaction.yaml by `make generate`. Do not edit.
# Redaction: prompts, answers, secrets and persons' addresses do not leave. For every role; best in the first tier.
#
# Attributes that hold content (prompts, answers, tool calls, documents, bodies) are deleted; attributes whose key names
# a secret are masked; what looks like a secret, a person's address or a payment card inside other text is masked. The
# mask is ****. A nested value in which something was masked leaves as its JSON text, and points of a metric that have
# become the same are merged; all else leaves as it came. Attributes of span links cannot be reached; exemplars keep
# their trace's ids only.
#
# AI_OTEL_REDACT_PATTERN   one more regular expression (RE2) whose matches are masked; left out: none
"""

# Names and status messages are laid into attributes before the patterns run, and back after: so these are written once.
NAME = "ai_otel.redaction.name"
STATUS = "ai_otel.redaction.status"
# What the redaction processor says of a metric's points, and the mark on their resource that it masked any.
COUNTS = ("redaction.masked.count", "redaction.ignored.count")
MASKED = "ai_otel.redaction.masked"
SUMMED = ("SUM", "HISTOGRAM", "EXPONENTIAL_HISTOGRAM")
# A name without any of these has nothing that a pattern could match.
SUSPECT = "[@=:+]|[0-9]{3}|[0-9A-Za-z_-]{20}"
# An expression that matches nothing.
NONE = r"\z."
# Attributes whose members are a set on paper only: a client may put another word there.
OPEN = {"error.type", "deployment.environment.name"}


def render(contract: Contract) -> str:
    """The text of the file."""
    table = read(SCHEMA / "redaction.yaml")
    return HEAD + _commented(dump(fragment(table, contract)), table)


def fragment(table: Tree, contract: Contract) -> Tree:
    """The processors, and the pipelines that they belong into."""
    begin, end = "transform/redaction", "transform/redaction_end"
    values, points = "redaction/values", "redaction/points"
    secrets = _secrets(table, contract)
    return {
        "processors": {
            begin: _begin(table),
            values: {**secrets, "summary": "silent"},
            # Marks which points it masked, so that those that have become the same are merged.
            points: {**secrets, "summary": "info"},
            end: _end(),
        },
        "service": {
            "pipelines": {
                # Each item meets them once: what a connector hands on within one Collector has been through already.
                "traces/otlp*": {"processors": [begin, values, end]},
                "logs/otlp*": {"processors": [begin, values]},
                "metrics/*": {"processors": [begin, points, end]},
            }
        },
    }


# ---------------------------------------------------------------- content


def content_key(table: Tree) -> str:
    """The expression that the keys of content match."""
    ends = {"keys": "(?:[.]|$)", "numbered": "(?:[.][0-9]|$)", "exact": "$"}
    return f"^(?:{'|'.join(one_of(table['content'][kind]) + end for kind, end in ends.items())})"


def one_of(words: Iterable[str]) -> str:
    """An expression for any of the words, each beginning written once: many times as fast as one alternative a word."""
    follow: dict[str, list[str]] = {}
    for word in dict.fromkeys(words):
        follow.setdefault(word[:1], []).append(word[1:])
    ends = follow.pop("", None) is not None
    choices = [("[.]" if letter == "." else letter) + one_of(rest) for letter, rest in follow.items()]
    text = choices[0] if len(choices) == 1 and not ends else f"(?:{'|'.join(choices)})" if choices else ""
    return f"{text}?" if ends and choices else text


def _begin(table: Tree) -> Tree:
    content, event = content_key(table), f"^{one_of(table['content']['event'])}$"
    return {
        "error_mode": "ignore",
        "trace_statements": [
            _group("resource", _delete("resource.attributes", content)),
            _group(
                "span",
                _delete("span.attributes", content),
                _lay(f'span.attributes["{STATUS}"]', "span.status.message", 'span.status.message != ""'),
                _lay(f'span.attributes["{NAME}"]', "span.name", _suspect("span.name")),
            ),
            _group(
                "spanevent",
                _delete("spanevent.attributes", content),
                _delete("spanevent.attributes", event, 'IsMatch(spanevent.name, "^(?:gen_ai|llm|ai)[.]")'),
                _lay(f'spanevent.attributes["{NAME}"]', "spanevent.name", _suspect("spanevent.name")),
            ),
        ],
        "log_statements": [
            _group("resource", _delete("resource.attributes", content)),
            _group(
                "log",
                _delete("log.attributes", content),
                _delete("log.body", content, "IsMap(log.body)"),
            ),
            {
                "context": "log",
                "conditions": [
                    'IsMatch(log.event_name, "^gen_ai[.]")',
                    'log.attributes["event.name"] != nil and IsMatch(log.attributes["event.name"], "^gen_ai[.]")',
                ],
                "statements": [
                    _delete("log.attributes", event),
                    ottl.do(
                        ottl.call("keep_keys", "log.body", ottl.texts(table["content"]["body_keeps"])),
                        "IsMap(log.body)",
                    ),
                    ottl.do(ottl.call("set", "log.body", '"****"'), "log.body != nil and not IsMap(log.body)"),
                ],
            },
        ],
        "metric_statements": [
            _group("resource", _delete("resource.attributes", content)),
            _group("datapoint", _delete("datapoint.attributes", content)),
            _group("exemplar", ottl.call("keep_keys", "exemplar.filtered_attributes", "[]")),
        ],
    }


def _end() -> Tree:
    masked = f"{ottl.resource(MASKED)} == true"
    summed = ottl.either(f"metric.type == METRIC_DATA_TYPE_{kind}" for kind in SUMMED)
    return {
        "error_mode": "ignore",
        "trace_statements": [
            _group("span", *_back("span.attributes", NAME, "span.name")),
            _group("span", *_back("span.attributes", STATUS, "span.status.message")),
            _group("spanevent", *_back("spanevent.attributes", NAME, "spanevent.name")),
        ],
        "metric_statements": [
            _group(
                "datapoint",
                ottl.do(ottl.call("set", ottl.resource(MASKED), "true"), f'datapoint.attributes["{COUNTS[0]}"] != nil'),
                *_delete_keys("datapoint.attributes", COUNTS),
            ),
            {
                **_group(
                    "metric",
                    ottl.do(ottl.call("aggregate_on_attributes", '"sum"'), summed),
                    ottl.do(ottl.call("aggregate_on_attributes", '"max"'), "metric.type == METRIC_DATA_TYPE_GAUGE"),
                ),
                "conditions": [masked],
            },
            _group("resource", *_delete_keys("resource.attributes", (*COUNTS, MASKED))),
            _group("scope", *_delete_keys("scope.attributes", COUNTS)),
        ],
    }


def _delete_keys(target: str, keys: Iterable[str]) -> Iterator[str]:
    return (ottl.call("delete_key", target, ottl.text(key)) for key in keys)


def _group(context: str, *statements: str) -> Tree:
    return {"context": context, "statements": list(statements)}


def _delete(target: str, pattern: str, where: str = "") -> str:
    return ottl.do(ottl.call("delete_matching_keys", target, ottl.text(pattern)), where)


def _lay(target: str, source: str, where: str) -> str:
    return ottl.do(ottl.call("set", target, source), where)


def _suspect(name: str) -> str:
    return ottl.call("IsMatch", name, ottl.text(SUSPECT))


def _back(attributes: str, key: str, target: str) -> Iterator[str]:
    yield ottl.do(ottl.call("set", target, f'{attributes}["{key}"]'), f'{attributes}["{key}"] != nil')
    yield ottl.do(ottl.call("delete_key", attributes, ottl.text(key)), f'{attributes}["{key}"] != nil')


# ---------------------------------------------------------------- secrets


def patterns(table: Tree) -> Iterator[tuple[str, str]]:
    """Each expression whose matches are masked, with its name."""
    for value in table["values"]:
        for beginning in value.get("each", [""]):
            yield value["name"], beginning + value["regex"]


def ignored(table: Tree, contract: Contract) -> list[str]:
    """Keys whose values are not read: the table's, and every number, truth value and set of the contract."""
    newest = contract.upstream["gen-ai-newest"]
    kinds = {**newest["attributes"], **{key: attribute.type for key, attribute in contract.attributes.items()}}
    members = {*newest["enums"], *(key for key, attribute in contract.attributes.items() if attribute.members)}
    plain = {key for key, kind in kinds.items() if kind in ("int", "double", "boolean") or key in members}
    return sorted((plain | set(table["ignored"])) - OPEN)


def _secrets(table: Tree, contract: Contract) -> dict[str, Any]:
    return {
        "allow_all_keys": True,
        # Nested values and numbers are read as their text.
        "redact_all_types": True,
        "ignored_keys": ignored(table, contract),
        "blocked_key_patterns": [_dollars(pattern) for pattern in table["secret_keys"]],
        "blocked_values": [
            *(_dollars(pattern) for _, pattern in patterns(table)),
            f"${{env:AI_OTEL_REDACT_PATTERN:-{NONE}}}",
        ],
    }


def _dollars(pattern: str) -> str:
    """The Collector expands `$` before a component sees it."""
    return pattern.replace("$", "$$")


def _commented(text: str, table: Tree) -> str:
    """The name of each expression above the first of that name."""
    lines, place = [], 0
    names = [name for name, _ in patterns(table)]
    inside = False
    for line in text.splitlines():
        inside = line.strip() == "blocked_values:" or (inside and bool(re.match(r"\s*- ", line)))
        if inside and line.lstrip().startswith("- ") and place < len(names):
            if place == 0 or names[place] != names[place - 1]:
                lines.append(f"{line[: len(line) - len(line.lstrip())]}# {names[place]}")
            place += 1
        lines.append(line)
    return "\n".join(lines) + "\n"
