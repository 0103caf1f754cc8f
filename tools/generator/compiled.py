"""Writes src/ai_otel/schema/contract.json, which `ai_otel.contract` loads without a YAML parser."""

from __future__ import annotations

from collections.abc import Iterable

from ai_otel.contract import Attribute, Contract, Metric, Span, Use
from generator.compact import compact
from generator.model import Tree

KINDS = ("metrics", "attributes")


def render(contract: Contract) -> str:
    """The text of contract.json."""
    tree = {
        "generated": "from src/ai_otel/schema by `python tools/generate.py`; do not edit",
        "scopes": [{key: scope[key] for key in ("name", "namespace", "schema_url")} for scope in contract.scopes],
        "attributes": {key: _attribute(attribute) for key, attribute in contract.attributes.items()},
        "metrics": [_metric(metric) for metric in contract.metrics],
        "spans": [_span(span) for span in contract.spans],
        "resource": _uses(contract.resource),
        "engines": contract.engines,
        "renames": {who: {kind: rows[kind] for kind in KINDS} for who, rows in contract.renames.items()},
        "deprecated": sorted(contract.deprecated),
    }
    return compact(tree) + "\n"


def _without_empty(tree: Tree) -> Tree:
    return {key: value for key, value in tree.items() if value not in (None, "", (), [], {})}


def _attribute(attribute: Attribute) -> Tree:
    return _without_empty(
        {
            "type": attribute.type,
            "brief": attribute.brief,
            "members": attribute.members,
            "examples": attribute.examples,
            "own": attribute.own or None,
        }
    )


def _uses(uses: Iterable[Use]) -> Tree:
    return {
        use.key: _without_empty({"level": use.level, "condition": use.condition, "sampling": use.sampling or None})
        for use in uses
    }


def _metric(metric: Metric) -> Tree:
    return {
        "name": metric.name,
        "constant": metric.constant,
        "subject": metric.subject,
        "scope": metric.scope,
        "instrument": metric.instrument,
        "unit": metric.unit,
        "value": metric.value,
        "brief": metric.brief,
        "note": metric.note,
        "buckets": metric.buckets,
        "prometheus": metric.prometheus,
        "attributes": _uses(metric.uses),
    }


def _span(span: Span) -> Tree:
    return {
        "id": span.id,
        "role": span.role,
        "name": span.name,
        "kinds": span.kinds,
        "brief": span.brief,
        "attributes": _uses(span.uses),
    }
