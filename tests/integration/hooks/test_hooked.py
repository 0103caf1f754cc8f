"""Hooked functions are pickled for other processes as they would be without a hook."""

from __future__ import annotations

import fractions
import multiprocessing

import pytest

from ai_otel.hooks.patch import Patcher
from ai_otel.hooks.point import HookPoint, Rung


@pytest.mark.fault(
    "requests", "a hooked method is sent to a pool of spawned processes", "it is pickled by its name, and called"
)
def test_a_pool_of_spawned_processes_maps_a_hooked_method() -> None:
    """As `Pool.map(llm.generate, prompts)`, with a class of the standard library, which the processes can import."""
    patcher = Patcher("fake")
    point = HookPoint("fractions:Fraction.limit_denominator", reads=(), versions=">=0", rung=Rung.PUBLIC, why="a test")
    patcher.call(point, lambda *_: None)
    try:
        assert [attachment.state for attachment in patcher.attachments] == ["attached"]
        half = fractions.Fraction(1, 2)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.map(half.limit_denominator, [10, 20]) == [half, half]
    finally:
        patcher.undo()
