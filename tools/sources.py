"""The Python sources of the engines whose internals we touch, one directory a version, for the drift tests.

    python tools/sources.py               fetch every pinned version that is not in the cache
    python tools/sources.py --list        say what is there
    python tools/sources.py vllm 0.34.0   fetch one more, for a version that was just released

An engine's wheel is hundreds of megabytes of kernels around one megabyte that we read. Wheels are zip files: the table
at the end says where each member lies, and a range request brings just that piece. Where the index refuses ranges, the
source distribution (17 to 47 MB) is downloaded and unpacked instead.

pip does the talking, with this machine's own settings: its index, certificates, proxy and credentials. So this file
runs twice: here, and below (`--fetch`) on the interpreter of our uv, which has a pip.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import environments
from environments import say

MARKER = "complete"
# Two pieces closer than this are one request: what lies between costs less than asking again.
JOINED_BELOW = 256 * 1024
# What pip asks for at the least, and therefore reads past a member's end.
AT_LEAST = 10 * 1024
UV_TO_PIP = {"UV_DEFAULT_INDEX": "PIP_INDEX_URL", "UV_INDEX_URL": "PIP_INDEX_URL", "SSL_CERT_FILE": "PIP_CERT"}


@dataclass(frozen=True)
class Sources:
    """The versions of one engine that we check, and which of its files we keep."""

    distribution: str
    versions: tuple[str, ...]
    """Oldest first; each wheel comes from `distribution`."""
    kept: tuple[str, ...]
    """Paths inside the wheel begin with one of these; only `.py` files are kept."""

    def directory(self, version: str) -> Path:
        """Where a version is, or will be."""
        return environments.cache_dir() / "sources" / f"{self.distribution}-{version}"

    def find(self, version: str) -> Path | None:
        """Return its directory if it is complete, and was made with what we keep now."""
        marker = self.directory(version) / MARKER
        return marker.parent if marker.exists() and marker.read_text() == self.signature else None

    def missing(self, versions: Iterable[str] | None = None) -> list[str]:
        """Return the versions that are not in the cache."""
        return [version for version in (versions or self.versions) if self.find(version) is None]

    @property
    def signature(self) -> str:
        """What a complete directory says: other files kept, other directory."""
        return "\n".join(self.kept)


# The pins: one release of every second minor line, oldest and newest included, and both sides of every bound that an
# adapter states. Every version comes from the wheel of its distribution, not from its repository.
SOURCES = {
    "vllm": Sources(
        distribution="vllm",
        versions=(
            "0.11.1", "0.12.0", "0.13.0", "0.14.1", "0.15.1", "0.16.0", "0.18.1", "0.19.1", "0.20.2",
            "0.21.0", "0.22.1", "0.24.0", "0.26.0", "0.28.0", "0.29.0", "0.30.0", "0.32.0", "0.33.0",
        ),
        # A name without a slash at its end covers a module and the package that it became: config.py, config/.
        kept=(
            "vllm/config", "vllm/engine/", "vllm/entrypoints/", "vllm/envs.py", "vllm/exceptions.py",
            "vllm/lora/request.py", "vllm/outputs.py", "vllm/plugins/", "vllm/pooling_params.py",
            "vllm/sampling_params.py", "vllm/tracing", "vllm/v1/engine/", "vllm/v1/metrics/", "vllm/v1/request.py",
            "vllm/v1/spec_decode/metrics.py",
        ),
    ),
}  # fmt: skip


def next_step(engine: str) -> str:
    """Return what to do when versions are missing."""
    return f"python tools/sources.py   (fetches the sources of {engine}: half a minute, 1 MB a version)"


def ensure(engine: str, versions: Sequence[str] | None = None) -> None:
    """Fetch what is missing, one request at a time."""
    sources = SOURCES[engine]
    absent = sources.missing(versions)
    if not absent:
        return
    started = time.monotonic()
    with environments.exclusive(environments.cache_dir() / f"sources-{engine}"):
        plan = {version: str(sources.directory(version)) for version in sources.missing(absent)}
        order = json.dumps({"distribution": sources.distribution, "kept": sources.kept, "plan": plan})
        _run_below(order)
    where = environments.cache_dir() / "sources"
    say(f"{engine}: {len(absent)} versions in {time.monotonic() - started:.0f} s, in {where}")


def _run_below(order: str) -> None:
    python = environments.uv().with_name("python")
    command = [str(python), __file__, "--fetch", order]
    done = subprocess.run(command, env=pip_settings(), stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise SystemExit("the sources could not be fetched; pip's own settings are used: see `pip config list`")


def pip_settings() -> dict[str, str]:
    """Return the process environment, with uv's settings said in pip's words where pip has none."""
    env = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    for name, target in UV_TO_PIP.items():
        if name in env:
            env.setdefault(target, env[name])
    return env


# ---------------------------------------------------------------- below: on an interpreter with pip


@dataclass(frozen=True)
class Index:
    """An index, through pip: `session` asks, `files` are the addresses of one distribution's files."""

    session: Any
    files: Mapping[str, str]
    ranged: Callable[[str], Any]
    refused: type[Exception]

    def wheel(self, distribution: str, version: str) -> str | None:
        """Return the address of a version's wheel; any platform will do: their Python is the same."""
        start = f"{distribution.replace('-', '_')}-{version}-"
        names = [name for name in sorted(self.files) if name.startswith(start) and name.endswith(".whl")]
        return self.files[names[0]] if names else None

    def sdist(self, distribution: str, version: str) -> str | None:
        """Return the address of a version's source distribution."""
        names = (f"{distribution.replace('-', '_')}-{version}.tar.gz", f"{distribution}-{version}.tar.gz")
        return next((self.files[name] for name in names if name in self.files), None)


def open_index(distribution: str) -> Index:
    """Ask pip for what the index has of a distribution: one request."""
    collector = importlib.import_module("pip._internal.index.collector")
    lazy = importlib.import_module("pip._internal.network.lazy_wheel")
    link = importlib.import_module("pip._internal.models.link").Link
    command = importlib.import_module("pip._internal.commands").create_command("download")
    with command.main_context():
        options, _ = command.parse_args(["--no-deps", distribution])
        session = command.get_default_session(options)
        finder = command._build_package_finder(options=options, session=session)  # noqa: SLF001
        pages = finder.search_scope.get_index_urls_locations(distribution)
        contents = [finder._link_collector.fetch_response(link(page)) for page in pages]  # noqa: SLF001
    links = [found for content in contents if content is not None for found in collector.parse_links(content)]
    files = {found.filename: found.url_without_fragment for found in reversed(links)}

    def ranged(url: str) -> Any:
        return lazy.LazyZipOverHTTP(url, session, AT_LEAST)

    return Index(session, files, ranged, lazy.HTTPRangeRequestUnsupported)


def fetch(order: str) -> int:
    """Fetch the versions of one order, each into its directory; say what each cost."""
    asked = json.loads(order)
    distribution, kept = asked["distribution"], tuple(asked["kept"])
    index = open_index(distribution)
    for version, directory in asked["plan"].items():
        started = time.monotonic()
        how = fetch_one(index, distribution, version, kept, Path(directory))
        count = sum(1 for _ in Path(directory).rglob("*.py"))
        say(f"{distribution} {version}: {count} files, {how}, in {time.monotonic() - started:.1f} s")
    return 0


def fetch_one(index: Index, distribution: str, version: str, kept: tuple[str, ...], directory: Path) -> str:
    """Fetch one version. The directory appears when it is whole: what was interrupted counts as absent."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(directory, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as making:
        home = Path(making) / "sources"
        home.mkdir()
        wheel = index.wheel(distribution, version)
        if wheel is None:
            raise SystemExit(f"the index has no wheel of {distribution} {version}")
        try:
            how = from_wheel(index.ranged(wheel), kept, home)
        except index.refused:
            how = from_sdist(index, distribution, version, kept, home)
        (home / MARKER).write_text("\n".join(kept))
        home.rename(directory)
    return how


def from_wheel(remote: Any, kept: tuple[str, ...], home: Path) -> str:
    """Unpack the kept members of a wheel that is read by ranges; zip's own checksums say that each is whole."""
    with remote, zipfile.ZipFile(remote) as wheel:
        members = [member for member in wheel.infolist() if wanted(member.filename, kept)]
        whole = remote.seek(0, os.SEEK_END)
        brought = 0
        for start, stop in pieces(members):
            remote.seek(start)
            brought += len(
                remote.read(min(stop, whole) - start)
            )  # pip caches what it read: the next lines make no request
        for member in members:
            wheel.extract(member, home)
    return f"{brought / 1e6:.1f} MB of a wheel of {whole / 1e6:.0f} MB"


def pieces(members: Iterable[zipfile.ZipInfo]) -> Iterator[tuple[int, int]]:
    """Where in the file the members lie: start and stop of each run of neighbours."""
    run: tuple[int, int] | None = None
    for member in sorted(members, key=lambda each: each.header_offset):
        # Before the content stand a header and the name; what is read past the end must be here too, or pip asks again.
        stop = member.header_offset + 30 + len(member.filename) + member.compress_size + 2 * AT_LEAST
        if run is not None and member.header_offset - run[1] < JOINED_BELOW:
            run = (run[0], stop)
            continue
        if run is not None:
            yield run
        run = (member.header_offset, stop)
    if run is not None:
        yield run


def from_sdist(index: Index, distribution: str, version: str, kept: tuple[str, ...], home: Path) -> str:
    """Download the source distribution and unpack the kept members."""
    url = index.sdist(distribution, version)
    if url is None:
        raise SystemExit(f"the index refuses range requests and has no source distribution of {distribution} {version}")
    with tempfile.TemporaryFile() as archive:
        answer = index.session.get(url, stream=True)
        answer.raise_for_status()
        for chunk in answer.iter_content(1 << 20):
            archive.write(chunk)
        size = archive.tell()
        archive.seek(0)
        with tarfile.open(fileobj=archive) as members:
            for member in members:
                _, _, name = member.name.partition("/")
                content = members.extractfile(member) if member.isfile() and wanted(name, kept) else None
                if content is not None:
                    (home / name).parent.mkdir(parents=True, exist_ok=True)
                    (home / name).write_bytes(content.read())
    return f"from a source distribution of {size / 1e6:.0f} MB (ranges refused)"


def wanted(name: str, kept: tuple[str, ...]) -> bool:
    """Whether to keep this file; a name that would leave the directory is rejected."""
    return name.endswith(".py") and name.startswith(kept) and ".." not in name.split("/")


# ---------------------------------------------------------------- the command


def show() -> None:
    """Say what there is."""
    for engine, sources in SOURCES.items():
        for version in sources.versions:
            say(f"{engine} {version}: {sources.find(version) or 'not fetched yet'}")


def main(arguments: Sequence[str]) -> int:
    """Run the command described at the top of this file."""
    if arguments[:1] == ["--fetch"]:
        return fetch(arguments[1])
    if list(arguments) == ["--list"]:
        show()
    elif not arguments:
        for engine in SOURCES:
            ensure(engine)
    elif arguments[0] in SOURCES and len(arguments) > 1:
        ensure(arguments[0], arguments[1:])
    else:
        raise SystemExit(f"usage: python tools/sources.py [--list | {'|'.join(SOURCES)} VERSION…]")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
