"""Builds the contract from the YAML files of `src/ai_otel/schema`: follows `extends` and `ref`, applies the renames."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import yaml

from ai_otel import contract
from ai_otel.contract import Attribute, Metric, Span, Use
from generator.prometheus import prometheus_name

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "src" / "ai_otel" / "schema"

Tree = dict[str, Any]
LEVELS = {"req": "required", "cond": "conditionally_required", "rec": "recommended", "opt": "opt_in"}


class BrokenContractError(Exception):
    """The schema files contradict each other; the message names the place."""


@dataclass(frozen=True, slots=True)
class SourceMetric:
    """One row of an engine's inventory. A type or labels of `?` are unknown."""

    type: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract(contract.Contract):
    """The contract, and what only the generators read."""

    sets: Mapping[str, tuple[Use, ...]]
    buckets: Mapping[str, Tree]
    subjects: tuple[Tree, ...]
    inventories: Mapping[str, Mapping[str, SourceMetric]]
    upstream: Mapping[str, Tree]


def constant_name(name: str) -> str:
    """The Python constant of a dotted name."""
    return re.sub(r"[^A-Z0-9]+", "_", name.upper())


def attribute_constant(attribute: Attribute) -> str:
    """The Python constant of an attribute's key. It stays when a rename changes the key."""
    return constant_name(attribute.original or attribute.key)


def read(path: Path) -> Tree:
    """A YAML file that holds one mapping."""
    return cast("Tree", yaml.safe_load(path.read_text(encoding="utf-8")))


def load(schema: Path = SCHEMA) -> Contract:
    """Return the whole contract; raises `BrokenContractError` for an undefined `ref` or `extends`."""
    layout = read(schema / "layout.yaml")
    upstream = {path.stem: read(path) for path in sorted((schema / "upstream").glob("*.yaml"))}
    renames = {group["id"]: group for group in read(schema / "renames.yaml")["groups"]}
    files = {name: read(schema / name)["groups"] for name in _files(layout)}
    buckets = read(schema / "buckets.yaml")["buckets"]
    scopes = tuple(layout["scopes"])
    reader = _Reader(files, renames["ours"], upstream, {name: row["bounds"] for name, row in buckets.items()}, scopes)
    engines = {path.stem: {"library": [], **read(path)} for path in sorted((schema / "engines").glob("*.yaml"))}
    # Signals first: following their references finds those that lead nowhere.
    metrics, spans = tuple(reader.metrics(layout["subjects"])), tuple(reader.spans())
    resource = reader.uses(files["resource.yaml"][0])
    attributes = reader.used()
    return Contract(
        metrics=_with_constants(metrics, attributes),
        spans=spans,
        resource=resource,
        attributes=attributes,
        sets=reader.sets,
        buckets=buckets,
        subjects=tuple(layout["subjects"]),
        scopes=scopes,
        renames=renames,
        engines={name: renamed(engine, reader.rename) for name, engine in engines.items()},
        inventories={name: _inventory(schema / "inventory" / f"{name}.tsv") for name in engines},
        upstream=upstream,
        deprecated=frozenset(_deprecated(schema / "upstream", upstream["gen-ai-newest"], renames["upstream"])),
    )


def renamed(tree: Any, rename: Callable[[str], str]) -> Any:
    """Return the tree with renamed keys and texts."""
    if isinstance(tree, dict):
        return {rename(key): renamed(value, rename) for key, value in tree.items()}
    if isinstance(tree, list):
        return [renamed(value, rename) for value in tree]
    return rename(tree) if isinstance(tree, str) else tree


def _with_constants(metrics: tuple[Metric, ...], attributes: Mapping[str, Attribute]) -> tuple[Metric, ...]:
    """Name the constant of each metric; one that an attribute already has gets the suffix `_METRIC`."""
    taken = {attribute_constant(attribute) for attribute in attributes.values()}
    names = {metric.original: constant_name(metric.original) for metric in metrics}
    constants = {original: f"{name}_METRIC" if name in taken else name for original, name in names.items()}
    return tuple(replace(metric, constant=constants[metric.original]) for metric in metrics)


def _files(layout: Tree) -> list[str]:
    return ["attributes.yaml", "spans.yaml", "resource.yaml", *(row["file"] for row in layout["subjects"])]


class _Reader:
    """Turns groups into signals."""

    def __init__(
        self,
        files: Mapping[str, list[Tree]],
        renames: Tree,
        upstream: Mapping[str, Tree],
        buckets: Mapping[str, list[float]],
        scopes: tuple[Tree, ...],
    ) -> None:
        self._files, self._buckets, self._scopes = files, buckets, scopes
        self._new_name: dict[str, str] = {
            row["from"]: row["to"] for kind in ("metrics", "attributes") for row in renames[kind]
        }
        self._groups = {group["id"]: group for groups in files.values() for group in groups}
        self._known = _upstream_attributes(upstream) | self._own_attributes()
        self.sets = {key: self.uses(group) for key, group in self._groups.items() if key.startswith("attributes.")}

    def rename(self, name: str) -> str:
        """The name of the rename table, or the same name."""
        return self._new_name.get(name, name)

    def _own_attributes(self) -> dict[str, Attribute]:
        rows = self._groups["registry.ai_otel"]["attributes"]
        return {row["id"]: _own_attribute(row, self.rename(row["id"])) for row in rows}

    def uses(self, group: Tree) -> tuple[Use, ...]:
        """The group's attributes after those it extends; a repeated `ref` changes the level, not the place."""
        found = {use.key: use for use in self._extended(group)}
        for row in group["attributes"]:
            if row["ref"] not in self._known:
                raise BrokenContractError(f"{group['id']}: the attribute {row['ref']} is defined nowhere.")
            use = _use(row, self._known[row["ref"]].key)
            found[use.key] = use
        return tuple(found.values())

    def _extended(self, group: Tree) -> tuple[Use, ...]:
        extended = group.get("extends")
        if extended is not None and extended not in self._groups:
            raise BrokenContractError(f"{group['id']}: extends {extended}, which is defined nowhere.")
        return self.uses(self._groups[extended]) if extended else ()

    def metrics(self, subjects: list[Tree]) -> Iterator[Metric]:
        for subject in subjects:
            for group in self._files[subject["file"]]:
                yield self._metric(group, subject["file"].removesuffix(".yaml"))

    def _metric(self, group: Tree, subject: str) -> Metric:
        own = group["annotations"]["ai_otel"]
        name, bucket_set = self.rename(group["metric_name"]), own.get("buckets")
        return Metric(
            name=name,
            constant="",  # depends on the attributes, which are not known yet
            subject=subject,
            scope=next(scope["name"] for scope in self._scopes if name.startswith(scope["namespace"])),
            instrument=group["instrument"],
            unit=group["unit"],
            value=own["value"],
            brief=group["brief"],
            note=group.get("note", ""),
            buckets=tuple(self._buckets[bucket_set]) if bucket_set in self._buckets else None,
            prometheus=prometheus_name(name, group["unit"], group["instrument"]),
            uses=self.uses(group),
            original=group["metric_name"],
            bucket_set=bucket_set,
            extends=group.get("extends"),
            refines=own.get("refines"),
        )

    def spans(self) -> Iterator[Span]:
        for group in self._files["spans.yaml"]:
            if group["type"] == "span":
                own = group["annotations"]["ai_otel"]
                yield Span(
                    id=group["id"].removeprefix("span."),
                    role=own["role"],
                    name=own["name"],
                    kinds=tuple(own["kinds"]),
                    brief=group["brief"],
                    note=group.get("note", ""),
                    uses=self.uses(group),
                )

    def used(self) -> dict[str, Attribute]:
        """The attributes of all signals and of the resource, and every attribute that ai-otel defines."""
        keys = {row["ref"] for group in self._groups.values() for row in group["attributes"] if "ref" in row}
        keys |= {key for key, attribute in self._known.items() if attribute.own}
        custom = {row["ref"]: row["annotations"]["ai_otel"] for row in self._customs()}
        found = (_with_custom(self._known[key], custom.get(key, {})) for key in sorted(keys))
        return {attribute.key: attribute for attribute in found}

    def _customs(self) -> list[Tree]:
        return cast("list[Tree]", self._groups["registry.ai_otel.custom_values"]["attributes"])


def _inventory(path: Path) -> dict[str, SourceMetric]:
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {name: SourceMetric(kind, tuple(filter(None, labels.split(",")))) for name, kind, labels in rows[1:]}


def _deprecated(folder: Path, newest: Tree, renames: Tree) -> Iterator[str]:
    """GenAI names that must not be emitted: deprecated by core and not kept by the GenAI conventions."""
    kept = {*newest["attributes"], *newest["metrics"], *newest["spans"], *newest["events"]}
    for path in sorted((folder / "deprecated").glob("*.yaml")):
        for group in read(path)["groups"]:
            names = [group.get("metric_name"), *(row.get("id") for row in group.get("attributes", ()))]
            yield from (name for name in names if name and name.startswith("gen_ai.") and name not in kept)
    yield from newest["removed_or_renamed_metrics"]
    for kind in ("metrics", "attributes"):
        yield from (row["from"] for row in renames[kind])


def _own_attribute(row: Tree, key: str) -> Attribute:
    kind = row["type"]
    members = kind["members"] if isinstance(kind, dict) else []
    return Attribute(
        key=key,
        type="string" if members else kind,
        brief=row["brief"],
        members=tuple(member["value"] for member in members),
        briefs=tuple(member["brief"] for member in members),
        constant=row.get("annotations", {}).get("ai_otel", {}).get("constant"),
        examples=tuple(str(example) for example in row.get("examples", ())),
        own=True,
        original=row["id"],
    )


def _with_custom(attribute: Attribute, custom: Tree) -> Attribute:
    if not custom:
        return attribute
    return Attribute(
        key=attribute.key,
        type=attribute.type,
        members=(*attribute.members, *custom["values"]),
        constant=custom.get("constant"),
    )


def _use(row: Tree, key: str) -> Use:
    level = row["requirement_level"]
    name, condition = next(iter(level.items())) if isinstance(level, dict) else (level, "")
    return Use(key, name, condition, bool(row.get("sampling_relevant")))


def _upstream_attributes(upstream: Mapping[str, Tree]) -> dict[str, Attribute]:
    """Type and enum of every attribute in the pinned conventions; the GenAI file wins over core."""
    found: dict[str, Attribute] = {}
    for source in ("core-attributes", "hw-metrics"):
        for key, row in upstream[source]["attributes"].items():
            found[key] = Attribute(key, row["type"], members=tuple(row.get("enum", ())))
    gen_ai = upstream["gen-ai-newest"]
    for key, kind in gen_ai["attributes"].items():
        found[key] = Attribute(key, kind, members=tuple(gen_ai["enums"].get(key, ())))
    return found
