"""Claims: figures, names, errors; and for each kind of figure a wrong number that it rejects."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from refscale.claims import CLAIMS, Claim, at_most, between, claim, near, none_wrong, places, same, sampled, verify
from refscale.claims.claim import FALSE_ALARM
from refscale.claims.run import OTHERS, WHOLE_MODELS
from refscale.errors import ArgumentError
from refscale.testing import Place, false_alarm_of
from tests.claims.found import LONG, found
from tests.claims.mutants import all_mutants


@pytest.mark.parametrize(
    ("figure", "holds", "strain"),
    [
        (same("x", 1.0, 1.0), True, 0.0),
        (same("x", math.nextafter(1, 2), 1.0), False, math.inf),
        (none_wrong("x", 0), True, 0.0),
        (none_wrong("x", True), False, math.inf),
        (near("x", 1.5, 1.0, 0.5), True, 1.0),
        (near("x", -1.5, -1.0, 0.4), False, 1.25),
        (near("x", math.nan, 1.0, 0.5), False, math.inf),
        (at_most("x", 0.5, 2.0), True, 0.25),
        (at_most("x", 2.5, 2.0), False, 1.25),
        (between("x", 2.0, 1.0, 2.0), True, 1.0),
        (between("x", 2.5, 1.0, 2.0), False, 2.0),
    ],
)
def test_figures(figure, holds, strain):
    assert figure.holds is holds
    assert figure.strain == pytest.approx(strain)


def test_a_sampled_figure_allows_what_its_false_alarm_rate_says():
    found = sampled("x", 1.0, 1.0, 0.01)
    assert false_alarm_of(found.allowed / 0.01) == pytest.approx(FALSE_ALARM, rel=1e-6)
    assert sampled("x", 1.0, 2.0, 0.01, 0.03).allowed == pytest.approx(found.allowed + 0.06)


def test_sampling():
    """It is for models and dependence alone: what a construction can decide is not sampled.

    And a run has so few sampled figures that correct code fails less than once in 1e9 runs.
    """
    counts: Counter[int] = Counter()
    for c in CLAIMS.values():
        if not c.slow:
            count = LONG[c.id] if c.id in LONG else sum(f.kind == "sampled" for f in found(c.id))
            counts[c.section] += len(places(c)) * count
    counts = +counts
    assert counts.keys() == {8, 10, 12}
    assert 100 < counts.total() < 1e-9 / FALSE_ALARM


def made(name="claim_3_01_thing", doc="Something holds for every thing.", figures=(), **options) -> Claim:
    def check(place):
        return figures

    check.__name__, check.__doc__ = name, doc
    return claim("somewhere", **options)(check)


class TestNames:
    def test_from_the_function(self):
        c = made("claim_12_07_tied_embedding", "One sentence\nin two lines.\n\nMore.")
        assert (c.id, c.section, c.number, c.name) == ("12.7", 12, 7, "tied_embedding")
        assert c.title == "One sentence in two lines."

    @pytest.mark.parametrize(("name", "doc"), [("claim_x", "Doc."), ("claim_3_01_thing", None), ("check", "Doc.")])
    def test_others_are_refused(self, name, doc):
        with pytest.raises(ArgumentError) as error:
            made(name, doc)
        assert str(error.value) == f"claim {name}: expected a name like claim_3_01_matmul, and a docstring"


class TestHolding:
    def test_all_wrong_figures_are_counted_and_five_named(self):
        c = made(figures=[same(f"figure {i}", 1.0, 2.0) for i in range(7)])
        with pytest.raises(AssertionError) as error:
            c.hold()
        lines = str(error.value).splitlines()
        assert lines[0] == "claim 3.1 (thing) at b=64,m=48,n=80,s=32: 7 wrong"
        assert lines[1] == "  figure 0: 1, expected 2"
        assert len(lines) == 6

    def test_a_claim_that_checks_nothing_is_no_claim(self):
        with pytest.raises(
            ArgumentError,
            match=r"^claim 3\.1: the check returned no figure at b=64,m=48,n=80,s=32, expected at least one$",
        ):
            made().hold()

    def test_every_claim_that_holds_has_figures(self):
        (result,) = verify([made(figures=[near("a", 1.0, 1.0, 0.1), near("b", 1.05, 1.0, 0.1)])])
        assert result.verdict == "holds"
        assert result.worst is not None
        assert result.worst.what == "b"

    def test_what_breaks_off_fails(self):
        def check(place):
            """Something that asserts on the way."""
            yield same("a", 1, 1)
            raise AssertionError("no such thing")

        check.__name__ = "claim_4_02_broken"
        (result,) = verify([claim("somewhere")(check)])
        assert (result.verdict, result.error, result.strain) == ("fails", "no such thing", math.inf)


class TestPlaces:
    def test_claims_about_sizes_are_checked_at_three(self):
        for c in CLAIMS.values():
            found = places(c)
            assert found[0] == Place()
            assert len(found) == (1 + len(OTHERS) if c.sizes and c.section != WHOLE_MODELS else 1), c.id

    def test_the_seed_moves_all(self):
        assert [p.seed for p in places(CLAIMS["3.9"], 10)] == [10, 11, 12]

    def test_given_places_are_taken(self):
        results = list(verify([CLAIMS["3.9"]], [Place(b=5, m=6, n=7), Place(b=500, m=600, n=700)]))
        assert [r.place.m for r in results] == [6, 600]
        assert {r.verdict for r in results} == {"holds"}


def test_the_command_reproduces_the_failure():
    mutant = next(m for m in all_mutants() if m.name == "matmul β1 × 1.03")
    with mutant.patched():
        failed = next(r for r in verify([CLAIMS["3.9"]], seed=4) if r.verdict == "fails")
    assert failed.command == "refscale verify --only 3.9 --shape b=64,m=48,n=80,s=32 --seed 4"
    wrong = [f for f in failed.figures if not f.holds]
    assert {f.what for f in wrong} == {
        "matmul: β of w over 64 terms",
        "matmul: β of w over 2·64 terms",
        "matmul: β of one w for two x, over 2·64 terms",
        "matmul: β of w in three products over 64 terms",
    }
    assert {round(f.measured, 6) for f in wrong} == {1.03}
