"""The public names of the package with their arguments, which ``public_names.txt`` lists.

    python -m tests.public_names            # the names and arguments that a caller of the listed ones would miss
    python -m tests.public_names --write    # list the present ones: part of a new version

A name is public if the ``__all__`` of a package, or of a module beside the packages, has it. A line of the file is a
call: an argument with ``=`` is optional, and those after ``*`` are passed by name.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import refscale

ROOT = Path(refscale.__file__).parent
FILE = Path(__file__).with_suffix(".txt")

NO_NAMES = {"refscale.ops.kernels"}
"""Packages that export nothing."""


def public_modules() -> list[str]:
    """Packages, and the modules beside them that users import from."""
    packages = [p.parent.relative_to(ROOT.parent) for p in ROOT.rglob("__init__.py")]
    modules = ["refscale.data", "refscale.errors", "refscale.functional", "refscale.graph", "refscale.memory"]
    return sorted({*(".".join(p.parts) for p in packages), *modules} - NO_NAMES)


def call(name: str, found: object) -> str:
    """A line of the list: ``refscale.a.f(x, y=, *, z=)``; the name alone if it is not called."""
    try:
        arguments = list(inspect.signature(found).parameters.values()) if callable(found) else None
    except ValueError:  # a class of C
        arguments = None
    if arguments is None:
        return name
    shown = []
    for a in arguments:
        marks = {a.VAR_POSITIONAL: "*", a.VAR_KEYWORD: "**"}
        if a.kind == a.KEYWORD_ONLY and not any(s.startswith("*") for s in shown):
            shown.append("*")
        shown.append(f"{marks.get(a.kind, '')}{a.name}{'' if a.default is a.empty else '='}")
    return f"{name}({', '.join(shown)})"


def find(name: str) -> object:
    """The object of a listed name; AttributeError or ModuleNotFoundError if it is gone."""
    module, _, last = name.rpartition(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a renamed name works for one version
        return getattr(importlib.import_module(module), last)


def present() -> list[str]:
    """The lines of the list as the package is now."""
    names = [f"{m}.{name}" for m in public_modules() for name in importlib.import_module(m).__all__]
    return sorted(call(name, find(name)) for name in names)


def broken(old: str, new: str) -> str:
    """What a caller of the old form would miss in the new one; empty if all of its calls still work."""
    before, after = _arguments(old), _arguments(new)
    if before is None or after is None:
        return "" if before is None else "cannot be called"
    if (order := list(before.by_place)) != (found := list(after.by_place)[: len(order)]):
        return f"takes {found} by place, not {order}"
    if gone := [name for name in before.optional if name not in after.optional and "**" not in after.optional]:
        return f"has no argument {', '.join(gone)}"
    if required := [
        name for name, optional in after.optional.items() if not optional and before.optional.get(name, True)
    ]:
        return f"requires {', '.join(required)}"
    return ""


@dataclass(frozen=True)
class Arguments:
    """The arguments of a line: those that may be given by place, in order, and of each whether it is optional."""

    by_place: tuple[str, ...]
    optional: Mapping[str, bool]


def _arguments(line: str) -> Arguments | None:
    """The arguments of a line; None if it is not called."""
    if "(" not in line:
        return None
    (function,) = ast.parse(f"def f{line[line.index('(') :].replace('=', '=0')}: ...").body
    assert isinstance(function, ast.FunctionDef)
    a = function.args
    places = tuple(x.arg for x in a.args)
    required = len(places) - len(a.defaults)
    optional = {name: i >= required for i, name in enumerate(places)}
    optional |= {x.arg: default is not None for x, default in zip(a.kwonlyargs, a.kw_defaults, strict=True)}
    optional |= {mark: True for mark, given in (("*", a.vararg), ("**", a.kwarg)) if given}
    return Arguments(places, optional)


def misses(listed: Iterable[str]) -> Iterator[str]:
    """A line for every listed name that is gone, or no longer takes the same calls."""
    for line in listed:
        name = line.partition("(")[0]
        try:
            why = broken(line, call(name, find(name)))
        except (AttributeError, ModuleNotFoundError):
            why = "is gone"
        if why:
            yield f"{name}: {why}"


def listed() -> list[str]:
    """The lines of the file."""
    return FILE.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        FILE.write_text("\n".join(present()) + "\n", encoding="utf-8")
    print(*misses(listed()), sep="\n")
