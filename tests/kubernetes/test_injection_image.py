"""The injection image's Dockerfile: what it may say, and that its steps make the layout of what it copies."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import environments
from harness.kubernetes.image import INJECTION, ROOT

TEXT = (INJECTION / "Dockerfile").read_text()
SHELL = {"cp", "sed", "pip", "python"}
"""What the steps of the build call."""


def instructions() -> list[tuple[str, str]]:
    """Each instruction with what it says, on one line."""
    text = re.sub(r"^\s*#.*\n", "", TEXT, flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(name, " ".join(said.split())) for name, said in lines]


def stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage, from its FROM on."""
    found: list[list[tuple[str, str]]] = []
    for each in instructions():
        if each[0] == "FROM":
            found.append([])
        found[-1].append(each)
    return found


def said(stage: list[tuple[str, str]], *names: str) -> list[str]:
    return [said for name, said in stage if name in names]


def programs(step: str) -> Iterator[str]:
    """The program of each command of a RUN, without the variables before it; the commands are joined by && alone."""
    words = shlex.split(step)
    assert not [word for word in words if word in ("|", "||", "&") or word.endswith(";")]
    starts = [0, *(index + 1 for index, word in enumerate(words) if word == "&&")]
    for start in starts:
        yield next(word for word in words[start:] if not re.match(r"[A-Z_]+=", word))


# ---------------------------------------------------------------- what it may say


def test_bases_are_pinned_to_a_patch_release() -> None:
    """DL3006, DL3007. `busybox` is last, because the Operator runs its `cp`."""
    bases = [said(stage, "FROM")[0].split()[0] for stage in stages()]
    assert all(re.fullmatch(r"[a-z]+:\d+\.\d+\.\d+\S*", base) for base in bases)
    assert bases[-1].startswith("busybox:")


def test_it_runs_as_a_numeric_unprivileged_user() -> None:
    """DL3002. A number, so that the kubelet can check `runAsNonRoot`."""
    *_, (name, user) = stages()[-1]
    assert name == "USER"
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_nothing_is_fetched_but_what_the_lock_pins() -> None:
    """DL3020, DL3004, DL3008, DL3013, DL3042, DL4000, DL4001, DL4006."""
    assert {name for name, _ in instructions()} == {"FROM", "WORKDIR", "COPY", "RUN", "USER"}
    for step in said(instructions(), "RUN"):
        assert set(programs(step)) <= SHELL
        for command in re.findall(r"pip (?:wheel|install)[^&]*", step):
            assert "--no-cache-dir" in command
            assert "--no-deps" in command
            assert "PIP_CONSTRAINT=" in step


def test_copies_are_of_what_exists_into_what_is_absolute() -> None:
    """DL3000, DL3021, DL3022, DL3045."""
    for stage in stages():
        names = [name for name, _ in stage]
        assert all(said.startswith("/") for said in said(stage, "WORKDIR"))
        for index, (name, what) in enumerate(stage):
            if name != "COPY":
                continue
            *sources, target = [word for word in what.split() if not word.startswith("--")]
            assert target.startswith("/") or "WORKDIR" in names[:index]
            assert len(sources) == 1 or target.endswith("/")
            if "--from=" not in what:
                assert all((ROOT / source).exists() for source in sources), sources
    before = [match[1] for each in said(instructions(), "FROM") if (match := re.search(r" AS (\S+)$", each))]
    assert set(re.findall(r"--from=(\S+)", TEXT)) == set(before)


def test_what_it_has_at_the_end_is_the_layout_alone() -> None:
    """For both C libraries, because the Operator copies the one or the other."""
    copies = said(stages()[-1], "COPY")
    assert copies == [f"--from=build /layout /autoinstrumentation{end}" for end in ("", "-musl")]


# ---------------------------------------------------------------- what its steps make


def files(place: Path) -> dict[str, bytes]:
    """Without the records of installers, which name hashes of each other."""
    found = {path.relative_to(place).as_posix(): path for path in place.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.endswith(".dist-info/RECORD")}


def test_its_steps_need_nothing_that_it_does_not_copy(injection_image: Path, tmp_path: Path) -> None:
    """Run one by one in a directory that holds what the COPY lines name: the layout is the one of the other tests."""
    build = stages()[0]
    (root := tmp_path / "root").mkdir()
    (workdir,) = said(build, "WORKDIR")
    (source := root / workdir.strip("/")).mkdir()
    environment = {**os.environ, "PATH": f"{environments.uv().parent}:{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    for name, what in build:
        if name == "COPY":
            *sources, target = what.split()
            for each in sources:
                copy(ROOT / each, source / (target if len(sources) == 1 else each))
        elif name == "RUN":
            step = re.sub(r"(?<![\w./'*])/(?=(?:constraints|wheel|layout)\b)", f"{root}/", what)
            done = subprocess.run(
                ["/bin/sh", "-ec", step],
                cwd=source,
                env=environment,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert done.returncode == 0, f"{step}\n{done.stdout}{done.stderr}"
    made, wanted = files(root / "layout"), files(injection_image)
    assert made.keys() == wanted.keys()
    assert [name for name, text in wanted.items() if made[name] != text] == []


def copy(path: Path, target: Path) -> None:
    if path.is_dir():
        shutil.copytree(path, target)
    else:
        shutil.copy(path, target)
