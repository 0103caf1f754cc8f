"""Writes the sidecar of an engine for Kustomize and for the Operator: `python tools/sidecar.py ENGINE...`."""

from __future__ import annotations

import sys

from ai_otel.collector import fragments
from generator import kustomize, operator
from generator.model import ROOT, load


def main(engines: list[str]) -> int:
    """Write the files of each engine; 2 if an engine is unknown."""
    contract = load()
    unknown = [engine for engine in engines if engine not in contract.engines]
    if unknown or not engines:
        known = ", ".join(fragments.names("engines"))
        print(f"unknown engine {', '.join(unknown) or '(none given)'}; known are {known}", file=sys.stderr)
        return 2
    for engine in engines:
        for name, render in (kustomize.sidecar(engine) | operator.sidecar(engine)).items():
            (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / name).write_text(render(contract), encoding="utf-8")
            print(f"wrote {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
