"""Joins a role, engines, features and backends into one complete configuration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from ai_otel.collector import fragments
from ai_otel.collector.fragments import COMMON, DEFAULT_FEATURES, PAGES, FragmentError
from ai_otel.collector.merge import Tree, merge
from ai_otel.collector.text import dumped
from ai_otel.contract import load as contract

SIGNALS = ("traces", "metrics", "logs")
LEAVES = ("sidecar", "agent", "cluster")
# Features that are on by default, or that change existing components.
TAKES_WHAT_IS_THERE = (*DEFAULT_FEATURES, "local")


@dataclass(frozen=True)
class Selection:
    """The fragments of a configuration."""

    role: str
    engines: tuple[str, ...] = ()
    """Empty: all of them."""
    features: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    """`name`, or `name:signal,signal` for some signals only. Empty: the next tier, or OTLP."""

    @property
    def all_features(self) -> tuple[str, ...]:
        """Those that were asked for, beside the default ones."""
        wanted = dict.fromkeys((*DEFAULT_FEATURES, *self.features))
        return tuple(name for name in wanted if name not in self.without)

    @property
    def all_backends(self) -> tuple[str, ...]:
        """Where it sends. The first tier has the second in its own fragment."""
        if self.backends or self.role == "gateway":
            return self.backends
        return ("gateway",) if self.role in LEAVES else ("otlp",)

    @property
    def command(self) -> str:
        """How to make it again."""
        words = ["ai-otel collector render", f"--role {self.role}"]
        for flag in ("engine", "feature", "without", "backend"):
            chosen = getattr(self, flag if flag == "without" else f"{flag}s")
            words += [f"--{flag} {name}" for name in chosen]
        return " ".join(words)


@dataclass
class Composed:
    """The configuration, the comments of what it was made of, and what had to be left out."""

    tree: Tree
    headings: list[list[str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def compose(selection: Selection) -> Composed:
    """The complete configuration. Raises `FragmentError` if a fragment is unknown or has no place in the role."""
    composed = Composed({})
    _add(composed, "roles", selection.role)
    scrapes = "metrics/pages" in _pipelines(composed.tree)
    if scrapes:
        _add(composed, "roles", PAGES)
        for name in selection.engines or fragments.names("engines"):
            _add(composed, "engines", name)
        _aim(composed.tree, selection)
    elif selection.engines:
        raise FragmentError(f"the role {selection.role} scrapes no metrics endpoint, so it takes no engine")
    _add_features_and_backends(composed, selection)
    _add(composed, "roles", COMMON)
    composed.remarks += _prune(composed.tree)
    composed.headings = [lines for lines in composed.headings if lines]
    return composed


def _add(composed: Composed, kind: str, name: str) -> None:
    composed.tree = merge(composed.tree, fragments.load(kind, name))
    if kind == "roles" and name not in (COMMON, PAGES):
        composed.headings.append(fragments.heading(kind, name))


def _joined(tree: Tree, fragment_trees: Iterable[Tree]) -> Tree:
    for fragment in fragment_trees:
        tree = merge(tree, fragment)
    return tree


def _add_features_and_backends(composed: Composed, selection: Selection) -> None:
    features = {name: fragments.load("features", name) for name in selection.all_features}
    for name in selection.without:
        fragments.load("features", name)  # a name that is misspelt would leave the feature in
    ended = Composed(composed.tree)
    for backend in selection.all_backends:
        _add_backend(ended, backend, _open(composed.tree))
    for name, fragment in features.items():
        if name not in TAKES_WHAT_IS_THERE and not _has_place(ended.tree, fragment):
            raise FragmentError(f"the feature {name} has no place in this role; its first lines say which it is for")
    # Before the backends, so that a pipeline that a feature opens is ended too; and once more after them, for what
    # features say of exporters.
    composed.tree = _joined(composed.tree, features.values())
    ends = _open(composed.tree)
    for backend in selection.all_backends:
        _add_backend(composed, backend, ends)
    composed.tree = _joined(composed.tree, features.values())
    composed.headings += [fragments.heading("features", name) for name in features]


def _open(tree: Tree) -> list[str]:
    """Pipelines that end nowhere yet. One that says where it sends sends there: to the next of the same Collector."""
    return [name for name, pipeline in _pipelines(tree).items() if not pipeline.get("exporters")]


def _add_backend(composed: Composed, backend: str, open_ones: list[str]) -> None:
    """A backend, for all that it takes or for the signals that were named, at the end of the open pipelines."""
    name, _, named = backend.partition(":")
    fragment = fragments.load("backends", name)
    ((taken, pipeline),) = _pipelines(fragment).items()
    signals = named.split(",") if named else []
    for signal in signals:
        if signal not in SIGNALS:
            raise FragmentError(f"there is no signal {signal}; there are {', '.join(SIGNALS)}")
        if not fnmatchcase(signal, taken):
            raise FragmentError(f"the backend {name} takes no {signal}")
    ends = [key for key in open_ones if fnmatchcase(key, taken) and (not signals or key.partition("/")[0] in signals)]
    if not ends:
        raise FragmentError(f"the backend {name} takes nothing of what this role sends")
    fragment["service"]["pipelines"] = dict.fromkeys(ends, pipeline)
    composed.tree = merge(composed.tree, fragment)
    composed.headings.append(fragments.heading("backends", name))


def _has_place(tree: Tree, fragment: Tree) -> bool:
    """Whether the tree has one of the fragment's pipelines, or else one of its components."""
    wanted = [key for key, pipeline in _pipelines(fragment).items() if "receivers" not in pipeline]
    if wanted:
        return any(_matches(key, _pipelines(tree)) for key in wanted)
    kinds = [kind for kind in ("receivers", "processors", "exporters") if fragment.get(kind)]
    return any(_matches(key, tree.get(kind, {})) for kind in kinds for key in fragment[kind])


def _matches(key: str, names: Tree) -> bool:
    return any(fnmatchcase(name, key) for name in names)


def _pipelines(tree: Tree) -> Tree:
    pipelines: Tree = tree.get("service", {}).get("pipelines", {})
    return pipelines


# ---------------------------------------------------------------- metrics endpoints


def _aim(tree: Tree, selection: Selection) -> None:
    """Point the scrape at the usual endpoints of the selected engines; variables and annotations override it."""
    chosen = [
        name for name in selection.engines or fragments.names("engines") if contract().engines[name]["page"]["path"]
    ]
    for job in tree["receivers"]["prometheus/pages"]["config"]["scrape_configs"]:
        if "kubernetes_sd_configs" in job:
            rules = job["relabel_configs"]
            at = next(index for index, rule in enumerate(rules) if rule.get("target_label") == "__address__") + 1
            # Replaced, not changed in place: in the fragment all jobs have the same list.
            job["relabel_configs"] = [*rules[:at], *(rule for name in chosen for rule in _where(name)), *rules[at:]]
        elif len(selection.engines) == 1 and chosen:
            page = contract().engines[chosen[0]]["page"]
            (static,) = job["static_configs"]
            static["targets"] = [f"${{env:AI_OTEL_ENGINE_TARGET:-127.0.0.1:{page['port']}}}"]
            static["labels"]["__tmp_ai_otel_path"] = f"${{env:AI_OTEL_ENGINE_PATH:-{page['path']}}}"
            static["labels"]["ai_otel_engine"] = f"${{env:AI_OTEL_ENGINE:-{chosen[0]}}}"


def _where(name: str) -> Iterator[Tree]:
    """Relabelling rules for an engine whose metrics endpoint is not port 8000 and /metrics."""
    page = contract().engines[name]["page"]
    engine = "__meta_kubernetes_pod_annotation_ai_otel_io_engine"
    if page["port"] != 8000:
        yield {
            "source_labels": ["__meta_kubernetes_pod_ip", engine],
            "regex": f"(.+);{name}",
            "target_label": "__address__",
            "replacement": f"$${{1}}:{page['port']}",
        }
    if page["path"] != "/metrics":
        yield {
            "source_labels": [engine],
            "regex": name,
            "target_label": "__metrics_path__",
            "replacement": page["path"],
        }


# ---------------------------------------------------------------- what nothing needs


def _prune(tree: Tree) -> list[str]:
    """Take out pipelines that lead nowhere, then components that none of the rest uses; say which signals go."""
    pipelines, connectors = _pipelines(tree), tree.get("connectors", {})
    before = list(pipelines)
    changed = True
    while changed:
        sent = {name for pipeline in pipelines.values() for name in pipeline.get("exporters", ())}
        read = {name for pipeline in pipelines.values() for name in pipeline.get("receivers", ())}
        for pipeline in pipelines.values():
            pipeline["exporters"] = [n for n in pipeline.get("exporters", ()) if n not in connectors or n in read]
            pipeline["receivers"] = [n for n in pipeline.get("receivers", ()) if n not in connectors or n in sent]
        empty = [name for name, pipeline in pipelines.items() if not pipeline["exporters"] or not pipeline["receivers"]]
        for name in empty:
            del pipelines[name]
        changed = bool(empty)
    for kind in ("receivers", "processors", "exporters", "connectors"):
        _keep(tree, kind, pipelines)
    gone = [name for name in before if name not in pipelines]
    return [f"left out, because no backend here takes it: {', '.join(gone)}"] if gone else []


def _keep(tree: Tree, kind: str, pipelines: Tree) -> None:
    lists = ("receivers", "exporters") if kind == "connectors" else (kind,)
    used = {name for pipeline in pipelines.values() for place in lists for name in pipeline.get(place, ())}
    tree[kind] = {name: value for name, value in tree.get(kind, {}).items() if name in used}
    if not tree[kind]:
        del tree[kind]


SECTIONS = ("extensions", "receivers", "connectors", "processors", "exporters", "service")


def write(composed: Composed, selection: Selection, *, packed: bool = False) -> str:
    """The text of the file: its command, the variables that it reads, and the configuration, `packed` or in blocks."""
    head = [f"Generated by `{selection.command}`. Change the fragments, not this file.", ""]
    for lines in composed.headings:
        head += [*lines, ""]
    comment = "\n".join(f"# {line}".rstrip() for line in head[:-1])
    ordered = {kind: composed.tree[kind] for kind in SECTIONS if kind in composed.tree}
    return f"{comment}\n{dumped(ordered, packed=packed)}"
