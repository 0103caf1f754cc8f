"""Writes src/ai_otel/schema/contract.json: the contract for run time, where no YAML parser may be needed."""

from __future__ import annotations

import json
from collections.abc import Iterable

from generator.model import Attribute, Contract, Metric, Span, Tree, Use
from generator.prometheus import prometheus_name
from generator.python_names import metric_constants

KINDS = ("metrics", "attributes")


def render(contract: Contract) -> str:
    """The text of contract.json."""
    constants = metric_constants(contract)
    tree = {
        "generated": "from src/ai_otel/schema by `python tools/generate.py`; do not edit",
        "scopes": [{key: scope[key] for key in ("name", "namespace", "schema_url")} for scope in contract.scopes],
        "attributes": {key: _attribute(attribute) for key, attribute in contract.attributes.items()},
        "metrics": [_metric(metric, constants[metric.original], contract) for metric in contract.metrics],
        "spans": [_span(span) for span in contract.spans],
        "resource": _uses(contract.resource),
        "engines": contract.engines,
        "renames": {who: {kind: rows[kind] for kind in KINDS} for who, rows in contract.renames.items()},
        "deprecated": sorted(contract.deprecated),
    }
    return json.dumps(tree, indent=1, ensure_ascii=False) + "\n"


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


def _metric(metric: Metric, constant: str, contract: Contract) -> Tree:
    scope = next(scope["name"] for scope in contract.scopes if metric.name.startswith(scope["namespace"]))
    return {
        "name": metric.name,
        "constant": constant,
        "subject": metric.subject,
        "scope": scope,
        "instrument": metric.instrument,
        "unit": metric.unit,
        "value": metric.value,
        "brief": metric.brief,
        "note": metric.note,
        "buckets": contract.buckets[metric.buckets]["bounds"] if metric.buckets else None,
        "prometheus": prometheus_name(metric),
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
