"""Writes everything that is generated from the contract: `python tools/generate.py`, or `--check` to only compare."""

from __future__ import annotations

import sys
from pathlib import Path

from generator import compiled, metrics_page, python_names, rules
from generator.model import ROOT, BrokenContractError, Contract, load

OUTPUTS = {
    "src/ai_otel/semconv.py": python_names.render,
    "src/ai_otel/schema/contract.json": compiled.render,
    "docs/metrics.md": metrics_page.render,
}


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
    stale = [name for name, render in OUTPUTS.items() if _text(root / name) != render(contract)]
    for name in stale:
        print(f"{name} is stale", file=sys.stderr)
    if stale:
        print("run: python tools/generate.py", file=sys.stderr)
    return 1 if stale else 0


def write(contract: Contract, root: Path = ROOT) -> int:
    """Write every file that changed."""
    for name, render in OUTPUTS.items():
        text = render(contract)
        if _text(root / name) != text:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return 0


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
