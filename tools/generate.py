"""Writes everything that is generated from the contract: `python tools/generate.py`, or `--check` to only compare."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from ai_otel.cli.slo import template
from ai_otel.collector.compose import Selection, compose, write as write_configuration
from ai_otel.collector.fragments import ROLES
from ai_otel.slo.objective import parsed
from ai_otel.slo.rules import write as write_rules
from generator import (
    chart,
    compiled,
    derived,
    dialects,
    kustomize,
    metrics_page,
    normaliser,
    operator,
    python_names,
    redaction,
    robustness,
    rules,
)
from generator.model import ROOT, BrokenContractError, Contract, load

Render = Callable[[Contract], str]

GENERATED = "collector-config/generated"


def outputs(contract: Contract) -> dict[str, Render]:
    """Every generated file, in an order in which none is made of a later one."""
    engines: dict[str, Render] = {
        f"{GENERATED}/engines/{name}.yaml": functools.partial(normaliser.render, name) for name in contract.engines
    }
    return {
        "src/ai_otel/semconv.py": python_names.render,
        "src/ai_otel/schema/contract.json": compiled.render,
        "docs/metrics.md": metrics_page.render,
        "docs/robustness.md": robustness.render,
        **engines,
        f"{GENERATED}/features/names.yaml": dialects.render,
        f"{GENERATED}/features/redaction.yaml": redaction.render,
        f"{GENERATED}/features/span_to_metric.yaml": derived.render,
        **{f"{GENERATED}/roles/{role}.yaml": functools.partial(_role, role) for role in ROLES},
        **chart.outputs(contract),
        **kustomize.outputs(contract),
        **operator.outputs(contract),
        "collector-config/kubernetes/slo/generated/prometheusrule.yaml": _slo_rules,
    }


def _role(role: str, _: Contract) -> str:
    """The shipped file of a role: what `ai-otel collector render` prints by default, long components packed."""
    selection = Selection(role)
    return write_configuration(compose(selection), selection, packed=True)


def _slo_rules(_: Contract) -> str:
    """The rules of the template: what `ai-otel slo render` prints."""
    return write_rules(parsed(yaml.safe_load(template().read_text(encoding="utf-8"))))


def main(arguments: list[str]) -> int:
    """Exit status: 0 when all is written or fresh, 1 when the contract is broken or a file is stale."""
    try:
        contract = load()
    except BrokenContractError as broken_contract:
        print(broken_contract, file=sys.stderr)
        return 1
    broken = rules.violations(contract)
    for sentence in broken:
        print(sentence, file=sys.stderr)
    if broken:
        return 1
    for sentence in rules.remarks(contract):
        print(sentence)
    return check(contract) if "--check" in arguments else write(contract)


def check(contract: Contract, root: Path = ROOT) -> int:
    """Name the files that are not what the contract says."""
    stale = [name for name, render in outputs(contract).items() if _text(root / name) != render(contract)]
    stale += [f"{path.relative_to(root)} (of no engine)" for path in _orphans(contract, root)]
    for name in stale:
        print(f"{name} is stale", file=sys.stderr)
    if stale:
        print("run: python tools/generate.py", file=sys.stderr)
    return 1 if stale else 0


def write(contract: Contract, root: Path = ROOT) -> int:
    """Write every file that changed."""
    for path in _orphans(contract, root):
        path.unlink()
        print(f"removed {path.relative_to(root)}")
    for name, render in outputs(contract).items():
        text = render(contract)
        if _text(root / name) != text:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return 0


def _orphans(contract: Contract, root: Path) -> list[Path]:
    """Files of engines that the contract no longer has."""
    engines = (root / GENERATED / "engines").glob("*.yaml")
    gone = [path for path in engines if path.stem not in contract.engines]
    return [
        *gone,
        *chart.orphans(contract, root),
        *kustomize.orphans(contract, root),
        *operator.orphans(contract, root),
    ]


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
