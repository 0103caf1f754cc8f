"""What must hold of the signals in the contract. Each function yields readable sentences, one for each violation."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from ai_otel.contract import Metric, Use
from generator.engine_rules import engine_violations
from generator.model import LEVELS, Contract, Tree, attribute_constant

OWN = "ai_otel."
INSTRUMENTS = {"counter", "histogram", "updowncounter", "gauge"}
UNIT_WORDS = re.compile(r"(^|[._])(seconds|ms|bytes|joules|watts|ratio|percent|perc|total|count)$")
UNIT = re.compile(r"^(1|s|By|J|W|Cel|Hz|V|\{[a-z_]+\})$")
LONGEST_BRIEF = 100
# In no conventions, but in a vendor's exporter under this very name: another name would be one too many.
SHIPPED = {"hw.gpu.info": "Intel XPU Manager"}


def violations(contract: Contract) -> list[str]:
    """Every violation in the contract."""
    found = [sentence for metric in contract.metrics for sentence in _metric(metric, contract)]
    found += _namespaces(contract)
    found += _deprecated(contract)
    found += _constants(contract)
    found += _bucket_lists(contract)
    found += _spans(contract)
    found += [sentence for name in contract.engines for sentence in engine_violations(name, contract)]
    return found


def remarks(contract: Contract) -> list[str]:
    """What is legal and still worth knowing."""
    return [
        f"{metric.original}: an attribute has its constant's name, so the metric is {metric.constant}."
        for metric in contract.metrics
        if metric.constant.endswith("_METRIC")
    ]


def _metric(metric: Metric, contract: Contract) -> Iterator[str]:
    yield from _shape(metric, contract)
    yield from _wording(metric)
    if not metric.name.startswith(OWN) and metric.name not in SHIPPED:
        yield from _against_upstream(metric, contract)


def _shape(metric: Metric, contract: Contract) -> Iterator[str]:
    if metric.instrument not in INSTRUMENTS:
        yield f"{metric.name}: there is no instrument {metric.instrument}."
    if not UNIT.match(metric.unit):
        yield f"{metric.name}: {metric.unit} is no unit that we know; write UCUM, or a word in braces."
    if metric.value not in ("int", "double"):
        yield f"{metric.name}: a value is int or double, not {metric.value}."
    if (metric.instrument == "histogram") != (metric.bucket_set is not None):
        yield f"{metric.name}: a histogram names its buckets, and nothing else does."
    if metric.bucket_set and metric.bucket_set not in contract.buckets:
        yield f"{metric.name}: buckets.yaml has no list {metric.bucket_set}."
    if metric.unit.startswith("{") and metric.value != "int":
        yield f"{metric.name}: counted things are int."
    if metric.unit == "s" and metric.value != "double":
        yield f"{metric.name}: seconds are double."


def _wording(metric: Metric) -> Iterator[str]:
    if metric.name.startswith(OWN) and UNIT_WORDS.search(metric.name):
        yield f"{metric.name}: units and `total` do not belong into a name."
    if not metric.brief.endswith(".") or "\n" in metric.brief or len(metric.brief) > LONGEST_BRIEF:
        yield f"{metric.name}: the brief is one sentence of at most {LONGEST_BRIEF} characters."


def _against_upstream(metric: Metric, contract: Contract) -> Iterator[str]:
    theirs = upstream_metric(metric, contract)
    if theirs is None:
        yield f"{metric.name}: neither ai-otel's nor in the pinned conventions; new names start with {OWN}"
        return
    for field in ("instrument", "unit", "value"):
        if theirs[field] != getattr(metric, field):
            yield f"{metric.name}: {field} is {theirs[field]} upstream, not {getattr(metric, field)}."
    bounds = contract.buckets[metric.bucket_set]["bounds"] if metric.bucket_set else None
    if "buckets" in theirs and bounds and theirs["buckets"] != bounds:
        yield f"{metric.name}: the buckets differ from upstream."
    levels = {key: LEVELS[level] for key, level in theirs["attributes"].items()}
    own = _levels(use for use in metric.uses if not use.key.startswith(OWN))
    for key in sorted(levels.keys() | own.keys()):
        if levels.get(key) != own.get(key):
            yield f"{metric.name}: {key} is {levels.get(key, 'absent')} upstream, here {own.get(key, 'absent')}."


def upstream_metric(metric: Metric, contract: Contract) -> Tree | None:
    """The pinned conventions' own description, with the refinement that this contract follows."""
    sources = (contract.upstream[name]["metrics"] for name in ("gen-ai-newest", "hw-metrics", "core-metrics"))
    theirs: Tree | None = next((source[metric.name] for source in sources if metric.name in source), None)
    if theirs is not None and metric.refines:
        refinement = contract.upstream["hw-metrics"]["refinements"][metric.refines]
        return {**theirs, "attributes": refinement["attributes"]}
    return theirs


def _levels(uses: Iterable[Use]) -> dict[str, str]:
    return {use.key: use.level for use in uses}


def _namespaces(contract: Contract) -> Iterator[str]:
    # One that a rename gave an upstream name is upstream's, and was found there.
    known = {key for tree in contract.upstream.values() for key in tree.get("attributes", ())}
    for attribute in contract.attributes.values():
        if attribute.own and not attribute.key.startswith(OWN) and attribute.key not in known:
            yield f"{attribute.key}: our own attributes start with {OWN}"
        if attribute.own and not attribute.brief.endswith("."):
            yield f"{attribute.key}: the brief is a sentence."


def _deprecated(contract: Contract) -> Iterator[str]:
    names = [*contract.attributes, *(metric.name for metric in contract.metrics)]
    yield from (f"{name}: upstream deprecated it." for name in names if name in contract.deprecated)


def _constants(contract: Contract) -> Iterator[str]:
    names = [attribute_constant(attribute) for attribute in contract.attributes.values()]
    names += [metric.constant for metric in contract.metrics]
    names += [attribute.constant for attribute in contract.attributes.values() if attribute.constant]
    names += [f"BUCKETS_{name.upper()}" for name in contract.buckets]
    names += [scope[key] for scope in contract.scopes for key in ("constant", "schema_url_constant")]
    yield from (f"{name}: two things would have this constant." for name, times in Counter(names).items() if times > 1)


def _bucket_lists(contract: Contract) -> Iterator[str]:
    theirs = contract.upstream["gen-ai-newest"]["buckets"]
    for name, row in contract.buckets.items():
        if row["bounds"] != sorted(set(row["bounds"])):
            yield f"buckets {name}: boundaries must rise."
        if "upstream" in row and row["bounds"] != theirs[row["upstream"]]:
            yield f"buckets {name}: differ from upstream's {row['upstream']}."
        if "upstream" not in row and not row.get("why"):
            yield f"buckets {name}: say why they are not upstream's."


def _spans(contract: Contract) -> Iterator[str]:
    """The request span has upstream's attribute list, without content and with ai-otel's own."""
    spans = contract.upstream["gen-ai-newest"]["spans"]
    inference = spans["gen_ai.client.inference"]["attributes"]
    expected = {key: LEVELS[level] for key, level in inference.items() if level != "opt"}
    legal = {*expected, *spans["gen_ai.client.embeddings"]["attributes"]}
    for span in contract.spans:
        if span.role == "phase":
            continue
        own = _levels(span.uses)
        for key, level in expected.items():
            if own.get(key) != level:
                yield f"{span.id}: {key} is {level} upstream, here {own.get(key, 'absent')}."
        for key in own:
            if key.startswith("gen_ai.") and key not in legal:
                yield f"{span.id}: {key} is no attribute of an inference or embeddings span."
