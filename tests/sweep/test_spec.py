"""Specs: accepted and refused contents; searches: the next rates."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from refscale.errors import ArgumentError, DataError
from refscale.optim import get_schedule
from refscale.sweep import SHIPPED, Bracket, Grid, Row, SweepSpec, Walk, load_spec, outcomes, summary
from refscale.sweep.rows import loss_of
from refscale.sweep.search import best, replay
from refscale.sweep.spec import run_id
from refscale.sweep.summary import seed_interval

TOML = """
title = "t"
seeds = 2
[base]
steps = 3
batch = 2
[grid]
model = ["charlm-conv", "charlm-attention"]
"model.norm" = ["pre", "post"]
optimizer = ["adamw"]
[[skip]]
model = "charlm-conv"
"model.norm" = "post"
[[variants]]
name = "A"
scheme = "regular"
[[variants]]
name = "B"
scheme = "unit"
precision = "fp8"
seeds = 1
[rate]
search = "walk"
of = {precision = "fp32"}
[[rate.start]]
scheme = "regular"
at = -9
[[rate.start]]
at = -6
"""


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "s.toml").write_text(TOML)
    return load_spec(tmp_path / "s.toml")


def test_cells(spec):
    cells = list(spec.cells())
    assert [(c.settings["model"], c.settings["model.norm"], c.variant, c.seeds) for c in cells] == [
        ("charlm-conv", "pre", "A", 2),
        ("charlm-conv", "pre", "B", 1),
        ("charlm-attention", "pre", "A", 2),
        ("charlm-attention", "pre", "B", 1),
        ("charlm-attention", "post", "A", 2),
        ("charlm-attention", "post", "B", 1),
    ]
    config = spec.config(cells[5].settings, -6.0, 1)
    assert config.model == "charlm-attention:norm=post"
    assert (config.scheme, config.precision, config.lr, config.seed, config.steps) == ("unit", "fp8", 2.0**-6, 1, 3)
    assert spec.config(cells[5].settings, -6.0, 1, traced=True).scales_every == 1
    some = replace(spec, skip=({"model.norm": "post"}, {"model": "charlm-conv"}))
    assert [(c.point["model"], c.point["model.norm"]) for c in some.cells()] == [("charlm-attention", "pre")] * 2
    longer = replace(spec, base={"steps": 40})
    assert [longer.config(cells[5].settings, -6.0, 1, traced).scales_every for traced in (False, True)] == [0, 4]
    assert [c.seeds for c in replace(spec, variants={"a": {"seeds": 5}, "b": {"seeds": 1}}).cells()] == [2, 1] * 3


def test_rates_are_found_with_other_settings(spec):
    """A rate is looked for in FP32, which is the run that the FP32 cell of the same scheme would have."""
    first, second = list(spec.cells())[:2]
    assert spec.rate_settings(first.settings) == first.settings
    assert spec.rate_settings(second.settings)["precision"] == "fp32"
    assert spec.search_of(first.settings) == Walk(-9.0, 1.0, 0.05)
    assert spec.search_of(second.settings) == Walk(-6.0, 1.0, 0.05)


def test_names(spec):
    names = {run_id(c.settings, -9.0, s) for c in spec.cells() for s in range(2)}
    assert len(names) == 12
    assert run_id(next(spec.cells()).settings, -9.0, 0) == "charlm-conv_pre_adamw_regular_fp32_lr-9_seed0"
    assert run_id({"model": "a"}, -9.5, 1) == "a_lr-9.5_seed1"
    long = {"model": "x" * 200, "optimizer": "a"}
    other = {"model": "x" * 200, "optimizer": "b"}
    assert len(run_id(long, 0, 0)) < 150
    assert run_id(long, 0, 0) != run_id(other, 0, 0)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_those_that_come_along(name):
    """Every run of every one is one that could be made."""
    spec = load_spec(name)
    for cell in spec.cells():
        rule = spec.search_of(spec.rate_settings(cell.settings))
        assert spec.config(cell.settings, rule.next({})[0], 0).kind.name in ("next-token", "masked-lm")


def test_the_sweep_of_the_paper_has_the_settings_of_the_authors_code():
    """run_sweep.py, scmm/training.py, scmm/layers.py; attention and convolutions of 2 and 8 layers, an RNN of 2."""
    spec = load_spec("charlm-full")
    cells = list(spec.cells())
    assert len(cells) == 5 * 3 * 3 * 2 * 6  # models and depths, norms, residual rules, optimizers, variants
    depths = {(c.point["model"].split(":")[0].removeprefix("charlm-"), c.point["model.layers"]) for c in cells}
    assert depths == {("attention", 2), ("attention", 8), ("conv", 2), ("conv", 8), ("rnn", 2)}
    adamw = next(c for c in cells if c.point["optimizer"].startswith("adamw") and c.variant == "unit FP16")
    assert spec.search_of(adamw.settings) == Walk(-8.0, 1.0, pytest.approx(0.1 / math.log(2), abs=1e-4))
    assert (spec.rate_seeds, spec.seeds) == (3, 3)
    config = spec.config(adamw.settings, -8, 0)
    assert (config.steps, config.batch, config.seq, config.warmup_steps) == (2**19, 8, 256, 0)
    assert (config.optimizer, config.weight_decay, config.precision) == ("adamw:eps=1e-7", 0.0, "fp16-sr")
    assert get_schedule(config.schedule, every=config.halve_every)(2**15) == pytest.approx(0.5**0.5, rel=2.0**-52)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 3", "stepz = 3", "'stepz' is not a setting, expected one of accumulate, "),
        ("steps = 3", "lr = 3", "'lr' is not a setting"),
        ("[[variants]]\nname", "[[variant]]\nname", "'variants'"),
        ("seeds = 2", "seeds = 0", "seeds 0 and 1, expected at least 1"),
        ('search = "walk"', 'search = "random"', "search 'random', expected one of walk, bracket, grid"),
        ("at = -6", 'at = "low"', "expected numbers 'at'"),
        ("[base]", "[base", "not valid TOML: Expected ']' at the end of a table declaration (at line 4, column 6)"),
        ('title = "t"', 'title = "t"\nspeed = 3', "'speed' is not known"),
        ('"adamw"', '"rmsprop"', "get_optimizer('rmsprop')"),
        ('"pre", "post"', '"last"', "LanguageConfig(norm='last')"),
        ("steps = 3", 'steps = "many"', "expected"),
        ("[base]", 'plot = "pie"\n[base]', "plot 'pie', expected 'scatter' or 'rates'"),
        ("[base]", 'diverged_above = "6"\n[base]', "diverged_above '6', expected a loss"),
    ],
)
def test_errors(tmp_path, old, new, message):
    from refscale.sweep import sweep

    (tmp_path / "s.toml").write_text(TOML.replace(old, new))
    with pytest.raises((ArgumentError, DataError)) as error:
        sweep(load_spec(tmp_path / "s.toml"), tmp_path / "out")
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_defaults():
    assert asdict(SweepSpec("t", variants={"a": {}})) == {
        "title": "t",
        "base": {},
        "grid": {},
        "variants": {"a": {}},
        "skip": (),
        "seeds": 1,
        "search": "bracket",
        "start": (),
        "step": 1.0,
        "threshold": 0.05,
        "rate_seeds": 1,
        "rate_of": {},
        "diverged_above": math.inf,
        "plot": "scatter",
    }


def test_a_table_with_nothing_but_variants_has_the_same_defaults(tmp_path):
    (tmp_path / "s.toml").write_text('title = "t"\n[[variants]]\nname = "a"\n')
    assert load_spec(tmp_path / "s.toml") == SweepSpec("t", variants={"a": {}})


def test_no_such_spec(tmp_path):
    with pytest.raises(DataError, match=r"no such file, expected a path, or one of charlm, "):
        load_spec(tmp_path / "nothing.toml")


class TestSearches:
    def test_a_walk_ends_where_it_is_worse(self):
        walk = Walk(-4.0, 2.0, 0.5)
        losses: dict[float, float | None] = {}
        for loss in (3.0, 2.0, 2.4, 2.6):
            (e,) = walk.next(losses)
            losses[e] = loss
        assert list(losses) == [-4.0, -2.0, 0.0, 2.0]
        assert walk.next(losses) == []
        assert walk.next({-4.0: 3.0, -2.0: None}) == []
        assert walk.next({-4.0: None}) == []

    def test_a_walk_that_gets_better_for_ever(self):
        assert Walk(0.0, most=3).next({0.0: 3.0, 1.0: 2.0}) == [2.0]
        assert Walk(0.0, most=3).next({0.0: 3.0, 1.0: 2.0, 2.0: 1.0}) == []
        assert Walk(0.0).next({float(e): -e for e in range(15)}) == [15.0]
        assert Walk(0.0).next({float(e): -e for e in range(16)}) == []

    def test_a_walk_goes_on_at_its_threshold(self):
        """A loss worse by exactly 0.25 is not worse by more; the next number above is."""
        assert Walk(0.0, threshold=0.25).next({0.0: 2.0, 1.0: 2.25}) == [2.0]
        assert Walk(0.0, threshold=0.25).next({0.0: 2.0, 1.0: math.nextafter(2.25, 3)}) == []
        assert (Walk(0.0).step, Walk(0.0).threshold) == (1.0, 0.05)

    def test_of_equal_losses_the_smallest_rate_is_the_best(self):
        assert best({-5.0: 2.0, -4.0: 2.0, -6.0: 3.0}) == -5.0
        assert best({-4.0: None, -5.0: None}) == -5.0
        assert Bracket(0.0).next({-1.0: 2.0, 0.0: 2.0, 1.0: 3.0}) == [-2.0]  # the best is at the lower edge
        assert Bracket(0.0).next({-1.0: 3.0, 0.0: 2.0, 1.0: 2.0}) == []  # and here inside

    def test_a_grid_is_run_once(self):
        grid = Grid((1.0, 2.0, 3.0))
        assert grid.next({}) == [1.0, 2.0, 3.0]
        assert grid.next({1.0: 1.0, 2.0: None, 3.0: 1.0}) == []

    def test_a_bracket_starts_at_what_is_customary(self):
        spec = SweepSpec("t", variants={"a": {"scheme": "unit"}}, base={"model": "charlm-conv"})
        assert spec.search_of(next(spec.cells()).settings) == Bracket(-6)


class TestTables:
    """Figures by hand."""

    NO_INTERVAL = "No interval: no cell has two finished seeds, so no variant counts as better or worse than the first."

    SPEC = SweepSpec(
        "t",
        {"model": "charlm-conv"},
        grid={"model.norm": ("pre", "post")},
        variants={"a": {"scheme": "regular"}, "b": {"scheme": "unit"}},
        seeds=3,
        search="grid",
        start=({"exponents": [-6]},),
    )

    def rows(self, losses):
        found = {}
        for cell in self.SPEC.cells():
            for seed, loss in enumerate(losses[cell.point["model.norm"], cell.variant]):
                id = run_id(cell.settings, -6.0, seed)
                status = "diverged" if loss is None else "done"
                found[id] = Row(id, cell.settings, -6.0, seed, status, loss, 0.5, "", 3600.0, {})
        return found

    def test_shares(self):
        rows = self.rows(
            {
                ("pre", "a"): (3.0, 3.1, 3.2),
                ("pre", "b"): (3.3, 3.2, 3.1),
                ("post", "a"): (2.0, 2.1, 2.2),
                ("post", "b"): (2.4, 2.5, 2.6),
            }
        )
        found = outcomes(self.SPEC, rows)
        assert [o.loss for o in found] == [3.1, 3.2, 2.1, 2.5]
        # Each cell has a standard deviation of 0.1: 1.96·0.1·√(2/3)·√(π/2), over √(8/9)³ for two degrees of freedom.
        assert seed_interval(found) == pytest.approx(0.239331, rel=1e-5)
        text = summary(self.SPEC, rows)
        assert "12 runs (0 diverged, 0 failed), 12.00 core-hours; 3 seeds." in text
        (row,) = [line for line in text.splitlines() if line.startswith("| b ")]
        assert [cell.strip() for cell in row.strip("|").split("|")] == ["b", "2", "1 (50%)", "0", "1", "+0.2500", "0"]
        assert "| post | 2.100 (2^-6) | 2.500 (2^-6) |" in text

    def test_what_is_equal_is_as_good(self):
        """Neither better nor worse; seeds that agree have the interval 0, and the next number is worse or better."""
        losses = {("pre", "a"): (3.0,) * 3, ("pre", "b"): (3.0,) * 3, ("post", "a"): (2.0,) * 3}
        for b, counts in ((2.0, "2 (100%) 0 0"), (2.0 + 2**-50, "1 (50%) 0 1"), (2.0 - 2**-50, "2 (100%) 1 0")):
            text = summary(self.SPEC, self.rows(losses | {("post", "b"): (b,) * 3}))
            (row,) = [line for line in text.splitlines() if line.startswith("| b ")]
            assert " ".join(cell.strip() for cell in row.strip("|").split("|")[2:5]) == counts
            assert text.endswith(
                "Within ± 0.0000: the 95 % interval of a difference, from the cells' typical spread over seeds.\n"
            )

    def test_one_seed_has_no_interval(self):
        """And no verdicts: differences alone."""
        losses = {("pre", "a"): (3.0,), ("pre", "b"): (3.1,), ("post", "a"): (2.0,), ("post", "b"): (None,)}
        text = summary(replace(self.SPEC, seeds=1), self.rows(losses))
        head, cells, row = ([c.strip() for c in x.strip("|").split("|")] for x in text.split("\n\n")[2].splitlines())
        assert head == ["variant", "points", "median difference", "diverged"]
        assert len(cells) == 4
        assert row == ["b", "2", "+0.1000", "1"]
        assert text.endswith(f"\n\n{self.NO_INTERVAL}\n")
        assert "±" not in text

    def test_seeds_of_which_one_is_left_have_no_interval(self):
        """One finite loss in each cell, whatever the number of seeds."""
        one = {(norm, variant): (3.0, None, None) for norm in ("pre", "post") for variant in "ab"}
        assert summary(self.SPEC, self.rows(one)).endswith(f"{self.NO_INTERVAL}\n")
        two = one | {("pre", "a"): (3.0, 3.5, None)}
        assert "Within ± " in summary(self.SPEC, self.rows(two))

    def test_cells_that_have_not_run_do_not_change_the_interval(self):
        """A sweep that is interrupted, or half done: one cell of four with its three seeds."""
        every = {(norm, variant): (3.0, 3.1, 3.2) for norm in ("pre", "post") for variant in "ab"}
        part = dict.fromkeys(every, ()) | {("pre", "a"): every["pre", "a"]}
        of_part, of_all = (seed_interval(outcomes(self.SPEC, self.rows(x))) for x in (part, every))
        assert of_part == of_all > 0
        assert "t: 3 runs (0 diverged, 0 failed)" in summary(self.SPEC, self.rows(part))

    def test_what_ends_at_the_limit_has_not_diverged(self):
        row = next(iter(self.rows({(n, v): (6.5,) for n in ("pre", "post") for v in "ab"}).values()))
        assert loss_of(row, 6.5) == loss_of(row) == 6.5
        assert loss_of(row, math.nextafter(6.5, 6)) == math.inf

    def test_what_diverged_matches_nothing(self):
        some = {
            ("pre", "a"): (3.0,) * 3,
            ("pre", "b"): (None,) * 3,
            ("post", "a"): (2.0,) * 3,
            ("post", "b"): (1.0,) * 3,
        }
        text = summary(self.SPEC, self.rows(some))
        (row,) = [line for line in text.splitlines() if line.startswith("| b ")]
        assert [cell.strip() for cell in row.strip("|").split("|")] == ["b", "2", "1 (50%)", "1", "1", "-1.0000", "1"]
        assert "| pre  | 3.000 (2^-6) | diverged     |" in text

    def test_what_ends_above_the_limit_has_diverged(self):
        some = {
            ("pre", "a"): (3.0,) * 3,
            ("pre", "b"): (3.0, 6.6, 1e15),
            ("post", "a"): (2.0,) * 3,
            ("post", "b"): (2.0, 2.0, 6.6),
        }
        spec, rows = replace(self.SPEC, diverged_above=6.5), self.rows(some)
        found = outcomes(spec, rows)
        assert [o.loss for o in found] == [3.0, float("inf"), 2.0, 2.0]
        assert seed_interval(found) == 0.0
        assert "12 runs (3 diverged, 0 failed)" in summary(spec, rows)
        assert [o.log2_lr for o in outcomes(replace(spec, rate_seeds=3), rows)] == [-6.0] * 4

    def test_a_wild_cell_does_not_widen_the_interval_of_all(self):
        calm = {(norm, variant): (3.0, 3.1, 3.2) for norm in ("pre", "post") for variant in "ab"}
        wild = calm | {("pre", "a"): (3.0, 4.1, 6.2)}
        of_calm, of_wild = (seed_interval(outcomes(self.SPEC, self.rows(x))) for x in (calm, wild))
        assert of_wild == pytest.approx(of_calm)

    def test_the_interval_holds_what_it_says(self):
        """At least 95 % of the differences of medians of three normal numbers; √(π/2) is a bound, so a bit more."""
        losses = np.random.default_rng(0).normal(3.0, 0.1, (4000, 3))
        same = {(norm, variant): (3.0,) * 3 for norm in ("pre", "post") for variant in "ab"}
        cell = outcomes(self.SPEC, self.rows(same))[0]
        cells = [replace(cell, losses=tuple(map(float, row))) for row in losses]
        medians = np.median(losses, axis=1)
        inside = np.mean(np.abs(medians[::2] - medians[1::2]) < seed_interval(cells))
        assert 0.95 < inside < 0.98

    def test_a_search_that_has_not_ended_has_no_rate(self):
        assert [o.log2_lr for o in outcomes(self.SPEC, {})] == [None] * 4
        assert replay(Walk(-4.0), {-4.0: 2.0}.get) == ({-4.0: 2.0}, [-3.0])
        assert replay(Walk(-4.0), {-4.0: 2.0, -3.0: float("inf")}.get) == ({-4.0: 2.0, -3.0: None}, [])
