"""The feature `redaction`: each form of the corpus in each place of OTLP."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.collector.process import composed, exports, running
from harness.collector.redaction import Case, cases
from harness.collector.redaction_places import LIMITS, TEXTS, WORDS, Place, arrived, leaked, requests
from harness.polling import eventually
from harness.telemetry.otlp_json import send

pytestmark = pytest.mark.requires(part="collector")

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs" / "collector.md"
# Those that are secrets wherever they stand, not for the key above them.
BY_KEY = {"bodies of events", "secrets by key", "keys in any case"}
FORMS = [
    case
    for case in cases(HERE / "redaction" / "positives.yaml")
    if not case.gone and case.kind not in BY_KEY and isinstance(case.marked, str)
]
# What a program's word is searched for.
PLAIN = re.compile(r"@|=|%40|[0-9]{9}")


def leaks(forms: list[Case], places: Mapping[str, Place], directory: Path) -> list[str]:
    """What still left, as "place: form"."""
    sent = [
        (f"{place}|{number}", lay, case.value)
        for place, lay in places.items()
        for number, case in enumerate(forms)
        if case.value
    ]
    found = arrived(through(sent, directory))
    complaints = []
    for name, _, text in sent:
        place, number = name.split("|")
        if secret := leaked(forms[int(number)].secrets, found[name]):
            complaints.append(f"{place}: {secret!r} of {text!r}")
    print(f"{len(forms)} forms in {len(places)} places: {len(complaints)} of {len(sent)} leaked")
    return complaints


def through(sent: list[tuple[str, Place, str]], directory: Path) -> list[dict[str, Any]]:
    """What came out of the Collector."""
    out = directory / "out.jsonl"
    tree = composed(
        role="sidecar",
        engines=("vllm",),
        features=("redaction", "local"),
        without=("persistence",),
        backends=("file",),
    )
    with running(tree, directory, {"AI_OTEL_SCRAPE_INTERVAL": "1h"}) as collector:
        for signal, request in requests(sent):
            send(collector.ports["http"], signal, request)
        eventually(lambda: len(arrived(exports(out))) == len(sent), 60, lambda: collector.output()[-4000:])
    return exports(out)


@pytest.mark.fault(
    "collector",
    "a secret stands anywhere in OTLP: a name, a status, a trace state, a list in a map, a scope, an exemplar",
    "each of more than 300 forms is masked in each of 39 places",
)
def test_no_form_leaks_in_any_place(tmp_path: Path) -> None:
    found = leaks(FORMS, TEXTS, tmp_path)
    assert not found, "\n".join(found)


@pytest.mark.fault(
    "collector",
    "the key of an attribute or the name of a metric holds an e-mail address or a card's number",
    "the attribute is deleted, the name is masked",
)
def test_no_address_and_no_long_number_leaks_in_a_programs_words(tmp_path: Path) -> None:
    found = leaks([case for case in FORMS if all(map(PLAIN.search, case.secrets))], WORDS, tmp_path)
    assert not found, "\n".join(found)


def test_the_places_that_cannot_be_searched_are_in_the_documentation(tmp_path: Path) -> None:
    form = next(case for case in FORMS if case.secrets == ["jane@example.org"])
    found = leaks([form], LIMITS, tmp_path)
    assert [complaint.split(":")[0] for complaint in found] == list(LIMITS), "no limit any more: move it to TEXTS"
    page = DOCS.read_text(encoding="utf-8")
    assert not [place for place in LIMITS if place not in page]
