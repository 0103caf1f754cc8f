"""
Simulated vendor libraries: shared libraries built from `tests/gpu/simulated/`, which the unpatched bindings load.

A library answers from a table of values that the test fills, at any time, and so does its clock. Each is loaded once in
a process, under the name by which its binding asks for it, before the binding does: the loader then finds it loaded.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import environments

SOURCES = Path(__file__).parents[2] / "gpu/simulated"
REQUIRED_COMMAND = {"command": "cc", "why": "the simulated GPU libraries are built from C"}
"""`@pytest.mark.requires(**REQUIRED_COMMAND)` on every test that uses one."""


class Library:
    """One simulated library, loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.c = ctypes.CDLL(str(path))
        self.c.simulated_number.argtypes = [ctypes.c_char_p, ctypes.c_uint64, ctypes.c_double]
        self.c.simulated_real.argtypes = [ctypes.c_char_p, ctypes.c_double]
        self.c.simulated_time.argtypes = [ctypes.c_double]
        self.c.simulated_size.restype = ctypes.c_char_p
        self.now_s = 0.0

    def clear(self) -> None:
        """Forget every value; the time is 0."""
        self.c.simulated_clear()
        self.now_s = 0.0

    def advance(self, seconds: float) -> None:
        """Let so much time pass."""
        self.now_s += seconds
        self.c.simulated_time(self.now_s)

    def clock(self) -> float:
        """The simulated time, for a source that takes a clock."""
        return self.now_s

    def put(self, part: str, values: Mapping[str, object]) -> None:
        """
        Set values of one part.

        An int is a number, an int with a float a number that grows so much a second, a float a real one; a text a text.
        """
        for name, value in values.items():
            key = f"{part}.{name}".encode()
            if isinstance(value, str):
                self.c.simulated_text(key, value.encode())
            elif isinstance(value, float):
                self.c.simulated_real(key, value)
            elif isinstance(value, tuple):
                self.c.simulated_number(key, *value)
            elif isinstance(value, int):
                self.c.simulated_number(key, value % 2**64, 0.0)
            else:
                raise TypeError(f"{name}: {value!r}")

    def fail(self, part: str, *functions: str, code: int) -> None:
        """Let these functions end with a status, 0 being none."""
        for function in functions:
            self.c.simulated_code(f"{part}.{function}".encode(), code)

    def calls(self, part: str, function: str) -> int:
        """How often a function was called since `clear`."""
        return int(self.c.simulated_calls(f"{part}.{function}".encode()))

    def sizes(self) -> dict[str, int]:
        """Bytes of each structure that the library declares, and where some of their fields begin (`name.field`)."""
        found: dict[str, int] = {}
        size = ctypes.c_size_t()
        while (name := self.c.simulated_size(len(found), ctypes.byref(size))) is not None:
            found[name.decode()] = size.value
        return found


@functools.cache
def loaded(source: str, soname: str, generate: Callable[[str], str] = lambda _: "") -> Library:
    """
    The library of this source file, from the second time on the same one. Builds it where that was not done: 0.3 s.

    `generate` writes, from the text of the source, what is compiled with it.
    """
    text = (SOURCES / source).read_text()
    more = generate(text)
    key = hashlib.sha256((text + more + soname + (SOURCES / "values.h").read_text()).encode()).hexdigest()[:16]
    path = environments.cache_dir() / f"simulated-{key}" / Path(soname).name
    if not path.exists():
        _build(path, source, soname, more)
    return Library(path)


def _build(path: Path, source: str, soname: str, more: str) -> None:
    if shutil.which("cc") is None:
        raise RuntimeError("the simulated GPU libraries are built from C, and cc is not on PATH; next: install it")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        generated, built = Path(scratch) / "generated.c", Path(scratch) / path.name
        generated.write_text(more)
        command = ["cc", "-shared", "-fPIC", "-O1", f"-Wl,-soname,{soname}", "-o", str(built)]
        command += [str(SOURCES / source), str(generated)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{source} does not build: {done.stderr}")
        built.replace(path)
