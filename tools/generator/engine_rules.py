"""What must hold of the engine mappings: every source metric is known, used once or left out with a reason."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

from ai_otel.contract import Engine, Metric, MetricMapping
from generator.meaning_rules import meaning_violations
from generator.model import Contract, SourceMetric

# Which instruments a source type can become. A gauge in Prometheus may be a gauge or an updowncounter.
BECOMES = {"counter": {"counter"}, "gauge": {"gauge", "updowncounter"}, "histogram": {"histogram"}, "summary": set()}
# What the whole of docs/engine-mapping.md describes.
ROW_KEYS = {
    "native", "to", "versions", "factor", "labels", "set", "value", "combine", "unless", "meaning", "needs",
    "part", "monotonic", "where", "drop_values", "drop_above", "merge", "requires", "newest",
}  # fmt: skip
ENGINE_KEYS = {
    "engine", "title", "kind", "source", "scope", "python_hooks", "why_no_hooks", "page", "inventory", "attributes",
    "configure", "labels", "only", "ignore", "metrics", "unmapped", "library",
}  # fmt: skip
MERGES = {"sum", "max", "mean", "min"}


def engine_violations(name: str, contract: Contract) -> Iterator[str]:
    """Every violation in one engine's file."""
    engine, inventory = contract.engines[name], contract.inventories[name]
    yield from (f"{name}: there is no key {key}." for key in sorted(engine.keys() - ENGINE_KEYS))
    if engine["engine"] != name:
        yield f"engines/{name}.yaml: says that it is {engine['engine']}."
    for row in engine["metrics"]:
        yield from (f"{name}: {row['native']}: {problem}" for problem in _row(row, engine, inventory, contract))
    yield from (f"{name}: {problem}" for problem in _coverage(engine, inventory))
    yield from (f"{name}: {problem}" for problem in _doubles(engine))
    yield from (f"{name}: {problem}" for problem in _combinations(engine))
    yield from (f"{name}: {problem}" for problem in _no_values(engine))
    yield from (f"{name}: {problem}" for problem in _library(engine, contract))
    yield from (f"{name}: {problem}" for problem in _constants(engine, contract))


def _row(
    row: MetricMapping, engine: Engine, inventory: Mapping[str, SourceMetric], contract: Contract
) -> Iterator[str]:
    yield from (f"there is no key {key}." for key in sorted(row.keys() - ROW_KEYS))
    metric = contract.metric(row["to"])
    if metric is None:
        yield f"{row['to']} is no metric of the contract."
        return
    native = inventory.get(row["native"])
    if native is None and "<" not in row.get("versions", ""):
        yield "not in the inventory; an older name needs `versions` with an upper bound."
    if native is not None:
        yield from _types(row, native, metric)
        yield from _label_names(row, native)
    if "unless" in row and row["unless"] not in {other["native"] for other in engine["metrics"]}:
        yield f"gives way to {row['unless']}, which is not mapped."
    if metric.instrument == "updowncounter" and metric.unit == "1" and row.get("merge") not in ("max", "min"):
        yield f"{metric.name} is 1 or 0, and a sum of such is neither; it needs `merge`, max or min."
    yield from _attributes(row, metric, contract)
    yield from meaning_violations(row)


def _types(row: MetricMapping, native: SourceMetric, metric: Metric) -> Iterator[str]:
    kind = native.type
    becomes = {"counter"} if row.get("part") or row.get("monotonic") else BECOMES.get(kind, set())
    if kind != "?" and metric.instrument not in becomes:
        yield f"a native {kind} cannot become the {metric.instrument} {metric.name}."
    if row.get("part") and (row["part"] not in ("sum", "count") or kind not in ("histogram", "summary", "?")):
        yield "only a histogram or a summary has a part: sum or count."
    if row.get("monotonic") and kind not in ("gauge", "?"):
        yield "only a gauge needs a note that it is monotonic."
    if "factor" in row and not isinstance(row["factor"], (int, float)):
        yield "the factor is no number."
    if row.get("merge", "sum") not in MERGES:
        yield f"merge is one of {', '.join(sorted(MERGES))}."


def _label_names(row: MetricMapping, native: SourceMetric) -> Iterator[str]:
    value = row.get("value", {})
    used = [*row.get("labels", {}), *row.get("where", {}), *value.get("product_of_labels", ())]
    used += [*value.get("else", {}).get("product_of_labels", ()), *row.get("newest", ())]
    used += filter(None, [value.get("count_of_label"), value.get("at_most")])
    yield from (f"has no label {label}." for label in used if label not in native.labels and "?" not in native.labels)


def _attributes(row: MetricMapping, metric: Metric, contract: Contract) -> Iterator[str]:
    for key, value in _assigned(row):
        if key not in metric.keys:
            yield f"{metric.name} has no attribute {key}."
            continue
        attribute = contract.attributes[key]
        if attribute.own and attribute.members and value is not None and value not in attribute.members:
            yield f"{value} is no value of {key}."


def _assigned(row: MetricMapping) -> Iterator[tuple[str, object]]:
    """Each attribute that the row sets, with its value where the row fixes it."""
    yield from row.get("set", {}).items()
    for label in row.get("labels", {}).values():
        if "attribute" in label:
            yield label["attribute"], None
        for assigned in label.get("values", {}).values():
            yield from assigned.items()


def _coverage(engine: Engine, inventory: Mapping[str, SourceMetric]) -> Iterator[str]:
    mapped = {row["native"] for row in engine["metrics"]}
    patterns = [pattern for row in engine["unmapped"] for pattern in row["natives"]]
    left_out = {name for name in inventory if any(fnmatchcase(name, pattern) for pattern in patterns)}
    for name in sorted(inventory.keys() - mapped - left_out):
        yield f"{name}: neither mapped nor left out with a reason."
    for name in sorted(mapped & left_out):
        yield f"{name}: both mapped and left out."
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in inventory):
            yield f"{pattern}: leaves out nothing that exists."
    for row in engine["unmapped"]:
        if not row.get("why"):
            yield f"{row['natives']}: say why."


def _doubles(engine: Engine) -> Iterator[str]:
    """Two natives that land in the same series must say how they share it."""
    rows = [row for row in engine["metrics"] if "unless" not in row and row.get("combine") != "sum"]
    series = Counter((row["to"], _separated_by(row)) for row in rows)
    for (target, _), times in series.items():
        if times > 1:
            yield f"{target}: {times} source metrics land in the same series; use `set`, `combine: sum` or `unless`."


def _combinations(engine: Engine) -> Iterator[str]:
    """A sum of several natives says which of them must be there: without one of those it is another number."""
    parts: dict[str, set[str]] = defaultdict(set)
    for row in engine["metrics"]:
        if row.get("combine") == "sum":
            parts[row["to"]].add(row["native"])
    for row in engine["metrics"]:
        if (row.get("combine") == "sum") != ("requires" in row):
            yield f"{row['native']}: `combine` and `requires` go together; `requires: []` if each native is a sum."
        for required in row.get("requires", ()):
            for native in required if isinstance(required, list) else [required]:
                if native not in parts[row["to"]]:
                    yield f"{row['native']}: requires {native}, which is no part of {row['to']}."


def _no_values(engine: Engine) -> Iterator[str]:
    """A label's text that means that there is no value says what the attribute falls back to."""
    labels = engine["labels"]
    for label, target in labels.items():
        other = target.get("else")
        if ("none" in target) != (other is not None):
            yield f"{label}: `none` and `else` go together."
        elif other == "setting" and target["attribute"] not in engine["configure"]:
            yield f"{label}: falls back to a setting, but {target['attribute']} is not in `configure`."
        elif other not in (None, "setting", "absent"):
            earlier = list(labels)[: list(labels).index(label)]
            if other not in earlier or labels[other]["attribute"] != target["attribute"]:
                yield f"{label}: falls back to {other}, which is no earlier label of {target['attribute']}."


def _separated_by(row: MetricMapping) -> tuple[tuple[str, str], ...]:
    """What keeps the row's points from those of another row with the same target."""
    chosen = {f"where {label}": str(values) for label, values in row.get("where", {}).items()}
    return tuple(sorted({**row.get("set", {}), **chosen, "versions": row.get("versions", "")}.items()))


def _library(engine: Engine, contract: Contract) -> Iterator[str]:
    rows = engine.get("library", [])
    names = [row["metric"] for row in rows]
    for row in rows:
        if contract.metric(row["metric"]) is None:
            yield f"library: {row['metric']} is no metric of the contract."
        if not row.get("from"):
            yield f"library: {row['metric']}: say where it comes from."
    yield from (f"library: {name} stands twice." for name, times in Counter(names).items() if times > 1)
    if names and not engine["python_hooks"]:
        yield "library: there can be nothing without Python hooks."
    if (engine.get("source") == "otlp") != ("scope" in engine):
        yield "what sends OTLP itself is known by its scope, and nothing else has one."
    if not engine["python_hooks"] and not engine.get("why_no_hooks"):
        yield "say why there are no Python hooks."


def _constants(engine: Engine, contract: Contract) -> Iterator[str]:
    assigned = {**engine["attributes"], **{row["attribute"]: None for row in engine["labels"].values()}}
    for key, value in assigned.items():
        if key not in contract.attributes:
            yield f"{key} is no attribute of the contract."
        elif value is not None and contract.attributes[key].members and value not in contract.attributes[key].members:
            yield f"{value} is no value of {key}."
