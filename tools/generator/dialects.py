"""Writes generated/features/names.yaml from schema/dialects.yaml: others' names into the current ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from generator import ottl
from generator.model import SCHEMA, BrokenContractError, Contract, Tree, read
from generator.normaliser import dump

HEAD = """\
# Generated from src/ai_otel/schema/dialects.yaml by `make generate`. Do not edit.
# Names: attributes of {titles}
# become the conventions' current ones, in spans, their events and logs. For every role that takes OTLP.
#
# A name that is already there is never overwritten; what has no name in the conventions stays as it is.
"""

# For a type of the conventions: what converts into it, and what the text of a convertible value form like.
CASTS = {
    "int": ("Int", "^-?[0-9]{1,18}$"),
    "double": ("Double", "^-?[0-9]+([.][0-9]+)?([eE][-+]?[0-9]+)?$"),
    "boolean": ("Bool", "^(?i:true|false)$"),
}


@dataclass(frozen=True)
class Place:
    """Where attributes stand: the prefix of their path in OTTL."""

    name: str

    def attribute(self, key: str) -> str:
        """One attribute."""
        return f"{self.name}.attributes[{ottl.text(key)}]"

    def delete(self, key: str, where: str) -> str:
        """Take one off."""
        return ottl.do(ottl.call("delete_key", f"{self.name}.attributes", ottl.text(key)), where)


def render(contract: Contract) -> str:
    """The text of the file."""
    titles = [group["title"] for group in groups(contract)]
    return HEAD.format(titles=f"{', '.join(titles[:-1])}, and {titles[-1]}") + dump(fragment(contract))


def fragment(contract: Contract) -> Tree:
    """The processor, and the pipelines that it belongs into."""
    kinds = types(contract)
    statements = {"trace": [*_groups("span", contract, kinds), *_groups("spanevent", contract, kinds)]}
    statements["log"] = list(_groups("log", contract, kinds))
    processor = {"error_mode": "ignore", **{f"{signal}_statements": found for signal, found in statements.items()}}
    # Once: what a connector hands on within one Collector has its names already.
    pipelines = {f"{signal}/otlp*": {"processors": ["transform/names"]} for signal in ("traces", "logs")}
    return {"processors": {"transform/names": processor}, "service": {"pipelines": pipelines}}


def groups(contract: Contract) -> list[Tree]:
    """The dialects, each with all of its rows."""
    found: list[Tree] = read(SCHEMA / "dialects.yaml")["groups"]
    return [{**group, "attributes": list(_rows(group, contract))} for group in found]


def _rows(group: Tree, contract: Contract) -> Iterator[Tree]:
    yield from group.get("attributes", ())
    for row in contract.renames[group["renames"]]["attributes"] if "renames" in group else ():
        yield {"from": row["from"], "to": row["to"][0], **group["values"].get(row["from"], {})}


def types(contract: Contract) -> dict[str, str]:
    """The type of every attribute that a row may lead to."""
    return {
        **contract.upstream["gen-ai-newest"]["attributes"],
        **{key: attribute.type for key, attribute in contract.attributes.items()},
    }


# ---------------------------------------------------------------- statements


def _groups(place: str, contract: Contract, kinds: Mapping[str, str]) -> Iterator[Tree]:
    for dialect in groups(contract):
        if place not in dialect["places"]:
            continue
        at = Place(place)
        group: Tree = {"context": place}
        if "guard" in dialect:
            group["conditions"] = [f"{at.attribute(dialect['guard'])} != nil"]
        # A text that claims to be JSON and is none is no reason to say so for every span.
        silent = {"error_mode": "silent"} if any("json" in row for row in dialect["attributes"]) else {}
        statements = [statement for row in dialect["attributes"] for statement in _row(at, row, kinds)]
        yield {**group, **silent, "statements": statements}


def _row(at: Place, row: Tree, kinds: Mapping[str, str]) -> Iterator[str]:
    if "json" in row:
        yield from _json(at, row, kinds)
        return
    old, new, kind = at.attribute(row["from"]), at.attribute(row["to"]), _type(row["to"], kinds)
    applies = ottl.every(f"{old} != nil", *_conditions(at, row))
    absent = ottl.every(applies, f"{new} == nil")
    for before, after in row.get("values", {}).items():
        yield ottl.do(ottl.call("set", new, ottl.text(after)), f"{absent} and {old} == {ottl.text(before)}")
    if "values" not in row or row.get("rest") == "same":
        yield from _converted(new, old, kind, absent)
    if not row.get("keep"):
        yield at.delete(row["from"], ottl.every(applies, _taken(old, new, row)))


def _conditions(at: Place, row: Tree) -> Iterator[str]:
    for key, value in row.get("when", {}).items():
        yield f"{at.attribute(key)} == {ottl.text(value)}"
    if "with_any" in row:
        yield ottl.either(f"{at.attribute(key)} != nil" for key in row["with_any"])
    if "without" in row:
        yield f"{at.attribute(row['without'])} == nil"


def _taken(old: str, new: str, row: Tree) -> str:
    """Whether nothing is lost when the old one goes."""
    if "values" in row and row.get("rest") != "same":
        return ottl.either(f"{old} == {ottl.text(before)}" for before in row["values"])
    return f"{new} != nil"


def _converted(new: str, old: str, kind: str, where: str) -> Iterator[str]:
    if kind in CASTS:
        cast, form = CASTS[kind]
        yield ottl.do(
            ottl.call("set", new, ottl.call(cast, old)), f"{where} and {ottl.call('IsMatch', old, ottl.text(form))}"
        )
    elif kind == "string[]":
        yield ottl.do(ottl.call("set", new, old), f"{where} and IsList({old})")
        yield ottl.do(ottl.call("set", new, f"[{old}]"), f"{where} and IsString({old})")
    else:
        yield ottl.do(ottl.call("set", new, old), where)


def _json(at: Place, row: Tree, kinds: Mapping[str, str]) -> Iterator[str]:
    old, parsed = at.attribute(row["from"]), f'{at.name}.cache["{row["from"]}"]'
    yield ottl.do(ottl.call("set", parsed, ottl.call("ParseJSON", old)), f'IsString({old}) and HasPrefix({old}, "{{")')
    for key, target in row["json"].items():
        value, new = f"{parsed}[{ottl.text(key)}]", at.attribute(target)
        where = f"{parsed} != nil and {value} != nil and {new} == nil"
        yield from _converted(new, value, _type(target, kinds), where)


def _type(target: str, kinds: Mapping[str, Any]) -> str:
    if target not in kinds:
        raise BrokenContractError(f"dialects.yaml: {target} is no attribute of the pinned conventions or of ai-otel")
    return str(kinds[target])
