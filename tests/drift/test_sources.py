"""Fetching sources, without a network: the pieces of a wheel, and the way out where ranges are refused."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sources

KEPT = ("engine/v1/", "engine/outputs.py", "engine/config")
FILES = {
    "engine/_kernels.so": b"\0" * 3_000_000,
    "engine/config.py": b"SIZE = 1\n",
    "engine/models/big.py": b"MODEL = 1\n" * 1000,
    "engine/outputs.py": b"class Output: ...\n",
    "engine/v1/core.py": b"class Core: ...\n",
    "engine/v1/core.cu": b"__global__",
}
WANTED = {"engine/config.py", "engine/outputs.py", "engine/v1/core.py"}


class Refused(Exception):
    """What pip raises where an index refuses ranges."""


class Remote(io.BytesIO):
    """A wheel as pip's lazy file shows it; counts the bytes that were read."""

    brought = 0

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        self.brought += len(content)
        return content


def wheel() -> Remote:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, text in FILES.items():
            archive.writestr(name, text)
    return Remote(content.getvalue())


def sdist() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, text in {**FILES, "../outside.py": b"", "engine/v1/../../out.py": b""}.items():
            member = tarfile.TarInfo(f"engine-1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    return content.getvalue()


class Session:
    """Answers with the source distribution."""

    def get(self, url: str, **_: Any) -> Any:
        assert url == "there/engine-1.0.tar.gz"
        content = sdist()
        return type("Answer", (), {"raise_for_status": lambda _: None, "iter_content": lambda _, size: [content]})()


def index(ranged: Callable[[str], Any]) -> sources.Index:
    names = [
        "engine-1.0-cp38-abi3-linux_x86_64.whl",
        "engine-1.0.1-py3.whl",
        "engine-1.0.tar.gz",
        "engine-1.0.post1.tar.gz",
    ]
    return sources.Index(Session(), {name: f"there/{name}" for name in names}, ranged, Refused)


def fetched(directory: Path) -> set[str]:
    files = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    return files - {sources.MARKER}


def refuse(_: str) -> Any:
    raise Refused


@pytest.mark.parametrize("ranged", [lambda _: wheel(), refuse], ids=["ranges", "no ranges"])
def test_what_we_keep_arrives_and_nothing_else(tmp_path: Path, ranged: Callable[[str], Any]) -> None:
    home = tmp_path / "engine-1.0"
    sources.fetch_one(index(ranged), "engine", "1.0", KEPT, home)
    assert fetched(home) == WANTED
    assert all((home / name).read_bytes() == FILES[name] for name in WANTED)
    assert list(tmp_path.iterdir()) == [home]


def test_the_kernels_of_a_wheel_stay_where_they_are(tmp_path: Path) -> None:
    remote = wheel()
    sources.from_wheel(remote, KEPT, tmp_path)
    assert remote.brought < 200_000


def test_what_was_interrupted_counts_as_absent(tmp_path: Path) -> None:
    home = tmp_path / "engine-1.0"
    broken = wheel().getvalue()[:-10]
    with pytest.raises(zipfile.BadZipFile):
        sources.fetch_one(index(lambda _: Remote(broken)), "engine", "1.0", KEPT, home)
    assert not home.exists()


def test_a_file_is_chosen_by_its_whole_version() -> None:
    there = index(refuse)
    assert there.wheel("engine", "1.0") == "there/engine-1.0-cp38-abi3-linux_x86_64.whl"
    assert there.sdist("engine", "1.0") == "there/engine-1.0.tar.gz"
    assert there.wheel("engine", "1") is None


def test_another_list_of_kept_files_makes_another_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AI_OTEL_CACHE", str(tmp_path))
    pinned = sources.Sources("engine", ("1.0",), KEPT)
    sources.fetch_one(index(lambda _: wheel()), "engine", "1.0", pinned.kept, pinned.directory("1.0"))
    assert pinned.missing() == []
    assert sources.Sources("engine", ("1.0", "1.1"), (*KEPT, "engine/more/")).missing() == ["1.0", "1.1"]


def test_settings_for_uv_are_said_to_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_INDEX_URL", "UV_INDEX_URL", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://mirror.example/simple")
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/ca.pem")
    settings = sources.pip_settings()
    assert (settings["PIP_INDEX_URL"], settings["PIP_CERT"]) == ("https://mirror.example/simple", "/etc/ca.pem")
    monkeypatch.setenv("PIP_INDEX_URL", "https://pip.example/simple")
    assert sources.pip_settings()["PIP_INDEX_URL"] == "https://pip.example/simple"
