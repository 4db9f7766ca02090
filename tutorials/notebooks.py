"""Write every lesson as a Jupyter notebook and as a Python script.

    python tutorials/notebooks.py DIR
    python tutorials/notebooks.py DIR --reference PAGES   # names link to the API reference in PAGES: see reference.py

DIR receives ``NN-name.ipynb`` and ``NN-name.py`` for each lesson, the folders ``figures`` and ``results``, and
``test_NN.py`` for a lesson with a file of tests. Run the notebooks and scripts in DIR. A lesson that trains does not
overwrite runs: before a second time, delete them, or write the lessons to a new directory.

The lessons are Markdown, and their blocks of Python are doctests. An example with output ends a cell. An exception that
a lesson shows does not stop the notebook or the script.
"""

from __future__ import annotations

import argparse
import ast
import doctest
import os
import re
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import reference

from refscale.files import json_text, write_text

LESSONS = Path(__file__).parent
FENCE = re.compile(r"^```(.*)$")
LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]*)?\)")
NAME = re.compile(r"(?<!\[)`((?:rs|[a-z]\w*)(?:\.\w+)+)(\(\))?`")
MARKER = re.compile(r"<!--.*?-->")
LESSON = re.compile(r"\d\d-[\w-]+\.md")
SOLUTION, END = "<details><summary>Solution</summary>", "</details>"


@dataclass(frozen=True)
class Cell:
    """A cell of a lesson.

    Attributes:
        text: Markdown, or Python without prompts.
        code: whether it is Python.
        output: the expected output, empty for Markdown.
        raises: the expected exception, as ``Name: message``; empty if there is none.
        hidden: whether it is part of a solution.
    """

    text: str
    code: bool = False
    output: str = ""
    raises: str = ""
    hidden: bool = False


def blocks(text: str) -> Iterator[tuple[str | None, str]]:
    """Yield the text of a lesson in order: None and Markdown, or the words after the fence and a block of Python."""
    lines: list[str] = []
    python = None
    other = False  # inside a block of another language
    for line in text.splitlines():
        fence = FENCE.match(line)
        starts = fence is not None and not other and python is None and fence[1].startswith("python")
        if starts or (fence and python is not None):
            yield python, "\n".join(lines).strip("\n")
            lines = []
            python = fence[1].removeprefix("python").strip() if starts and fence else None
            continue
        if fence:
            other = not other
        lines.append(line)
    yield python, "\n".join(lines).strip("\n")


def cells(text: str, number: str) -> tuple[list[Cell], list[str]]:
    """Return the cells of a lesson, and its files of tests.

    Args:
        text: the lesson in Markdown.
        number: number of the lesson, two digits.
    """
    found: list[Cell] = []
    tests: list[str] = []
    hidden = False
    for kind, block in blocks(MARKER.sub("", text)):
        if kind is None:
            for part in re.split(f"({re.escape(SOLUTION)}|{END})", block):
                hidden = part == SOLUTION or (hidden and part != END)
                words = "**Solution**" if part == SOLUTION else part.strip("\n")
                if words.strip() and part != END:
                    found.append(Cell(words))
        elif kind == "pytest":
            tests.append(block)
            command = f"python -m pytest test_{number}.py"
            found.append(Cell(f"```python\n{block}\n```\n\nThe file `test_{number}.py` has these tests: `{command}`."))
        elif kind == "figure":
            found.append(Cell(block, code=True, hidden=hidden))
        else:
            found.extend(_examples(block, hidden))
    return found, tests


def _examples(block: str, hidden: bool) -> Iterator[Cell]:
    """Yield the cells of a doctest; an example with output is the last one of its cell."""
    sources: list[str] = []
    for example in doctest.DocTestParser().get_examples(block + "\n"):
        sources.append(example.source.rstrip("\n"))
        if example.want:
            raises = re.sub(r"^[\w.]*\.(?=\w+(:|$))", "", (example.exc_msg or "").rstrip("\n"))
            output = "" if raises else example.want.replace("<BLANKLINE>", "").removesuffix("\n")
            yield Cell("\n".join(sources), True, output, raises, hidden)
            sources = []
    if sources:
        yield Cell("\n".join(sources), True, hidden=hidden)


# --- Links ------------------------------------------------------------------------------------------------------------


def relinked(text: str, suffix: str, out: Path, lessons: Path = LESSONS) -> str:
    """Return Markdown with links to lessons as files with a suffix, and other links to the files of the clone.

    Figures and results are in ``out``; their links stay.
    """

    def new(match: re.Match[str]) -> str:
        name, anchor = match[1], match[2] or ""
        if re.match(r"\w+:", name) or re.match("(figures|results)/", name) or not name:
            return match[0]
        if not LESSON.fullmatch(name):
            return f"]({Path(os.path.relpath(lessons / name, out)).as_posix()}{anchor})"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", (lessons / name).read_text(encoding="utf-8"), re.MULTILINE)
            anchor = next("#" + h.replace(" ", "-") for h in headings if anchor == "#" + github_anchor(h))
        return f"]({name.removesuffix('.md')}{suffix}{anchor})"

    return LINK.sub(new, text)


def referenced(text: str, pages: Path) -> str:
    """Return Markdown whose public names (`rs.plan`, `graph.plan`, `refscale.graph.plan`) link to the API reference.

    Args:
        text: Markdown without fenced code.
        pages: directory of the reference, relative to that of the notebooks.
    """

    def new(match: re.Match[str]) -> str:
        name = re.sub(r"^(rs|refscale)\.", "", match[1])
        place = reference.address(f"refscale.{name}")
        return f"[{match[0]}]({(pages / place).as_posix()})" if place else match[0]

    return NAME.sub(new, text)


def github_anchor(heading: str) -> str:
    """Return the anchor of a heading on GitHub; Jupyter only replaces spaces."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


# --- Files ------------------------------------------------------------------------------------------------------------


def notebook(found: list[Cell]) -> dict[str, Any]:
    """Return a notebook as JSON, nbformat 4.4; cells of solutions are folded."""
    return {
        "cells": [_json(cell) for cell in found],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 4,
    }


def _json(cell: Cell) -> dict[str, Any]:
    if not cell.code:
        return {"cell_type": "markdown", "metadata": {}, "source": cell.text}
    outputs: list[dict[str, Any]] = []
    metadata: dict[str, Any] = {"jupyter": {"source_hidden": True, "outputs_hidden": True}} if cell.hidden else {}
    if cell.output:
        outputs = [{"output_type": "stream", "name": "stdout", "text": cell.output + "\n"}]
    if cell.raises:
        name, _, message = cell.raises.partition(": ")
        outputs = [{"output_type": "error", "ename": name, "evalue": message, "traceback": [cell.raises]}]
        metadata["tags"] = ["raises-exception"]  # "run all" continues after it
    made = {"cell_type": "code", "execution_count": None, "metadata": metadata}
    return {**made, "outputs": outputs, "source": cell.text}


def script(found: list[Cell]) -> str:
    """Return a script with the cell marks of the percent format; the output in the lesson follows ``#>``."""
    parts = ["# %%\nfrom sys import displayhook as display"]
    for cell in found:
        if not cell.code:
            parts.append("# %% [markdown]\n" + textwrap.indent(cell.text, "# ", lambda _: True).replace("# \n", "#\n"))
            continue
        shown = textwrap.indent(cell.output or cell.raises, "#> ", lambda _: True)
        parts.append(f"# %%\n{_printing(cell)}\n{shown}".rstrip("\n"))
    return "\n\n".join(parts) + "\n"


def _printing(cell: Cell) -> str:
    """Return the code of a cell; it displays the value of its last expression and prints the expected exception."""
    if cell.raises:
        body = textwrap.indent(cell.text, "    ")
        return f'try:\n{body}\nexcept Exception as error:\n    print(f"{{type(error).__name__}}: {{error}}")'
    last = ast.parse(cell.text).body[-1] if cell.output else None
    if not isinstance(last, ast.Expr) or ast.unparse(last).startswith("print("):
        return cell.text
    lines = cell.text.splitlines()
    before, value = lines[: last.lineno - 1], "\n".join(lines[last.lineno - 1 :])
    if "\n" in value or "#" in value:
        value = f"\n{textwrap.indent(value, '    ')}\n"
    shown = f"display(({value}))" if isinstance(last.value, ast.Tuple) else f"display({value})"
    return "\n".join([*before, shown])


def convert(out: str | Path, lessons: Path = LESSONS, pages: str | Path | None = None) -> list[Path]:
    """Write the notebooks and the scripts of all lessons.

    Args:
        out: directory to write to, created if absent.
        lessons: directory of the lessons.
        pages: directory of the API reference, to which names in notebooks link; None: no links.

    Returns:
        The notebooks.
    """
    out = Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for path in sorted(lessons.glob("[0-9][0-9]-*.md")):
        text = path.read_text(encoding="utf-8")
        if text.startswith("# Moved: "):  # an old name of a lesson
            continue
        for suffix in (".ipynb", ".py"):
            found, tests = cells(relinked(text, suffix, out, lessons), path.name[:2])
            if pages and suffix == ".ipynb":
                there = Path(os.path.relpath(Path(pages).resolve(), out))
                found = [c if c.code or "```" in c.text else replace(c, text=referenced(c.text, there)) for c in found]
            content = script(found) if suffix == ".py" else json_text(notebook(found))
            write_text(out / f"{path.stem}{suffix}", content)
        for source in tests:
            write_text(out / f"test_{path.name[:2]}.py", source + "\n")
        made.append(out / f"{path.stem}.ipynb")
    for folder in ("figures", "results"):
        if (lessons / folder).is_dir():
            shutil.copytree(lessons / folder, out / folder, dirs_exist_ok=True)
    return made


def main() -> None:
    """Convert the lessons beside this file."""
    parser = argparse.ArgumentParser(description="Write every lesson as a Jupyter notebook and as a Python script.")
    parser.add_argument("out", metavar="DIR", help="directory to write to")
    parser.add_argument("--reference", metavar="PAGES", help="directory of the API reference, to which names then link")
    args = parser.parse_args()
    made = convert(args.out, pages=args.reference)
    print(f"{len(made)} notebooks and scripts in {made[0].parent}")
    print("run them there; before a second time, delete the runs that a lesson wrote")


if __name__ == "__main__":
    main()
