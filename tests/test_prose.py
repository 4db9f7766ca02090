"""Counts and figures in prose are current: ``tests/prose.py`` defines the source of each, and updates stale ones."""

import json
from math import log
from statistics import median, variance

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


def test_a_difference_is_the_first_minus_the_second_seed_by_seed(monkeypatch):
    stored = {"one": (1.0, 2.0, 4.5), "other": (2.0, 2.0, 2.0)}
    monkeypatch.setattr(prose, "losses", lambda file, variant: stored[variant])
    assert prose.loss("file", "one") == "2.500"
    assert prose.difference("file", "one", "other") == "+0.500 ± 1.041"  # of −1, 0, 2.5: √(6.5/2)/√3
    assert prose.difference("file", "other", "one", 2) == "−0.50 ± 1.04"


def rows(name, **settings):
    """The stored losses of the runs of a sweep with these settings, without the code that finds the best rates."""
    text = (prose.RESULTS / name / "results.jsonl").read_text(encoding="utf-8")
    found = [json.loads(line) for line in text.splitlines()]
    return [r["loss"] for r in found if settings.items() <= (r["settings"] | {"log2_lr": r["log2_lr"]}).items()]


def fp16(rounding):
    return ",".join(f"{place}=fp16/{rounding}" for place in ("store", "weights", "first_moment"))


def test_figures_of_smaller_gradients_are_stored_losses():
    settings = [
        {"scheme": "regular", "precision": "fp32"},
        *(
            {"scheme": "regular", "precision": fp16(r), "scaling": "static:2^-10"}
            for r in ("nearest_even", "stochastic")
        ),
        {"scheme": "unit", "precision": fp16("nearest_even"), "scaling": "static:2^-10"},
    ]
    losses = [loss for s in settings for loss in rows("underflow", **s)]
    assert prose.FIGURES["underflow.losses"].value() == "; ".join(f"{x:.3f}" for x in losses)


def test_figures_by_the_authors_choices_are_differences_of_the_least_stored_losses():
    def least(scheme, model, norm):
        settings = {"model": f"charlm-{model}:layers=2", "model.norm": norm, "precision": "fp32"}
        return min(rows("charlm-authors", scheme=scheme, **settings))

    settings = (("attention", "pre"), ("attention", "post"), ("conv", "pre"))
    differences = [f"{least('authors', *s) - least('regular', *s):+.3f}" for s in settings]
    assert prose.FIGURES["charlm-authors.differences"].value() == "; ".join(differences).replace("-", "−")


def test_figures_of_decoders_at_the_rate_of_width_64_are_medians_of_stored_losses():
    rates = (("transfer", "regular", -7), ("transfer", "unit", -3), ("transfer", "u-mup", 1))
    losses = [rows(name, scheme=s, log2_lr=e, **{"model.width": 512}) for name, s, e in rates]
    assert [len(x) for x in losses] == [3, 3, 3]
    losses.append(rows("transfer-tuned", log2_lr=0, **{"model.width": 512}))
    assert prose.FIGURES["transfer.narrow-rates"].value() == ", ".join(f"{median(x):.3f}" for x in losses)


def test_figures_of_fp4_are_stored_losses():
    two = rows("fp4")
    assert prose.FIGURES["fp4.losses"].value().split(", ")[1:] == [f"{x:.2f}" for x in two]


def test_the_interval_of_single_runs_is_that_of_their_spread():
    """Standard deviations of three seeds, within a tenth: their median, as of χ with two degrees of freedom."""
    for model in ("attention", "conv"):
        spread = [
            variance(o.losses)
            for o in prose.outcomes("charlm")
            if model in o.cell.point["model"] and "adamw" in o.cell.point["optimizer"]
        ]
        assert len(spread) == 36
        by_hand = 1.96 * (2 * median(spread) / log(2)) ** 0.5  # the median of χ²/2 is log 2
        assert float(prose.FIGURES[f"charlm.one-seed.{model}"].value()) == pytest.approx(by_hand, rel=0.1)


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
