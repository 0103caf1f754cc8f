"""YAML text of configurations: readable block style, or with long components on one line each."""

from __future__ import annotations

from typing import Any

PACKED_CHARACTERS = 2000


def dumped(tree: dict[str, Any], *, packed: bool = False) -> str:
    """
    YAML of a configuration, in the order of its keys and without anchors.

    `packed` writes a component (a processor, a receiver) of more than `PACKED_CHARACTERS` on one line, in flow style.
    """
    import yaml

    class Flow(dict[str, Any]):
        """A mapping on one line."""

    class Dumper(yaml.SafeDumper):
        """Without anchors: each component can be read by itself."""

        def ignore_aliases(self, _data: object) -> bool:
            return True

    Dumper.add_representer(
        Flow, lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", data, flow_style=True)
    )

    def fitted(value: Any) -> Any:
        is_long = isinstance(value, dict) and len(repr(value)) > PACKED_CHARACTERS
        return Flow(value) if is_long else value

    if packed:
        tree = {
            kind: {name: fitted(value) for name, value in section.items()} if isinstance(section, dict) else section
            for kind, section in tree.items()
        }
    width = float("inf") if packed else 10_000
    text: str = yaml.dump(tree, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=width)
    return text
