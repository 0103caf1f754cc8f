"""
Simulated vendor libraries: shared libraries built from `tests/gpu/simulated/`, which the unpatched bindings load.

A library returns the values and the time that the test sets. A process loads each once, before its binding and under
the name that the binding requests, for which the loader then returns it.
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
"""Arguments of `@pytest.mark.requires` for every test that uses a simulated library."""


class Library:
    """One loaded simulated library."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.c = ctypes.CDLL(str(path))
        self.c.simulated_number.argtypes = [ctypes.c_char_p, ctypes.c_uint64, ctypes.c_double]
        self.c.simulated_real.argtypes = [ctypes.c_char_p, ctypes.c_double]
        self.c.simulated_time.argtypes = [ctypes.c_double]
        self.c.simulated_size.restype = ctypes.c_char_p
        self.now_s = 0.0

    def clear(self) -> None:
        """Remove every value and reset the time to 0."""
        self.c.simulated_clear()
        self.now_s = 0.0

    def advance(self, seconds: float) -> None:
        """Advance the simulated time."""
        self.now_s += seconds
        self.c.simulated_time(self.now_s)

    def clock(self) -> float:
        """Return the simulated time in seconds, as a source's clock."""
        return self.now_s

    def put(self, component: str, values: Mapping[str, object]) -> None:
        """
        Set values of one component.

        An int is an integer, `(int, float)` an integer that grows by the float each second, a float a real number.
        """
        for name, value in values.items():
            key = f"{component}.{name}".encode()
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

    def fail(self, component: str, *functions: str, code: int) -> None:
        """Make functions return a status code; 0 means success."""
        for function in functions:
            self.c.simulated_code(f"{component}.{function}".encode(), code)

    def calls(self, component: str, function: str) -> int:
        """Return the number of calls of a function since `clear`."""
        return int(self.c.simulated_calls(f"{component}.{function}".encode()))

    def sizes(self) -> dict[str, int]:
        """Return the size of each structure, and the offsets of some fields (`name.field`), in bytes."""
        found: dict[str, int] = {}
        size = ctypes.c_size_t()
        while (name := self.c.simulated_size(len(found), ctypes.byref(size))) is not None:
            found[name.decode()] = size.value
        return found


@functools.cache
def loaded(source: str, soname: str, generate: Callable[[str], str] = lambda _: "") -> Library:
    """
    Return the library of a source file. Builds it on the first use, which takes 0.3 s.

    `generate` returns further C code, from the text of the source.
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
