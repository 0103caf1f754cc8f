"""The variables that only a Collector reads."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from ai_otel.inputs.collector_variables import COLLECTOR_VARIABLES
from ai_otel.settings import PREFIX, Settings

FRAGMENTS = Path(__file__).parents[3] / "collector-config"


def test_they_are_those_of_the_fragments() -> None:
    texts = (
        path.read_text(encoding="utf-8")
        for folder in ("roles", "features", "backends", "generated/features")
        for path in (FRAGMENTS / folder).glob("*.yaml")
    )
    assert {name for text in texts for name in re.findall(r"env:(AI_OTEL_[A-Z0-9_]+)", text)} == COLLECTOR_VARIABLES


def test_none_is_a_setting() -> None:
    assert not {PREFIX + option.name.upper() for option in fields(Settings)} & COLLECTOR_VARIABLES
