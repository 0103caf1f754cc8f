"""The Go packages of the distribution: their own tests, with the modules that the binary is built of."""

from __future__ import annotations

import pytest

import golang
import parts

pytestmark = pytest.mark.requires(part="collector")

PACKAGES = sorted(
    {file.parent.relative_to(parts.DISTRIBUTION).as_posix() for file in parts.DISTRIBUTION.rglob("*_test.go")}
)


@pytest.mark.fault(
    "collector",
    "one of redaction's several hundred expressions is not run on a text that it matches",
    "13,000 texts and keys leave as they leave contrib's processor, which runs every expression on every text",
)
def test_redaction_passes_its_own_tests() -> None:
    assert not golang.failures(parts.DISTRIBUTION, "redaction")


@pytest.mark.parametrize("package", [package for package in PACKAGES if package != "redaction"])
def test_another_package_passes_its_own_tests(package: str) -> None:
    assert not golang.failures(parts.DISTRIBUTION, package)
