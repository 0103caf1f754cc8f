"""Writes every dashboard: `python collector-config/dashboards/src/build.py`, or `--check` to only compare.

Needs Python 3.11 and the `dev` dependencies. `--contract` and `--out` are for tests: another contract, another place.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

if sys.version_info < (3, 11):
    sys.exit("dashboards are built on Python 3.11 or newer: make setup PYTHON=python3.12")

from names import CONTRACT, Contract, UnknownNameError

with warnings.catch_warnings():
    # The SDK would rather have us use the v2 model; classic JSON is what every Grafana in use can import.
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.dashboard import Dashboard
    from overview import overview

PLACE = Path(__file__).parents[1]
# The Helm chart cannot read outside of its directory; its copy is on one line.
CHART = Path(__file__).parents[2] / "kubernetes/chart/files/generated/dashboards"
DASHBOARDS: dict[str, Callable[[Contract], Dashboard]] = {"overview": overview}


def render(name: str, contract: Contract) -> str:
    """The text of one dashboard's file."""
    return JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False).encode(DASHBOARDS[name](contract)) + "\n"


def main() -> int:
    """Exit status: 0 when all is written or fresh, 1 when a name is unknown or a file is stale."""
    parser = argparse.ArgumentParser(description="Writes every dashboard.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is stale")
    parser.add_argument("--contract", type=Path, default=CONTRACT, help="the compiled contract")
    parser.add_argument("--out", type=Path, help="where the files are; left out: here, and in the chart")
    asked = parser.parse_args()
    stale = []
    try:
        contract = Contract(asked.contract)
        for name in DASHBOARDS:
            rendered = render(name, contract)
            copies = {(asked.out or PLACE) / f"{name}.json": rendered}
            if not asked.out:
                copies[CHART / f"{name}.json"] = json.dumps(json.loads(rendered), ensure_ascii=False) + "\n"
            for path, text in copies.items():
                if not path.exists() or path.read_text(encoding="utf-8") != text:
                    stale.append(path)
                    if not asked.check:
                        path.write_text(text, encoding="utf-8")
    except UnknownNameError as unknown:
        sys.stderr.write(f"{unknown}\n")
        return 1
    for path in stale:
        sys.stderr.write(f"{path} is stale; run: python {Path(__file__).name}\n" if asked.check else f"wrote {path}\n")
    return 1 if stale and asked.check else 0


if __name__ == "__main__":
    sys.exit(main())
