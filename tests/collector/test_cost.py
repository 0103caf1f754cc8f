"""What redaction and sampling cost beside receiving alone, in CPU time: one binary, the same traces, in turn."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from harness.collector.cost import TRACES, Traffic, gateways, turn

pytestmark = pytest.mark.requires(part="collector")

CHOICES: Mapping[str, tuple[str, ...]] = {
    "plain": (),
    "redaction": ("redaction",),
    "both": ("redaction", "tail_sampling"),
}
TURNS = 3


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """For each kind of trace and each choice of features, the least CPU time of a span."""
    found = {}
    with gateways(CHOICES, tmp_path_factory.mktemp("gateways")) as collectors:
        for kind, requests in (("small spans", 100), ("texts of 8 kB, under an unknown key", 10)):
            traffic = Traffic(TRACES[kind])
            turns = [turn(collectors, traffic, requests) for _ in range(TURNS)]
            found[kind] = {name: min(costs[name].seconds for costs in turns) for name in CHOICES}
    print({kind: {name: f"{1e6 * cost:.1f} µs" for name, cost in of.items()} for kind, of in found.items()})
    return found


@pytest.mark.fault(
    "collector",
    "every value of every span stands against more than 300 expressions for secrets",
    "a span takes at most three times the CPU time that receiving it does, and four and a half with tail sampling",
)
@pytest.mark.parametrize(("choice", "most"), [("redaction", 3.0), ("both", 4.5)])
def test_redaction_and_sampling_cost_a_small_multiple_of_receiving(
    costs: dict[str, dict[str, float]], choice: str, most: float
) -> None:
    small = costs["small spans"]
    assert small[choice] <= most * small["plain"], small


@pytest.mark.fault(
    "collector",
    "spans carry texts of 8 kB under keys that redaction does not know, which it must search",
    "a span of these takes less than ten times the CPU time that receiving it does",
)
def test_long_texts_are_searched_at_a_bounded_cost(costs: dict[str, dict[str, float]]) -> None:
    long = costs["texts of 8 kB, under an unknown key"]
    assert long["redaction"] <= 10 * long["plain"], long
