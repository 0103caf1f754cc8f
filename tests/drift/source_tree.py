"""A package's source files as its importer would see them, read with `ast`: nothing of it is imported or run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path


class Absent(LookupError):
    """A name is absent in this version; the message says which and where."""


class Kind(str, Enum):
    """What a call of the function returns at once."""

    FUNCTION = "function"
    GENERATOR = "generator"
    COROUTINE = "coroutine"
    ASYNC_GENERATOR = "async generator"


@dataclass(frozen=True)
class Function:
    """One `def`; `parameters` in order, without `self` and without `*args` and `**kwargs`."""

    node: ast.FunctionDef | ast.AsyncFunctionDef

    @property
    def parameters(self) -> tuple[str, ...]:
        arguments = self.node.args
        names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        return tuple(name for name in names if name not in {"self", "cls"})

    @property
    def kind(self) -> Kind:
        yields = any(isinstance(node, (ast.Yield, ast.YieldFrom)) for node in own_nodes(self.node))
        if isinstance(self.node, ast.AsyncFunctionDef):
            return Kind.ASYNC_GENERATOR if yields else Kind.COROUTINE
        return Kind.GENERATOR if yields else Kind.FUNCTION

    def takes(self, name: str) -> bool:
        """Whether a caller may pass `name`: a parameter, or a key that the body reads from its `**kwargs`."""
        return name in self.parameters or (self.node.args.kwarg is not None and name in strings_in(self.node))


@dataclass(frozen=True)
class Class:
    """One `class`, with the module it stands in."""

    module: Module
    node: ast.ClassDef

    @property
    def name(self) -> str:
        return f"{self.module.name}:{self.node.name}"

    @property
    def own_fields(self) -> frozenset[str]:
        """Names of its instances' attributes: in the body, or set on `self` in one of its methods."""
        names = set[str]()
        for statement in self.node.body:
            if isinstance(statement, (ast.AnnAssign, ast.Assign)):
                names |= set(names_assigned(statement))
            elif isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
                names.add(statement.name)
                names |= set(attributes_set(statement))
        return frozenset(names)

    def own_function(self, name: str) -> Function | None:
        """The last `def` of this name: those before it are overloads."""
        found = [node for node in self.node.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
        return next((Function(node) for node in reversed(found) if node.name == name), None)


@dataclass
class Module:
    """One file; `names` are what its top level defines or imports, also under `if` and `try`."""

    name: str
    node: ast.Module
    is_package: bool
    names: dict[str, ast.stmt] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for statement in top_level(self.node.body):
            for name in names_bound(statement):
                self.names[name] = statement

    def imported_from(self, statement: ast.ImportFrom) -> str:
        """The absolute name of the module that a `from … import` names."""
        if not statement.level:
            return statement.module or ""
        parts = self.name.split(".")
        kept = parts[: len(parts) - statement.level + int(self.is_package)]
        return ".".join([*kept, *([statement.module] if statement.module else [])])


class SourceTree:
    """The files below `root`, parsed when first asked for."""

    def __init__(self, root: Path, version: str) -> None:
        self.root = root
        self.version = version
        self._modules: dict[str, Module | None] = {}
        self._fields: dict[str, frozenset[str]] = {}

    def module(self, name: str) -> Module:
        """The module, or `Absent`."""
        if name not in self._modules:
            self._modules[name] = self._read(name)
        found = self._modules[name]
        if found is None:
            raise Absent(f"{self.version} has no module {name}")
        return found

    def _read(self, name: str) -> Module | None:
        path = self.root.joinpath(*name.split("."))
        for file, is_package in ((path.with_suffix(".py"), False), (path / "__init__.py", True)):
            if file.exists():
                return Module(name, ast.parse(file.read_text(encoding="utf-8")), is_package)
        return None

    def statement(self, target: str) -> tuple[Module, ast.stmt]:
        """Where `module:name` is defined, following imports and plain aliases."""
        module_name, _, name = target.partition(":")
        module = self.module(module_name)
        statement = module.names.get(name)
        if statement is None:
            raise Absent(f"{self.version} has no {name} in {module_name}")
        if isinstance(statement, ast.ImportFrom):
            original = next(alias.name for alias in statement.names if name in {alias.asname, alias.name})
            return self.statement(f"{module.imported_from(statement)}:{original}")
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Name):
            return self.statement(f"{module_name}:{statement.value.id}")
        return module, statement

    def a_class(self, target: str) -> Class:
        """The class `module:Name`."""
        module, statement = self.statement(target)
        if not isinstance(statement, ast.ClassDef):
            raise Absent(f"{self.version}: {target} is no class")
        return Class(module, statement)

    def lineage(self, a_class: Class) -> Iterator[Class]:
        """The class, then its bases, as far as they stand in files that we have."""
        yield a_class
        for base in a_class.node.bases:
            name = base.value if isinstance(base, ast.Subscript) else base
            if not isinstance(name, ast.Name):
                continue
            try:
                found = self.a_class(f"{a_class.module.name}:{name.id}")
            except Absent:
                continue
            yield from self.lineage(found)

    def function(self, target: str) -> Function:
        """The function `module:function` or `module:Class.method`, the method also from a base class."""
        holder, _, name = target.rpartition(".") if "." in target.partition(":")[2] else ("", "", target)
        if not holder:
            _, statement = self.statement(target)
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
                return Function(statement)
            raise Absent(f"{self.version}: {target} is no function")
        for each in self.lineage(self.a_class(holder)):
            if (found := each.own_function(name)) is not None:
                return found
        raise Absent(f"{self.version} has no {target}, nor has a base class")

    def fields(self, target: str) -> frozenset[str]:
        """All attribute names of a class: its own and inherited ones."""
        if target not in self._fields:
            parts = [each.own_fields for each in self.lineage(self.a_class(target))]
            self._fields[target] = frozenset[str]().union(*parts)
        return self._fields[target]

    def strings(self, module: str) -> frozenset[str]:
        """Every string constant of a module."""
        return frozenset(strings_in(self.module(module).node))


# ---------------------------------------------------------------- reading ast


def top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run on import, whichever branch they are in."""
    for statement in body:
        yield statement
        for branch in ("body", "orelse", "finalbody"):
            if isinstance(statement, (ast.If, ast.Try, ast.With)):
                yield from top_level(getattr(statement, branch, []))


def names_bound(statement: ast.stmt) -> list[str]:
    """Names that a statement gives a meaning to."""
    if isinstance(statement, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return [statement.name]
    if isinstance(statement, ast.ImportFrom):
        return [alias.asname or alias.name for alias in statement.names]
    return names_assigned(statement)


def names_assigned(statement: ast.stmt) -> list[str]:
    """Names on the left of `=` or `:`."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def attributes_set(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """Names that a method assigns on `self`, also in `self.a, self.b = …`."""
    for node in ast.walk(function):
        stored = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        if stored and isinstance(node.value, ast.Name) and node.value.id == "self":
            yield node.attr


def own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """Everything inside a function, without what belongs to functions inside it."""
    for node in ast.iter_child_nodes(function):
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.GeneratorExp)):
            yield from own_nodes(node)


def strings_in(node: ast.AST) -> set[str]:
    """String constants at or below a node."""
    return {each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)}
