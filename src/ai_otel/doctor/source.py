"""Reads the source of an installed package with `ast`: nothing of the package is imported or run."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_Function = (ast.FunctionDef, ast.AsyncFunctionDef)


class Absent(LookupError):
    """The installed version does not have the name in the message."""


class Unreadable(LookupError):
    """The module exists, but not as Python source."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A function's parameter names. `anything`: it also takes names that are not listed."""

    names: frozenset[str]
    anything: bool

    def lacks(self, wanted: tuple[str, ...]) -> list[str]:
        """Which of the wanted parameters it does not take."""
        return [] if self.anything else [name for name in wanted if name not in self.names]


class InstalledSource:
    """The files of the packages on `sys.path`, parsed when first asked for."""

    def __init__(self) -> None:
        self._modules: dict[str, ast.Module] = {}

    def function(self, target: str) -> Signature:
        """The function `module:name` or `module:Class.method`; raises `Absent` or `Unreadable`."""
        module, _, path = target.partition(":")
        owner, _, name = path.rpartition(".")
        if owner:
            return self._method(module, owner, name)
        _, found = self._definition(module, name)
        return _signature(found)

    def _method(self, module: str, owner: str, name: str) -> Signature:
        for _, each in self._lineage(module, owner):
            found = [node for node in each.body if name in _bound(node)]
            if found:
                # The last definition counts: those before it are overloads.
                return _signature(found[-1])
        raise Absent(f"no {owner}.{name} in {module}")

    def _lineage(self, module: str, name: str) -> Iterator[tuple[str, ast.ClassDef]]:
        """The class, then its bases as far as they stand in files that can be read."""
        where, found = self._definition(module, name)
        if not isinstance(found, ast.ClassDef):
            raise Unreadable(f"{module}:{name} is not written as a class")
        yield where, found
        for base in found.bases:
            plain = base.value if isinstance(base, ast.Subscript) else base
            if isinstance(plain, ast.Name):
                try:
                    yield from self._lineage(where, plain.id)
                except LookupError:
                    continue

    def _definition(self, module: str, name: str) -> tuple[str, ast.stmt]:
        """Where the name is defined, following imports; the last definition that is there counts."""
        statements = list(_top_level(self._module(module).body))
        for statement in reversed(statements):
            if name in _bound(statement) or "*" in _bound(statement):
                try:
                    return self._followed(module, name, statement)
                except Absent:
                    continue  # such as an import in a `try`, of what another version has
        raise Absent(f"no {name} in {module}")

    def _followed(self, module: str, name: str, statement: ast.stmt) -> tuple[str, ast.stmt]:
        if not isinstance(statement, ast.ImportFrom):
            return module, statement
        named = [alias.name for alias in statement.names if name == (alias.asname or alias.name)]
        original = named[0] if named else name  # from a `*`
        return self._definition(self._origin(module, statement), original)

    def _origin(self, module: str, statement: ast.ImportFrom) -> str:
        """The absolute name of the module that a `from … import` names."""
        if not statement.level:
            return statement.module or ""
        package = module if self._file(module).name == "__init__.py" else module.rpartition(".")[0]
        above = package.split(".")[: len(package.split(".")) - statement.level + 1]
        return ".".join([*above, *filter(None, [statement.module])])

    def _module(self, name: str) -> ast.Module:
        if name not in self._modules:
            self._modules[name] = ast.parse(self._file(name).read_text(encoding="utf-8"))
        return self._modules[name]

    def _file(self, module: str) -> Path:
        top, *rest = module.split(".")
        for folder in package_folders(top):
            stem = folder.joinpath(*rest)
            for file in (stem / "__init__.py", *([stem.with_suffix(".py")] if rest else [])):
                if file.exists():
                    return file
            if rest and any(stem.parent.glob(f"{stem.name}.*.so")):
                raise Unreadable(f"{module} is compiled")
        raise Absent(f"no module {module}")


def package_folders(package: str) -> list[Path]:
    """The folders of an installed top-level package; empty where there is none. It is not imported."""
    spec = importlib.util.find_spec(package)
    # Without an origin it is a namespace: any folder of that name, such as a clone in the working directory.
    if spec is None or spec.origin is None:
        return []
    return [Path(folder) for folder in spec.submodule_search_locations or ()]


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run on import, whichever branch they are in."""
    for statement in body:
        yield statement
        if isinstance(statement, (ast.If, ast.Try, ast.With)):
            handlers = statement.handlers if isinstance(statement, ast.Try) else []
            for branch in (statement, *handlers):
                for part in ("body", "orelse", "finalbody"):
                    yield from _top_level(getattr(branch, part, []))


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a statement gives a meaning to."""
    if isinstance(statement, (ast.ClassDef, *_Function)):
        return {statement.name}
    if isinstance(statement, (ast.ImportFrom, ast.Import)):
        return {alias.asname or alias.name for alias in statement.names}
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _signature(statement: ast.stmt) -> Signature:
    if not isinstance(statement, _Function):
        return Signature(
            frozenset(), anything=True
        )  # an alias or a decorated value: it exists, its parameters are unknown
    taken = statement.args
    names = [each.arg for each in (*taken.posonlyargs, *taken.args, *taken.kwonlyargs)]
    return Signature(frozenset(names), anything=taken.kwarg is not None)
