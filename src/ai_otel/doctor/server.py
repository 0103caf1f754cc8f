"""A running server: its command line and environment, from `/proc`. Linux only."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ai_otel.doctor.finding import Finding, Level
from ai_otel.inputs.shown import shown

PROC = Path("/proc")


class UnknownServerError(LookupError):
    """The process cannot be read; the message gives the reason and the next step."""


@dataclass(frozen=True, slots=True)
class Server:
    """One process. Its command line may hold secrets: only names of flags are taken from it."""

    pid: int
    program: str
    runs: str
    """The program, and the module or script where it is a Python: never an argument."""
    flags: frozenset[str]
    environment: Mapping[str, str]

    @classmethod
    def read(cls, pid: int) -> Server:
        """Read it from `/proc`; raises `UnknownServerError`."""
        folder = PROC / str(pid)
        try:
            if _has_ended(folder):
                raise UnknownServerError(f"{pid}: it has ended, and its parent has not noticed yet (a zombie)")
            words = _words(folder / "cmdline")
            lines = _words(folder / "environ")
        except FileNotFoundError:
            why = (
                "there is no such process"
                if PROC.is_dir()
                else "this system has no /proc: run doctor in its environment"
            )
            raise UnknownServerError(f"{pid}: {why}") from None
        except PermissionError:
            raise UnknownServerError(f"{pid}: not allowed; run doctor as the user who started it, or as root") from None
        except OSError as error:
            # A process that ends meanwhile, or one of the kernel's.
            raise UnknownServerError(f"{pid}: it cannot be read: {error.strerror}") from None
        environment = dict(line.split("=", 1) for line in lines if "=" in line)
        return cls(pid, _program(words), shown(_named(words)), frozenset(map(shown, flags_of(words))), environment)


def _has_ended(folder: Path) -> bool:
    """Whether only the exit status of the process is left."""
    # The name in parentheses may hold anything; the state follows it.
    state = (folder / "stat").read_bytes().rpartition(b")")[2].split()[:1]
    return state in ([b"Z"], [b"X"])


def _program(words: list[str]) -> str:
    """The path of the program. A process that sets its own title has its arguments in the same word."""
    program = words[0] if words else ""
    return program if Path(program).exists() else program.split(maxsplit=1)[0] if program.split() else ""


def _words(path: Path) -> list[str]:
    return [word for word in path.read_bytes().decode(errors="replace").split("\0") if word]


def _named(words: list[str]) -> str:
    rest = [*words[1:], ""]
    name = Path(_program(words)).name
    if not name.startswith("python") or not rest[0]:
        return name
    if rest[0] == "-m":
        return f"{name} -m {rest[1]}"
    return name if rest[0].startswith("-") else f"{name} {Path(rest[0]).name}"


def flags_of(words: list[str]) -> Iterator[str]:
    """The names of the flags, without their values."""
    return (word.split("=")[0].split(maxsplit=1)[0] for word in words if word.startswith("--"))


def check_server(server: Server) -> Iterator[Finding]:
    """Whether what follows is about this process."""
    details = {"pid": server.pid, "flags": sorted(server.flags)}
    if not server.environment:
        says = "shows no environment: it has overwritten it, as processes that set their own title do"
        yield Finding("server", f"pid {server.pid}", Level.WRONG, says, "Name the process that started it.", details)
        return
    yield Finding("server", f"pid {server.pid}", Level.OK, f"runs {server.runs}", details=details)
    if _elsewhere(server.program):
        says = f"runs {shown(server.program)}; packages and engines below are those of {sys.prefix}"
        yield Finding("server", "environment", Level.NOTE, says, "Run the ai-otel of the server's own environment.")


def _elsewhere(program: str) -> bool:
    """Whether a Python of another environment runs it; unknown for other programs and relative names."""
    path = Path(program)
    return path.is_absolute() and path.name.startswith("python") and not path.is_relative_to(sys.prefix)
