"""Reads a dashboard's JSON as Grafana would ask it: every query of every panel, with the variables filled in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Tree = dict[str, Any]

DIRECTORY = Path(__file__).parents[3] / "collector-config/dashboards"
FILES = sorted(DIRECTORY.glob("*.json"))

# What Grafana fills in itself.
BUILT_IN = {"__rate_interval": "5m", "__interval": "1m", "__range": "1h"}


@dataclass(frozen=True)
class Asked:
    """One query of a panel."""

    panel: str
    letter: str
    expression: str
    legend: str
    exemplars: bool


class Dashboard:
    """One dashboard in classic JSON."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self.tree: Tree = json.loads(path.read_text(encoding="utf-8"))

    @property
    def panels(self) -> list[Tree]:
        """All of them, those within collapsed rows too."""
        top = self.tree["panels"]
        return [*top, *(inner for panel in top for inner in panel.get("panels", ()))]

    @property
    def drawn(self) -> list[Tree]:
        """Those that show data."""
        return [panel for panel in self.panels if panel["type"] != "row"]

    @property
    def variables(self) -> list[Tree]:
        variables: list[Tree] = self.tree["templating"]["list"]
        return variables

    @property
    def queries(self) -> list[Asked]:
        """Every query of every panel."""
        return [
            Asked(panel["title"], target["refId"], target["expr"], target["legendFormat"], target["exemplar"])
            for panel in self.drawn
            for target in panel["targets"]
        ]

    @property
    def splits(self) -> list[str]:
        """Every value that the variable `split` offers."""
        (split,) = [variable for variable in self.variables if variable["name"] == "split"]
        return [option["value"] for option in split["options"]]

    @property
    def choices(self) -> dict[str, tuple[str, str]]:
        """Of each variable that is asked from Prometheus: the selector and the label."""
        found = {}
        for variable in self.variables:
            if variable["type"] == "query":
                asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
                assert asked is not None, variable["query"]
                found[variable["name"]] = (asked[1], asked[2])
        return found

    def filled(self, text: str, **chosen: str) -> str:
        """A query in which every variable has a value: `chosen`, else all there is."""
        values = {**BUILT_IN, **dict.fromkeys(self.choices, ".*"), **chosen}
        return re.sub(r"\$(\w+)", lambda name: values[name[1]], text)

    def everything_asked(self) -> Iterator[tuple[Asked, str]]:
        """Every query under every split that it depends on, filled in."""
        for asked in self.queries:
            for split in self.splits if "$split" in asked.expression else self.splits[:1]:
                yield asked, self.filled(asked.expression, split=split)


def places(tree: Any, key: str) -> Iterator[Any]:
    """Every value that stands under a key, wherever it is."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key:
                yield value
            yield from places(value, key)
    elif isinstance(tree, list):
        for value in tree:
            yield from places(value, key)
