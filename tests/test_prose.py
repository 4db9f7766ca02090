"""Counts and figures in prose are current: ``tests/prose.py`` defines the source of each, and updates stale ones."""

import pytest

from tests import prose

PLACES = prose.places()
HOW = "python -m tests.prose --write"


def stale(figures):
    """(page, name, quoted, today's) of every place of these figures that quotes another value."""
    values = {name: prose.FIGURES[name].value() for name in figures}
    return [
        (page.name, name, quoted, values[name])
        for page in prose.PAGES
        for name, quoted in prose.marked(page.read_text(encoding="utf-8"))
        if name in values and quoted != values[name]
    ]


def test_every_figure_has_a_place_and_every_place_a_figure():
    assert set(PLACES) == set(prose.FIGURES)


def test_figures_are_today_s():
    assert stale(name for name, f in prose.FIGURES.items() if not f.slow) == [], HOW


@pytest.mark.slow
def test_slow_figures_are_today_s():
    assert stale(name for name, f in prose.FIGURES.items() if f.slow) == [], f"{HOW} --slow"


def test_a_stale_figure_is_noticed(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("<!--= golden -->1<!--/--> vectors, <!--= lessons -->Eleven<!--/--> lessons", encoding="utf-8")
    monkeypatch.setattr(prose, "PAGES", [page])
    assert stale(["golden"]) == [("page.md", "golden", "1", str(prose.golden_vectors()))]


def test_values_are_written_between_their_markers():
    text = "a <!--= one -->1<!--/--> b <!--= two -->\n2\n<!--/--> c <!--= three -->3<!--/-->"
    assert prose.marked(text) == [("one", "1"), ("two", "\n2\n"), ("three", "3")]
    after = prose.updated(text, {"one": "10", "two": "\n20\n"})
    assert after == "a <!--= one -->10<!--/--> b <!--= two -->\n20\n<!--/--> c <!--= three -->3<!--/-->"


@pytest.mark.parametrize("path", prose.PAGES, ids=lambda p: p.name)
def test_every_marker_is_closed(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("<!--=") == text.count("<!--/-->") == len(prose.marked(text))
