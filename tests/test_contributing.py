"""The contributor's page: paths exist, commands run the named tools, links have targets."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

import refscale
from refscale.cli import main

ROOT = Path(__file__).parents[1]
PAGES = {name: ROOT / ".github" / name for name in ("CONTRIBUTING.md", "CHANGELOG.md")}
SPAN = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"```sh\n(.*?)```", re.DOTALL)
PATH = re.compile(r"(?:refscale|tests|tutorials|\.ci|\.github)(?:/[\w.*-]+)+/?|pyproject\.toml|README\.md")
PROGRAM = re.compile(r"(REFSCALE_\w+=\w+ )?(python -m|refscale|ruff|mypy|git|pip|\.ci/run)( |$)")
TOOLS = {"ruff", "mypy", "git", "pip", ".ci/run"}
"""Programs other than Python that commands may begin with."""


def text(name: str) -> str:
    return PAGES[name].read_text(encoding="utf-8")


def commands(page: str) -> list[str]:
    """Return the commands on the page: spans and fenced lines that begin with a program."""
    lines = [line.strip() for block in FENCE.findall(page) for line in block.splitlines()]
    found = [part for line in [*SPAN.findall(FENCE.sub("", page)), *lines] for part in line.split(" && ")]
    return [c for c in found if PROGRAM.match(c)]


def wrong_paths(page: str) -> list[str]:
    """Paths of this repository that the page names, without a file or folder there."""
    return sorted({found for found in PATH.findall(page) if not list(ROOT.glob(found.rstrip("/")))})


def wrong_commands(page: str) -> list[str]:
    """Commands whose module, subcommand or test path is unknown."""
    return [c for c in commands(page) if not known(shlex.split(re.sub(r"^REFSCALE_\w+=\w+ ", "", c)))]


def known(words: list[str]) -> bool:
    if words[0] in TOOLS:
        return True
    if words[:2] == ["python", "-m"]:
        program, rest = words[2], words[3:]
    else:
        program, rest = words[0], words[1:]
    if program == "refscale":
        return is_subcommand(rest)
    if program == "pytest":
        return True  # its paths are checked with all others
    return program.startswith("tests.") and find_spec(program) is not None


def is_subcommand(rest: list[str]) -> bool:
    """Whether ``refscale`` knows the command, and, where it has actions, the action."""
    nested = rest[:2] if rest[0] == "golden" else rest[:1]
    try:
        main([*nested, "--help"])
    except SystemExit as end:
        return end.code == 0
    return True


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES)
def test_paths_exist(page):
    assert wrong_paths(text(page)) == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page, capsys):
    assert wrong_commands(text(page)) == []
    capsys.readouterr()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", text(page)):
        if link.startswith("https:"):
            continue
        file, _, anchor = link.partition("#")
        target = (PAGES[page].parent / file).resolve() if file else PAGES[page]
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_commands_are_found():
    assert {"mypy", "python -m pytest -m unit", "python -m tests.prose --write"} <= set(
        commands(text("CONTRIBUTING.md"))
    )


@pytest.mark.parametrize(
    ("page", "path", "command"),
    [
        ("see `refscale/engines/run.py`", ["refscale/engines/run.py"], []),
        ("`tests/core/test_*.py` and `tests/kore`", ["tests/kore"], []),
        ("`python -m tests.proze --write`", [], ["python -m tests.proze --write"]),
        ("`refscale reports`", [], ["refscale reports"]),
        ("```sh\nmypy && refscale golden verify\n```", [], ["refscale golden verify"]),
    ],
)
def test_a_wrong_name_is_found(page, path, command, capsys):
    assert (wrong_paths(page), wrong_commands(page)) == (path, command)
    capsys.readouterr()


def test_the_readme_leads_to_both_pages():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"(.github/{name})" in readme for name in PAGES)


def test_both_files_have_the_same_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == refscale.__version__


def test_every_version_is_in_the_changelog():
    assert f"## {refscale.__version__}" in text("CHANGELOG.md")


def test_the_script_of_the_checks_is_a_program():
    subprocess.run(["bash", "-n", str(ROOT / ".ci/run")], check=True)
