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
LAID = "ai_otel.redaction."
SPAN_FIELDS = ("status.message", "trace_state", "name")
EVENT_FIELDS = ("name",)
LOG_FIELDS = ("event_name", "severity_text")
SCOPE_FIELDS = ("name", "version", "schema_url")
RESOURCE_FIELDS = ("schema_url",)
# A program's words, so that a short expression does, and the whole is masked.
METRIC_FIELDS = ("name", "description", "unit")
# What the redaction processor says of what it did: only where it has masked something there may be keys to delete.
COUNT = "redaction.masked.count"
BODY_COUNT = "redaction.body.masked.count"
COUNTS = (COUNT, "redaction.ignored.count", "redaction.allowed.count")
BODY_COUNTS = (BODY_COUNT, "redaction.body.ignored.count", "redaction.body.allowed.count")
# The mark on a metric's resource that a point of it was masked.
MASKED = "ai_otel.redaction.masked"
SUMMED = ("SUM", "HISTOGRAM", "EXPONENTIAL_HISTOGRAM")
# The longest expression for keys of content, in characters, and what stands in their words for more than itself.
LONGEST = 1200
SIGNS = {".": "[.]", "*": ".*", "#": "[0-9]"}
# Bytes are no text before they are decoded; OTTL has no word for them.
IS_BYTES = "log.body != nil and " + " and ".join(
    f"not Is{kind}(log.body)" for kind in ("String", "Map", "List", "Int", "Double", "Bool")
)
# An expression that matches nothing, which Go sees as soon as the text has no byte of zero.
NONE = r"\x00\A"
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
            end: _end(table),
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
    often, event = table["content"]["often"], f"(?i)^{one_of(table['content']['event'])}$"
    resource = _group("resource", *_lay_all("resource", RESOURCE_FIELDS))
    scope = _group("scope", *_lay_all("scope", SCOPE_FIELDS))
    return {
        "error_mode": "ignore",
        "trace_statements": [
            resource,
            scope,
            _group("span", *_delete("span.attributes", often), *_lay_all("span", SPAN_FIELDS)),
            _group(
                "spanevent",
                _delete_matching("spanevent.attributes", event, 'IsMatch(spanevent.name, "^(?:gen_ai|llm|ai)[.]")'),
                *_lay_all("spanevent", EVENT_FIELDS),
            ),
        ],
        "log_statements": [
            resource,
            scope,
            _group(
                "log",
                *_delete("log.attributes", often),
                ottl.do(ottl.call("set", "log.body", 'Decode(log.body, "utf-8")'), IS_BYTES),
            ),
            _group(
                "log",
                _delete_matching("log.attributes", event),
                ottl.do(
                    ottl.call("keep_keys", "log.body", ottl.texts(table["content"]["body_keeps"])),
                    "IsMap(log.body)",
                ),
                ottl.do(ottl.call("set", "log.body", '"****"'), "log.body != nil and not IsMap(log.body)"),
                conditions=(
                    'IsMatch(log.event_name, "^gen_ai[.]")',
                    'log.attributes["event.name"] != nil and IsMatch(log.attributes["event.name"], "^gen_ai[.]")',
                ),
            ),
            _group("log", *_lay_all("log", LOG_FIELDS)),
        ],
        "metric_statements": [
            resource,
            scope,
            _group(
                "metric",
                *(
                    ottl.do(ottl.call("set", f"metric.{field}", '"****"'), f"not {_is_match(f'metric.{field}', words)}")
                    for words in [table["words"]]
                    for field in METRIC_FIELDS
                ),
                ottl.call("keep_keys", "metric.metadata", ottl.texts(table["metadata_keeps"])),
            ),
            _group("exemplar", ottl.call("keep_keys", "exemplar.filtered_attributes", "[]")),
        ],
    }


def _end(table: Tree) -> Tree:
    masked = f"{ottl.resource(MASKED)} == true"
    summed = ottl.either(f"metric.type == METRIC_DATA_TYPE_{kind}" for kind in SUMMED)

    def item(context: str, fields: Iterable[str]) -> list[Tree]:
        """Without the keys that were masked, and as it was in all else."""
        deleted = _group(context, *_clean(context, table), conditions=[f"{_attribute(context, COUNT)} != nil"])
        return [deleted, _group(context, *_back_all(context, fields))]

    both = [*item("resource", RESOURCE_FIELDS), *item("scope", SCOPE_FIELDS)]
    body = _group(
        "log",
        *_clean("log", table, "log.body", "IsMap(log.body)"),
        conditions=[f"{_attribute('log', BODY_COUNT)} != nil"],
    )
    return {
        "error_mode": "ignore",
        "trace_statements": [*both, *item("span", SPAN_FIELDS), *item("spanevent", EVENT_FIELDS)],
        "log_statements": [
            *both,
            body,
            *item("log", LOG_FIELDS),
            _group("log", *_delete("log.attributes", BODY_COUNTS)),
        ],
        "metric_statements": [
            *both,
            _group(
                "datapoint",
                ottl.call("set", ottl.resource(MASKED), "true"),
                conditions=[f"{_attribute('datapoint', COUNT)} != nil"],
            ),
            *item("datapoint", ()),
            _group(
                "metric",
                ottl.do(ottl.call("aggregate_on_attributes", '"sum"'), summed),
                ottl.do(ottl.call("aggregate_on_attributes", '"max"'), "metric.type == METRIC_DATA_TYPE_GAUGE"),
                conditions=[masked],
            ),
            _group("resource", *_delete("resource.attributes", [MASKED])),
        ],
    }


def _group(context: str, *statements: str, conditions: Iterable[str] = ()) -> Tree:
    """Statements for each of a kind, where one of the conditions holds."""
    found = list(conditions)
    return {"context": context, **({"conditions": found} if found else {}), "statements": list(statements)}


def _clean(context: str, table: Tree, target: str = "", where: str = "") -> Iterator[str]:
    """Without the keys of content, and without keys that are none."""
    target = target or f"{context}.attributes"
    for pattern in content_keys(table):
        yield _delete_matching(target, pattern, where)
    yield ottl.do(ottl.call("keep_matching_keys", target, ottl.text(table["words"])), where)


def _delete(target: str, keys: Iterable[str]) -> Iterator[str]:
    return (ottl.call("delete_key", target, ottl.text(key)) for key in keys)


def _delete_matching(target: str, pattern: str, where: str = "") -> str:
    return ottl.do(ottl.call("delete_matching_keys", target, ottl.text(pattern)), where)


def _is_match(target: str, pattern: str) -> str:
    return ottl.call("IsMatch", target, ottl.text(pattern))


def _attribute(context: str, key: str) -> str:
    return f"{context}.attributes[{ottl.text(key)}]"


def _lay_all(context: str, fields: Iterable[str]) -> Iterator[str]:
    for field in fields:
        source = f"{context}.{field}"
        yield ottl.do(ottl.call("set", _attribute(context, LAID + field), source), f'{source} != ""')


def _back_all(context: str, fields: Iterable[str]) -> Iterator[str]:
    for field in fields:
        held = _attribute(context, LAID + field)
        yield ottl.do(ottl.call("set", f"{context}.{field}", held), f"{held} != nil")
    yield from _delete(f"{context}.attributes", [*(LAID + field for field in fields), *COUNTS])


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
    """Masks values of keys that name secrets or content or are no words, and what the user's own expression matches."""
    blocked = [*table["secret_keys"], *table["no_words"], *content_keys(table)]
    return {
        "blocked_key_patterns": [_dollars(pattern) for pattern in blocked],
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
