"""Writes collector-config/generated/features/redaction.yaml from schema/redaction.yaml: what must not leave."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

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
# their trace's ids only. docs/collector.md names what is covered, and the limits.
#
# AI_OTEL_REDACT_PATTERN   one more regular expression (RE2) whose matches are masked; left out: none
"""

# Fields beside attributes are laid into attributes before the patterns run, and back after: so these are written once.
# For each context, the field, and whether it is searched only if it is suspect, or always if it is not empty.
LAID = "ai_otel.redaction."
SPAN_FIELDS = (("status.message", False), ("trace_state", False), ("name", True))
EVENT_FIELDS = (("name", True),)
LOG_FIELDS = (("event_name", True), ("severity_text", True))
SCOPE_FIELDS = (("name", True), ("version", True), ("schema_url", True))
RESOURCE_FIELDS = (("schema_url", True),)
# A program's words, so that a short expression does, and the whole is masked.
METRIC_FIELDS = ("name", "description", "unit")
# What the redaction processor says of what it did, and the mark on a metric's resource that a point of it was masked.
COUNT = "redaction.masked.count"
COUNTS = "^redaction[.](?:body[.])?(?:masked|ignored|allowed)[.]count$"
MASKED = "ai_otel.redaction.masked"
SUMMED = ("SUM", "HISTOGRAM", "EXPONENTIAL_HISTOGRAM")
# A name without any of these has nothing that a pattern could match.
SUSPECT = (
    "[@=:+%>'\"$]|--| -[ap]|eyJ|login |requirepass|masterauth|(?i:bearer|basic) |"
    "[0-9]{3}|[0-9]{2}[^0-9A-Za-z][0-9]{2}|[0-9A-Za-z_-]{20}"
)
# The longest expression for keys of content, in characters, and what stands in their words for more than itself.
LONGEST = 1200
SIGNS = {".": "[.]", "*": ".*", "#": "[0-9]"}
# Bytes are no text before they are decoded; OTTL has no word for them.
IS_BYTES = "log.body != nil and " + " and ".join(
    f"not Is{kind}(log.body)" for kind in ("String", "Map", "List", "Int", "Double", "Bool")
)
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
    common = {
        "allow_all_keys": True,
        # Nested values and numbers are searched as their text.
        "redact_all_types": True,
        "ignored_keys": ignored(table, contract),
        # Counts what was masked in a point, so that those that have become the same are merged.
        "summary": "info",
    }
    every = [begin, "redaction/keys", "redaction/values", end]
    # Each item meets them once: what a connector hands on within one Collector has been through already.
    pipelines = {name: {"processors": every} for name in ("traces/otlp*", "logs/otlp*", "metrics/*")}
    return {
        "processors": {
            begin: _begin(table),
            "redaction/keys": {**common, **_keys(table)},
            "redaction/values": {**common, **_values(table)},
            end: _end(),
        },
        "service": {"pipelines": pipelines},
    }


# ---------------------------------------------------------------- content


def content_keys(table: Tree) -> list[str]:
    """The expressions of which the key of content matches one.

    Go runs an expression in one go, at a tenth of the cost, if no choice in it is ever taken back, both its ends are
    fixed, and it is not too long: hence the tree of letters, and several expressions.
    """
    content = table["content"]
    words = {*content["exact"], *content["numbered"], *(f"{word}.#*" for word in content["numbered"])}
    words |= {text for word in content["keys"] for text in (word, f"{word}.*")}
    # What is below such a key needs no word of its own.
    words = {
        word for word in words if not any(word.startswith(f"{key}.") and word != f"{key}.*" for key in content["keys"])
    }
    groups: list[list[str]] = [[]]
    for word in sorted(words):
        if len(one_of([*groups[-1], word])) > LONGEST:
            groups.append([])
        groups[-1].append(word)
    return [f"(?is)^{one_of(group)}$" for group in groups]


def one_of(words: Iterable[str]) -> str:
    """An expression for any of the words, each beginning written once; `*` is any text, `#` a digit."""
    follow: dict[str, list[str]] = {}
    for word in dict.fromkeys(word.lower() for word in words):
        follow.setdefault(word[:1], []).append(word[1:])
    ends = follow.pop("", None) is not None
    choices = [SIGNS.get(letter, letter) + one_of(rest) for letter, rest in follow.items()]
    text = choices[0] if len(choices) == 1 and not ends else f"(?:{'|'.join(choices)})" if choices else ""
    return f"{text}?" if ends and choices else text


def _begin(table: Tree) -> Tree:
    content, event = content_keys(table), [f"(?i)^{one_of(table['content']['event'])}$"]
    words = table["words"]
    resource = _group(
        "resource",
        *_clean("resource.attributes", content, words),
        *_lay_all("resource", RESOURCE_FIELDS),
    )
    scope = _group(
        "scope",
        *_clean("scope.attributes", content, words),
        *_lay_all("scope", SCOPE_FIELDS),
    )
    return {
        "error_mode": "ignore",
        "trace_statements": [
            resource,
            scope,
            _group(
                "span",
                *_clean("span.attributes", content, words),
                *_lay_all("span", SPAN_FIELDS),
            ),
            _group(
                "spanevent",
                *_clean("spanevent.attributes", content, words),
                *_delete("spanevent.attributes", event, 'IsMatch(spanevent.name, "^(?:gen_ai|llm|ai)[.]")'),
                *_lay_all("spanevent", EVENT_FIELDS),
            ),
        ],
        "log_statements": [
            resource,
            scope,
            _group(
                "log",
                *_clean("log.attributes", content, words),
                ottl.do(ottl.call("set", "log.body", 'Decode(log.body, "utf-8")'), IS_BYTES),
                *_clean("log.body", content, words, "IsMap(log.body)"),
            ),
            {
                "context": "log",
                "conditions": [
                    'IsMatch(log.event_name, "^gen_ai[.]")',
                    'log.attributes["event.name"] != nil and IsMatch(log.attributes["event.name"], "^gen_ai[.]")',
                ],
                "statements": [
                    *_delete("log.attributes", event),
                    ottl.do(
                        ottl.call("keep_keys", "log.body", ottl.texts(table["content"]["body_keeps"])),
                        "IsMap(log.body)",
                    ),
                    ottl.do(ottl.call("set", "log.body", '"****"'), "log.body != nil and not IsMap(log.body)"),
                ],
            },
            _group("log", *_lay_all("log", LOG_FIELDS)),
        ],
        "metric_statements": [
            resource,
            scope,
            _group(
                "metric",
                *(
                    ottl.do(ottl.call("set", f"metric.{field}", '"****"'), f"not {_is_match(f'metric.{field}', words)}")
                    for field in METRIC_FIELDS
                ),
                ottl.call("keep_keys", "metric.metadata", ottl.texts(table["metadata_keeps"])),
            ),
            _group("datapoint", *_clean("datapoint.attributes", content, words)),
            _group("exemplar", ottl.call("keep_keys", "exemplar.filtered_attributes", "[]")),
        ],
    }


def _end() -> Tree:
    masked = f"{ottl.resource(MASKED)} == true"
    summed = ottl.either(f"metric.type == METRIC_DATA_TYPE_{kind}" for kind in SUMMED)
    resource = _group("resource", *_back_all("resource", RESOURCE_FIELDS))
    scope = _group("scope", *_back_all("scope", SCOPE_FIELDS))
    return {
        "error_mode": "ignore",
        "trace_statements": [
            resource,
            scope,
            _group("span", *_back_all("span", SPAN_FIELDS)),
            _group("spanevent", *_back_all("spanevent", EVENT_FIELDS)),
        ],
        "log_statements": [resource, scope, _group("log", *_back_all("log", LOG_FIELDS))],
        "metric_statements": [
            resource,
            scope,
            _group(
                "datapoint",
                ottl.do(ottl.call("set", ottl.resource(MASKED), "true"), f'datapoint.attributes["{COUNT}"] != nil'),
                *_delete("datapoint.attributes", [COUNTS]),
            ),
            {
                **_group(
                    "metric",
                    ottl.do(ottl.call("aggregate_on_attributes", '"sum"'), summed),
                    ottl.do(ottl.call("aggregate_on_attributes", '"max"'), "metric.type == METRIC_DATA_TYPE_GAUGE"),
                ),
                "conditions": [masked],
            },
            _group("resource", ottl.call("delete_key", "resource.attributes", ottl.text(MASKED))),
        ],
    }


def _group(context: str, *statements: str) -> Tree:
    return {"context": context, "statements": list(statements)}


def _clean(target: str, content: Iterable[str], words: str, where: str = "") -> Iterator[str]:
    """Without content, and without keys that are none."""
    yield from _delete(target, content, where)
    yield ottl.do(ottl.call("keep_matching_keys", target, ottl.text(words)), where)


def _delete(target: str, patterns: Iterable[str], where: str = "") -> Iterator[str]:
    return (ottl.do(ottl.call("delete_matching_keys", target, ottl.text(pattern)), where) for pattern in patterns)


def _is_match(target: str, pattern: str) -> str:
    return ottl.call("IsMatch", target, ottl.text(pattern))


def _laid(context: str, field: str) -> str:
    return f'{context}.attributes["{LAID}{field}"]'


def _lay_all(context: str, fields: Iterable[tuple[str, bool]]) -> Iterator[str]:
    for field, suspect in fields:
        source = f"{context}.{field}"
        where = _is_match(source, SUSPECT) if suspect else f'{source} != ""'
        yield ottl.do(ottl.call("set", _laid(context, field), source), where)


def _back_all(context: str, fields: Iterable[tuple[str, bool]]) -> Iterator[str]:
    yield from _delete(f"{context}.attributes", [COUNTS])
    for field, _ in fields:
        held = _laid(context, field)
        yield ottl.do(ottl.call("set", f"{context}.{field}", held), f"{held} != nil")
        yield ottl.do(ottl.call("delete_key", f"{context}.attributes", ottl.text(LAID + field)), f"{held} != nil")


# ---------------------------------------------------------------- secrets


def patterns(table: Tree) -> Iterator[tuple[str, str]]:
    """Each expression whose matches are masked, with its name."""
    for value in table["values"]:
        for beginning in value.get("each", [""]):
            for start in _cases(beginning) if value.get("cases") else [beginning]:
                yield value["name"], _with_parts(start + value["regex"], table["parts"])


def _cases(beginning: str) -> Iterator[str]:
    """It as it is, and with a capital where its first letter is a small one."""
    yield beginning
    if beginning[0].islower():
        yield beginning[0].upper() + beginning[1:]


def _with_parts(regex: str, parts: Mapping[str, str]) -> str:
    while "<<" in regex:
        regex = re.sub("<<([a-z]+)>>", lambda part: parts[part[1]], regex)
    return regex


def ignored(table: Tree, contract: Contract) -> list[str]:
    """Keys whose values are not read: the table's, and every number, truth value and set of the contract."""
    newest = contract.upstream["gen-ai-newest"]
    kinds = {**newest["attributes"], **{key: attribute.type for key, attribute in contract.attributes.items()}}
    members = {*newest["enums"], *(key for key, attribute in contract.attributes.items() if attribute.members)}
    plain = {key for key, kind in kinds.items() if kind in ("int", "double", "boolean") or key in members}
    return sorted((plain | set(table["ignored"])) - OPEN)


def _keys(table: Tree) -> Tree:
    """Masks the values of keys that name a secret, and what the user's own expression matches."""
    return {
        "blocked_key_patterns": [_dollars(pattern) for pattern in table["secret_keys"]],
        "blocked_values": [f"${{env:AI_OTEL_REDACT_PATTERN:-{NONE}}}"],
    }


def _values(table: Tree) -> Tree:
    """Masks what the expressions match. Apart from `_keys`, because a plain value is not masked for its key either."""
    return {
        "allowed_values": [_dollars(table["plain"])],
        "blocked_values": [_dollars(pattern) for _, pattern in patterns(table)],
    }


def _dollars(pattern: str) -> str:
    """The Collector expands `$` before a component sees it."""
    return pattern.replace("$", "$$")


def _commented(text: str, table: Tree) -> str:
    """The name of each expression above the first of that name."""
    lines, place = [], 0
    names = [name for name, _ in patterns(table)]
    inside = allowed = False
    for line in text.splitlines():
        allowed = allowed or line.strip().startswith("allowed_values:")
        begins = allowed and line.strip().startswith("blocked_values:")
        inside = begins or (inside and bool(re.match(r"\s*- ", line)))
        if inside and line.lstrip().startswith("- ") and place < len(names):
            if place == 0 or names[place] != names[place - 1]:
                lines.append(f"{line[: len(line) - len(line.lstrip())]}# {names[place]}")
            place += 1
        lines.append(line)
    return "\n".join(lines) + "\n"
