from __future__ import annotations

import pytest

from ai_otel.hooks.point import HookPoint, Rung, in_range, release_numbers


@pytest.mark.parametrize(
    ("version", "bounds", "inside"),
    [
        ("0.12", "", True),
        ("0.12", ">=0.12,<0.40", True),
        ("0.12.0", ">=0.12,<0.40", True),
        ("0.11.9", ">=0.12,<0.40", False),
        ("0.40", ">=0.12,<0.40", False),
        ("0.40.0", ">=0.12, < 0.40", False),
        ("0.39.99", ">=0.12,<0.40", True),
        ("0.9", "<0.12", True),
        ("1", ">0.99", True),
        ("1.0", "==1", True),
        ("1.0.1", "==1", False),
        ("1.2", "<=1.2.0", True),
        ("1.2.1", "<=1.2", False),
        ("1.2", ">1.2", False),
        # What is around the release number does not say which code a release line holds.
        ("0.32.0+cpu", "==0.32", True),
        ("0.32.0rc1", ">=0.32", True),
        ("0.32.1.dev7+g1234", ">=0.32.1,<0.33", True),
        ("v0.32.0", "==0.32", True),
        ("b11549", ">=1", False),
        ("", "<1", True),
        ("1.0", " >=0.5 ,, <2 ", True),
    ],
)
def test_release_numbers_decide(version: str, bounds: str, inside: bool) -> None:
    assert in_range(version, bounds) is inside


@pytest.mark.parametrize("bounds", ["0.12", "~=0.12", "!=0.12", ">=", "=>1"])
def test_a_bad_bound_says_how_to_write_it(bounds: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        in_range("0.12", bounds)


def test_release_numbers_compare_as_numbers() -> None:
    assert release_numbers("0.9") < release_numbers("0.10") < release_numbers("0.10.1") < release_numbers("1")
    assert release_numbers("1.0.0") == release_numbers("1") == (1,)
    assert release_numbers("main") == ()


def test_a_point_reports_module_and_path() -> None:
    point = HookPoint("vllm.v1:AsyncLLM.generate", reads=(), versions=">=0.12", rung=Rung.PUBLIC, why="It passes here.")
    assert (point.module, point.path) == ("vllm.v1", "AsyncLLM.generate")
    assert point.covers("0.12")
    assert not point.covers("0.11")


def test_rungs_are_written_safest_first() -> None:
    assert list(Rung) == [Rung.PLUGIN, Rung.PUBLIC, Rung.INTERNAL]
