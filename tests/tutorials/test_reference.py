"""``tutorials/reference.py``, and that the names of README and lessons have a place in the API reference."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import sys

import pytest

import refscale
from refscale.errors import ArgumentError
from tests.tutorials.commands import LESSONS, notebooks, reference

PAGES = [LESSONS.parent / "README.md", *sorted(LESSONS.glob("*.md"))]
SPAN = re.compile(r"`((?:rs|refscale)(?:\.[A-Za-z]\w*)+)[`(]")
pdoc = pytest.mark.skipif(importlib.util.find_spec("pdoc") is None, reason="needs pdoc")


def nowhere(text: str) -> list[str]:
    """Names of a page, as `rs.plan` or `refscale.graph.plan`, without a place in the API reference.

    Modules without an ``__all__`` are named as files are; JUnit has its own names for the tests of vectors.
    """
    names = {re.sub(r"^rs\.", "refscale.", name) for name in SPAN.findall(text)} - {"refscale.cast.float8_e4m3fn"}
    return sorted(n for n in names if reference.address(n) is None and not _module(n))


def _module(name: str) -> bool:
    """Return whether there is a module of this name."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_name_of_a_page_is_in_the_reference(page):
    assert nowhere(page.read_text(encoding="utf-8")) == []


def test_a_name_that_is_nowhere_is_noticed():
    text = "`rs.plan`, `rs.plans`, `refscale.graph.plan(x)`, `refscale.graph.settle`, `refscale.graph.Plan.base`"
    assert nowhere(text) == ["refscale.graph.settle", "refscale.plans"]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("refscale", "refscale.html"),
        ("refscale.graph", "refscale/graph.html"),
        ("refscale.plan", "refscale.html#plan"),
        ("refscale.functional", "refscale/functional.html"),
        ("refscale.models.bert", "refscale/models/bert.html"),
        ("refscale.engine.Op.rows", "refscale/engine.html#Op.rows"),
        ("refscale.engine.Op.row", None),
        ("refscale.graph.settle", None),
        ("refscale.files.read_json", None),
        ("numpy.sum", None),
    ],
)
def test_addresses(name, place):
    assert reference.address(name) == place


def test_every_public_name_has_an_address():
    for module in reference.modules():
        assert all(reference.address(f"{module}.{name}") for name in sys.modules[module].__all__)


def test_names_in_notebooks_link_to_the_reference(tmp_path):
    text = "`rs.plan`, `graph.plan()`, `refscale.graph`, `x.shape`, `rs.report(m)`, [`rs.plan`](a.md)"
    (tmp_path / "lessons").mkdir()
    lesson = f"# 1 · A\n\n{text}\n\n```python\n>>> 1\n1\n\n```\n"
    (tmp_path / "lessons/01-a.md").write_text(lesson, encoding="utf-8")
    (made,) = notebooks.convert(tmp_path / "out", tmp_path / "lessons", tmp_path / "api")
    words = json.loads(made.read_text(encoding="utf-8"))["cells"][0]["source"]
    assert words.partition("\n\n")[2] == (
        "[`rs.plan`](../api/refscale.html#plan), [`graph.plan()`](../api/refscale/graph.html#plan), "
        "[`refscale.graph`](../api/refscale/graph.html), `x.shape`, `rs.report(m)`, [`rs.plan`](../lessons/a.md)"
    )


def test_tables():
    text = "A.\n\n====  ===\na|    b\n====  ===\n1     two\n      three\n4     5\n====  ===\n\nEnd."
    table = "\n| a\\| | b |\n| --- | --- |\n| 1 | two three |\n| 4 | 5 |"
    assert reference.markdown(text) == f"A.\n\n{table}\n\nEnd."
    without_head = "====  ===\n1     2\n====  ==="
    assert reference.markdown(without_head) == "\n|  |  |\n| --- | --- |\n| 1 | 2 |"
    names = reference.markdown(inspect.cleandoc(refscale.__doc__))
    assert "| ``refscale.formats`` | " in names
    assert "===" not in names


def test_without_pdoc(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pdoc", None)
    with pytest.raises(ArgumentError, match=r"^reference: pdoc is missing: pip install -e '\.\[docs\]'$"):
        reference.write(tmp_path)


def anchors(module: str, folder) -> set[str]:
    page = folder / reference.address(module)
    return set(re.findall(r'\bid="([\w.]+)"', page.read_text(encoding="utf-8")))


@pdoc
def test_a_page_has_its_names(tmp_path):
    reference.write(tmp_path, ["refscale.graph"])
    found = anchors("refscale.graph", tmp_path)
    assert set(sys.modules["refscale.graph"].__all__) <= found
    assert "settle" not in found


@pdoc
@pytest.mark.slow
def test_every_page_has_its_names(tmp_path):
    reference.write(tmp_path)
    assert (tmp_path / "index.html").exists()
    for module in reference.modules():
        missing = set(sys.modules[module].__all__) - anchors(module, tmp_path)
        assert all(f"{module}.{name}" in reference.modules() for name in missing), (module, missing)
    assert "refscale/formats.html" in (tmp_path / "refscale.html").read_text(encoding="utf-8")
