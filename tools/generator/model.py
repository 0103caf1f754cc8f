"""The contract as Python values: reads the YAML, follows `extends` and `ref`, applies our renames."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "src" / "ai_otel" / "schema"

Tree = dict[str, Any]
LEVELS = {"req": "required", "cond": "conditionally_required", "rec": "recommended", "opt": "opt_in"}


class BrokenContractError(Exception):
    """The schema files do not hang together; the message is a sentence that names the place."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute key. `members` is empty for anything but an enum; `own` says that we define it."""

    key: str
    type: str
    brief: str = ""
    members: tuple[str, ...] = ()
    briefs: tuple[str, ...] = ()
    constant: str | None = None
    examples: tuple[str, ...] = ()
    own: bool = False
    original: str = ""

    @property
    def name(self) -> str:
        """The constant's name. It stays when a rename changes the key."""
        return constant_name(self.original or self.key)


@dataclass(frozen=True, slots=True)
class Use:
    """An attribute in a signal's list, with its requirement level."""

    key: str
    level: str
    condition: str = ""
    sampling: bool = False


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `extends` is the attribute set it builds on."""

    name: str
    original: str
    subject: str
    instrument: str
    unit: str
    value: str
    brief: str
    note: str
    buckets: str | None
    extends: str | None
    uses: tuple[Use, ...]
    refines: str | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of every attribute it may carry."""
        return tuple(use.key for use in self.uses)


@dataclass(frozen=True, slots=True)
class Span:
    """One kind of span."""

    id: str
    role: str
    name: str
    kinds: tuple[str, ...]
    brief: str
    note: str
    uses: tuple[Use, ...]


@dataclass(frozen=True, slots=True)
class Native:
    """One row of an engine's inventory. A type or labels of `?` were not read."""

    type: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Contract:
    """Everything in the schema folder."""

    attributes: Mapping[str, Attribute]
    sets: Mapping[str, tuple[Use, ...]]
    metrics: tuple[Metric, ...]
    spans: tuple[Span, ...]
    resource: tuple[Use, ...]
    buckets: Mapping[str, Tree]
    subjects: tuple[Tree, ...]
    scopes: tuple[Tree, ...]
    renames: Mapping[str, Tree]
    engines: Mapping[str, Tree]
    inventories: Mapping[str, Mapping[str, Native]]
    upstream: Mapping[str, Tree]
    deprecated: frozenset[str]

    def metric(self, name: str) -> Metric | None:
        """The metric of that name, if there is one."""
        return next((metric for metric in self.metrics if metric.name == name), None)


def constant_name(name: str) -> str:
    """The Python constant of a dotted name."""
    return re.sub(r"[^A-Z0-9]+", "_", name.upper())


def read(path: Path) -> Tree:
    """A YAML file that holds one mapping."""
    return cast("Tree", yaml.safe_load(path.read_text(encoding="utf-8")))


def load(schema: Path = SCHEMA) -> Contract:
    """The whole contract. Raises where a `ref` or `extends` leads nowhere; `rules` finds everything else."""
    layout = read(schema / "layout.yaml")
    upstream = {path.stem: read(path) for path in sorted((schema / "upstream").glob("*.yaml"))}
    renames = {group["id"]: group for group in read(schema / "renames.yaml")["groups"]}
    files = {name: read(schema / name)["groups"] for name in _files(layout)}
    reader = _Reader(files, renames["ours"], upstream)
    engines = {path.stem: {"library": [], **read(path)} for path in sorted((schema / "engines").glob("*.yaml"))}
    return Contract(
        # In this order: following the signals' references tells which one leads nowhere.
        metrics=tuple(reader.metrics(layout["subjects"])),
        spans=tuple(reader.spans()),
        resource=reader.uses(files["resource.yaml"][0]),
        attributes=reader.used(),
        sets=reader.sets,
        buckets=read(schema / "buckets.yaml")["buckets"],
        subjects=tuple(layout["subjects"]),
        scopes=tuple(layout["scopes"]),
        renames=renames,
        engines={name: renamed(engine, reader.rename) for name, engine in engines.items()},
        inventories={name: _inventory(schema / "inventory" / f"{name}.tsv") for name in engines},
        upstream=upstream,
        deprecated=frozenset(_deprecated(schema / "upstream", upstream["gen-ai-newest"], renames["upstream"])),
    )


def renamed(tree: Any, rename: Callable[[str], str]) -> Any:
    """The same tree, with every key and every text replaced that is a name with a successor."""
    if isinstance(tree, dict):
        return {rename(key): renamed(value, rename) for key, value in tree.items()}
    if isinstance(tree, list):
        return [renamed(value, rename) for value in tree]
    return rename(tree) if isinstance(tree, str) else tree


def _files(layout: Tree) -> list[str]:
    return ["attributes.yaml", "spans.yaml", "resource.yaml", *(row["file"] for row in layout["subjects"])]


class _Reader:
    """Turns groups into signals."""

    def __init__(self, files: Mapping[str, list[Tree]], renames: Tree, upstream: Mapping[str, Tree]) -> None:
        self._files = files
        self._new_name: dict[str, str] = {
            row["from"]: row["to"] for kind in ("metrics", "attributes") for row in renames[kind]
        }
        self._groups = {group["id"]: group for groups in files.values() for group in groups}
        self._known = _upstream_attributes(upstream) | self._own_attributes()
        self.sets = {key: self.uses(group) for key, group in self._groups.items() if key.startswith("attributes.")}

    def rename(self, name: str) -> str:
        """The name that the rename table gives, if it has the name at all."""
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
        ours = group["annotations"]["ai_otel"]
        return Metric(
            name=self.rename(group["metric_name"]),
            original=group["metric_name"],
            subject=subject,
            instrument=group["instrument"],
            unit=group["unit"],
            value=ours["value"],
            brief=group["brief"],
            note=group.get("note", ""),
            buckets=ours.get("buckets"),
            extends=group.get("extends"),
            uses=self.uses(group),
            refines=ours.get("refines"),
        )

    def spans(self) -> Iterator[Span]:
        for group in self._files["spans.yaml"]:
            if group["type"] == "span":
                ours = group["annotations"]["ai_otel"]
                yield Span(
                    id=group["id"].removeprefix("span."),
                    role=ours["role"],
                    name=ours["name"],
                    kinds=tuple(ours["kinds"]),
                    brief=group["brief"],
                    note=group.get("note", ""),
                    uses=self.uses(group),
                )

    def used(self) -> dict[str, Attribute]:
        """The attributes of any signal or of the resource, and every one that we define ourselves."""
        keys = {row["ref"] for group in self._groups.values() for row in group["attributes"] if "ref" in row}
        keys |= {key for key, attribute in self._known.items() if attribute.own}
        custom = {row["ref"]: row["annotations"]["ai_otel"] for row in self._customs()}
        found = (_with_custom(self._known[key], custom.get(key, {})) for key in sorted(keys))
        return {attribute.key: attribute for attribute in found}

    def _customs(self) -> list[Tree]:
        return cast("list[Tree]", self._groups["registry.ai_otel.custom_values"]["attributes"])


def _inventory(path: Path) -> dict[str, Native]:
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {name: Native(kind, tuple(filter(None, labels.split(",")))) for name, kind, labels in rows[1:]}


def _deprecated(folder: Path, newest: Tree, renames: Tree) -> Iterator[str]:
    """Every GenAI name that must not be emitted: what core deprecated and the GenAI conventions did not keep."""
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
