"""Write the API reference as HTML pages, made from the docstrings by pdoc.

    pip install -e '.[docs]'
    python tutorials/reference.py DIR

A page describes the public names of a package, or of a module beside the packages: those in its ``__all__``. The page
``DIR/index.html`` leads to the page of ``refscale``, which links the others.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
import re
import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import refscale
from refscale.errors import ArgumentError


@cache
def modules() -> tuple[str, ...]:
    """Return the modules with a page: packages, and modules beside them, with an ``__all__``."""
    found = pkgutil.walk_packages(refscale.__path__, "refscale.")
    names = [m.name for m in found if (m.ispkg or m.name.count(".") == 1) and "._" not in m.name]
    return ("refscale", *(name for name in sorted(names) if hasattr(importlib.import_module(name), "__all__")))


@cache
def address(name: str) -> str | None:
    """Return the page and anchor of a public name, relative to the directory of the reference; None if it has none.

    Args:
        name: a module, one of its public names or an attribute of a public class, such as ``refscale.graph.plan``.
    """
    parts = name.split(".")
    known = modules()
    for n in range(len(parts), 0, -1):
        module, rest = ".".join(parts[:n]), parts[n:]
        if module not in known:
            continue
        page = f"{module.replace('.', '/')}.html"
        if not rest:
            return page
        owner = importlib.import_module(module)
        if rest[0] in owner.__all__ and f"{module}.{rest[0]}" not in known and _has(getattr(owner, rest[0]), rest[1:]):
            return f"{page}#{'.'.join(rest)}"
    return None


def _has(owner: object, attributes: list[str]) -> bool:
    """Return whether an object has an attribute of an attribute …, or annotates the last one."""
    for name in attributes:
        if name not in getattr(owner, "__annotations__", {}) and not hasattr(owner, name):
            return False
        owner = getattr(owner, name, None)
    return True


TABLE = re.compile(r"^=+(?: +=+)+$")


def markdown(text: str) -> str:
    """Convert the reStructuredText tables of a docstring to Markdown, and the names of packages to full names."""
    lines: list[str] = []
    table: list[str] = []
    rules = 0
    for line in text.splitlines():
        if TABLE.match(line.strip()):
            rules += 1
            table.append(line)
        elif table and not line.strip():
            lines += [*_markdown_table(table), ""]
            table, rules = [], 0
        elif table:
            table.append(line)
        else:
            lines.append(line)
    made = "\n".join([*lines, *(_markdown_table(table) if table else [])])
    if text.strip() == inspect.cleandoc(refscale.__doc__ or ""):
        made = re.sub(r"^\| ``(\w+)``", _full_name, made, flags=re.MULTILINE)
    return made


def _full_name(match: re.Match[str]) -> str:
    name = f"refscale.{match[1]}"
    return f"| ``{name}``" if name in modules() else match[0]


def _markdown_table(lines: list[str]) -> list[str]:
    """Convert a table with lines of ``=``, which mark its columns; a row without a first cell continues one."""
    starts = [m.start() for m in re.finditer(r"=+", lines[0])]
    ends = [*starts[1:], None]
    rows: list[list[str]] = []
    heads = 0
    for i, line in enumerate(lines[1:], 1):
        if TABLE.match(line.strip()):
            heads = len(rows) if i < len(lines) - 1 else heads
            continue
        cells = [line[a:b].strip() for a, b in zip(starts, ends, strict=True)]
        if cells[0] or not rows:
            rows.append(cells)
        else:
            rows[-1] = [f"{old} {new}".strip() for old, new in zip(rows[-1], cells, strict=True)]
    head = rows[:heads] or [[""] * len(starts)]
    shown = [*head, ["---"] * len(starts), *rows[heads:]]
    return ["", *(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in row)} |" for row in shown)]


def write(out: str | Path, names: Iterable[str] | None = None) -> None:
    """Write the pages.

    Args:
        out: directory to write to, created if absent.
        names: modules; None: ``modules()``.

    Raises:
        ArgumentError: pdoc is not installed.
    """
    try:
        import pdoc
    except ImportError as error:
        raise ArgumentError("reference: pdoc is missing: pip install -e '.[docs]'") from error
    google = pdoc.docstrings.google
    pdoc.docstrings.google = lambda text: google(markdown(text))
    pdoc.render.configure(docformat="google", show_source=False, footer_text=f"refscale {refscale.__version__}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Error parsing type annotation")  # of names that type checkers alone import
        warnings.filterwarnings("ignore", "The module specification")  # a package also brings its subpackages
        pdoc.pdoc(*(modules() if names is None else names), output_directory=Path(out))


def main() -> None:
    """Write the pages of all modules."""
    parser = argparse.ArgumentParser(description="Write the API reference as HTML pages.")
    parser.add_argument("out", metavar="DIR", help="directory to write to")
    out = parser.parse_args().out
    write(out)
    print(f"{len(modules())} pages; begin with {Path(out) / 'index.html'}")


if __name__ == "__main__":
    main()
