"""Writes docs/metrics.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ai_otel.contract import Attribute, Engine, LibraryMetric, Metric, MetricMapping, Span, Unmapped, Use
from generator.model import Contract, Tree

HEAD = """\
<!-- Generated from src/ai_otel/schema by `python tools/generate.py`. Do not edit. -->
# Metrics, spans and attributes

Reference of every name that ai-otel emits, and its source in each engine. Names that OpenTelemetry publishes are used
unchanged (`gen_ai.*`, `hw.*`); what the conventions lack is `ai_otel.*`.

* *Prometheus* is the name after the Collector or Prometheus' own OTLP receiver with default settings. A histogram adds
  `_bucket`, `_sum` and `_count`. The Python Prometheus exporter leaves out `_ratio`.
* *library* is what ai-otel measures inside the server; *endpoint* is what the Collector pipeline scrapes from the
  engine's metrics endpoint. If both run, the pipeline drops its copy.
* Attributes: **bold** is required, plain is set if it is known and applies, *italic* is opt-in.
* Unknown is absent: a metric that an engine does not expose is absent, never 0.
"""


def render(contract: Contract) -> str:
    """The text of docs/metrics.md."""
    lines = [HEAD]
    for subject in contract.subjects:
        lines += _subject(subject, contract)
    lines += ["## Spans", ""]
    lines += [line for span in contract.spans for line in _span(span, contract.spans[0])]
    lines += _resource(contract)
    lines += _own_attributes(contract)
    lines += _bucket_lists(contract)
    for engine in contract.engines.values():
        lines += _left_out(engine)
    return "\n".join(lines).rstrip() + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---"] * len(head)
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)] + [""]


def _subject(subject: Tree, contract: Contract) -> Iterator[str]:
    metrics = [metric for metric in contract.metrics if f"{metric.subject}.yaml" == subject["file"]]
    yield f"## {subject['title']}"
    yield ""
    rows = [(f"[`{m.name}`](#{_anchor(m)})", m.instrument, f"`{m.unit}`", m.brief) for m in metrics]
    yield from _table(("metric", "instrument", "unit", "meaning"), rows)
    for metric in metrics:
        yield from _metric(metric, contract)


def _anchor(metric: Metric) -> str:
    return metric.name.replace(".", "")


def _metric(metric: Metric, contract: Contract) -> Iterator[str]:
    yield f"### `{metric.name}`"
    yield ""
    yield " ".join(filter(None, (metric.brief, metric.note)))
    yield ""
    rows = [("instrument", f"{metric.instrument}, `{metric.unit}`, {metric.value}")]
    if metric.bucket_set:
        rows.append(("buckets", f"[{metric.bucket_set}](#buckets)"))
    rows.append(("Prometheus", f"`{metric.prometheus}`"))
    rows.append(("attributes", _uses(metric.uses) or "none"))
    rows += [row for engine in contract.engines.values() for row in _sources(metric, engine)]
    yield from _table(("", ""), rows)


def _uses(uses: Sequence[Use]) -> str:
    styles = {"required": "**`{}`**", "opt_in": "*`{}`*"}
    return ", ".join(styles.get(use.level, "`{}`").format(use.key) for use in uses)


def _sources(metric: Metric, engine: Engine) -> Iterator[tuple[str, str]]:
    for row in engine["library"]:
        if row["metric"] == metric.name:
            yield f"{engine['title']}, library", row["from"] + _needs(row)
    page = [_native(row) for row in engine["metrics"] if row["to"] == metric.name]
    if page:
        yield f"{engine['title']}, endpoint", "<br>".join(page)


def _native(row: MetricMapping) -> str:
    parts = [f"`{row['native']}`", _value(row), _labels(row)]
    if "versions" in row:
        parts.append(f"({_escaped(row['versions'])})")
    if "unless" in row:
        parts.append(f"where there is no `{row['unless']}`")
    if row.get("combine") == "sum":
        parts.append("(summed)")
    if "factor" in row:
        parts.append(f"× {row['factor']}")
    sentences = (" ".join(filter(None, parts)), _needs(row).strip().rstrip("."), row.get("meaning"))
    return ". ".join(filter(None, sentences))


def _value(row: MetricMapping) -> str:
    value = row.get("value", {})
    if "product_of_labels" in value:
        products = [value, *([value["else"]] if "else" in value else [])]
        return "labels " + ", else ".join(_product(each["product_of_labels"]) for each in products)
    if not value:
        return ""
    most = f", at most label `{value['at_most']}`" if "at_most" in value else ""
    return f"number of entries in label `{value['count_of_label']}`{most}"


def _product(labels: Sequence[str]) -> str:
    return " × ".join(f"`{label}`" for label in labels)


def _labels(row: MetricMapping) -> str:
    parts = [f"`{key}` = {value}" for key, value in row.get("set", {}).items()]
    for label, rule in row.get("labels", {}).items():
        keys = [rule["attribute"]] if "attribute" in rule else {key for each in rule["values"].values() for key in each}
        parts.append(f"`{label}` → " + ", ".join(f"`{key}`" for key in sorted(keys)))
    return f"with {', '.join(parts)}" if parts else ""


def _needs(row: MetricMapping | LibraryMetric | Unmapped) -> str:
    return f" Needs `{row['needs']}`." if row.get("needs") else ""


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;")


def _span(span: Span, request: Span) -> Iterator[str]:
    yield f"### `{span.name}`" if span.role == "phase" else f"### {span.role}: `{span.name}`"
    yield ""
    yield " ".join(filter(None, (span.brief, span.note)))
    yield ""
    sampling = [use.key for use in span.uses if use.sampling]
    attributes = _without(request, span) if span.role == "inference" else _uses(span.uses)
    rows = [("kind", ", ".join(kind.upper() for kind in span.kinds)), ("attributes", attributes)]
    if sampling:
        rows.append(("set at start", ", ".join(f"`{key}`" for key in sampling)))
    yield from _table(("", ""), rows)


def _without(request: Span, span: Span) -> str:
    kept = {use.key for use in span.uses}
    missing = ", ".join(f"`{use.key}`" for use in request.uses if use.key not in kept)
    return f"those of the request, without {missing}"


def _resource(contract: Contract) -> Iterator[str]:
    yield "## Resource"
    yield ""
    yield _uses(contract.resource)
    yield ""


def _own_attributes(contract: Contract) -> Iterator[str]:
    yield "## ai-otel attributes"
    yield ""
    own = [attribute for attribute in contract.attributes.values() if attribute.own]
    rows = [(f"`{each.key}`", each.type, each.brief, _values(each)) for each in own]
    yield from _table(("attribute", "type", "meaning", "values"), rows)


def _values(attribute: Attribute) -> str:
    pairs = zip(attribute.members, attribute.briefs, strict=True)
    listed = "<br>".join(f"`{member}`: {brief}" for member, brief in pairs)
    return listed or "e.g. " + ", ".join(f"`{example}`" for example in attribute.examples)


def _bucket_lists(contract: Contract) -> Iterator[str]:
    yield "## Buckets"
    yield ""
    yield "Histograms that are scraped from an engine keep the engine's boundaries."
    yield ""
    rows = [
        (name, ", ".join(str(bound) for bound in row["bounds"]), row.get("why", "As the conventions recommend."))
        for name, row in contract.buckets.items()
    ]
    yield from _table(("name", "boundaries", "why"), rows)


def _left_out(engine: Engine) -> Iterator[str]:
    yield f"## {engine['title']}: unmapped metrics"
    yield ""
    yield " ".join([f"Inventory of {engine['inventory']['version']}.", engine["page"]["absent"], *_no_hooks(engine)])
    yield ""
    rows = [(_lines(row["natives"]), row["why"] + _needs(row)) for row in engine["unmapped"]]
    yield from _table(("source metric", "why it is not mapped"), rows)


def _lines(names: Sequence[str]) -> str:
    return "<br>".join(f"`{name}`" for name in names)


def _no_hooks(engine: Engine) -> list[str]:
    return [] if engine["python_hooks"] else [f"The library measures nothing here: {engine['why_no_hooks']}"]
