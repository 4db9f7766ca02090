"""The comparison: learning rates, tables, files; a run that stands already is not repeated."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from inspect import signature
from types import SimpleNamespace

import numpy as np
import pytest

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.engine import apply
from refscale.errors import ArgumentError, DataError
from refscale.layers import Spec
from refscale.scales import get_scheme
from refscale.sweep import (
    Bracket,
    Comparison,
    Row,
    RunResult,
    Variant,
    compare,
    comparison,
    load_comparison,
    sweep,
    tables,
)
from refscale.sweep.comparison import STATIC, SWEEP, VARIANTS, to_content
from refscale.sweep.engine import DEATHS, POLL, lost, to_row
from refscale.sweep.search import best
from refscale.sweep.spec import run_id
from tests.train.runs import small, write_text

REGULAR, UNIT = Variant("regular", "fp32"), Variant("unit", "fp8")
AUTOMATIC = Variant("regular", "fp16", "automatic")
ALL = (REGULAR, UNIT, AUTOMATIC, Variant("regular", "bf16", seeds=1))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("compare")
    text = write_text(directory)
    base = small(steps=3, scales_every=0)
    found = compare(base, directory / "out", seeds=2, variants=ALL, data=text)
    return found, directory, text


class TestCompare:
    def test_every_run_is_there(self, made):
        found, *_ = made
        assert [(r.variant, r.seed) for r in found.runs] == [(v, s) for v in ALL for s in (0, 1)[: v.seeds]]
        assert all(r.loss is not None and r.seconds > 0 for r in found.runs)
        for run in found.runs:
            losses = found.grid[run.variant.scheme]
            assert run.log2_lr == found.log2_lr[run.variant.scheme] == min(losses, key=losses.get)
            assert min(losses) < run.log2_lr < max(losses)
        assert [r.flushed is None for r in found.runs] == [*([False, True] * 3), False]
        assert [r.dead for r in found.of(UNIT)] == [0.0, None]
        assert found.of(AUTOMATIC)[0].overhead["statistics"] > 0
        assert found.of(UNIT)[0].overhead["statistics"] == 0
        assert found.factors["regular"] == 0
        assert found.factors["unit"] > 50

    def test_the_grids_own_run_is_one_of_the_results(self, made):
        found, *_ = made
        assert found.of(REGULAR)[0].loss == found.grid["regular"][found.log2_lr["regular"]]

    def test_a_second_call_repeats_nothing(self, made):
        found, directory, text = made
        before = {p: p.stat().st_mtime_ns for p in (directory / "out").glob("runs/*/summary.json")}
        again = compare(found.base, directory / "out", seeds=2, variants=ALL, data=text)
        assert again == found
        assert before == {p: p.stat().st_mtime_ns for p in (directory / "out").glob("runs/*/summary.json")}

    def test_other_runs_in_the_directory(self, made):
        found, directory, text = made
        with pytest.raises(ArgumentError, match=r"contains another sweep, whose base differs from \{'batch': 3\}"):
            compare(replace(found.base, batch=3), directory / "out", variants=(REGULAR,), data=text)

    def test_round_trip(self, made, tmp_path):
        found, directory, _ = made
        assert load_comparison(directory / "out" / "comparison.json") == found
        path = tmp_path / "c.json"
        path.write_text(json.dumps(to_content(found) | {"schema": "refscale.comparison/9"}), encoding="utf-8")
        with pytest.raises(DataError, match=r"schema is 'refscale\.comparison/9', expected 'refscale\.comparison/1'"):
            load_comparison(path)
        path.write_text("{}", encoding="utf-8")
        with pytest.raises(DataError, match="KeyError 'schema', expected what compare writes"):
            load_comparison(path)

    @pytest.mark.parametrize("wrong", [{"seeds": 0}, {"variants": ()}, {"jobs": 0}])
    def test_nothing_to_do(self, tmp_path, wrong):
        with pytest.raises(ArgumentError, match="expected at least one of each"):
            compare(small(), tmp_path, **wrong)


def test_from_rows_by_hand(monkeypatch, tmp_path):
    """Rates from seed 0 alone, of equal ones the smaller; every variant at the rate of its scheme; factors counted.

    Seed 1 at the chosen rate is worse than its neighbors; the grid has no place for it.
    """
    losses = {
        ("regular", "fp32", 0): {-12.0: 4.0, -11.0: 3.5, -10.0: 3.25, -9.0: 3.25},
        ("regular", "fp32", 1): {-10.0: 9.0},
        ("unit", "fp32", 0): {-7.0: 3.5, -6.0: 3.0, -5.0: None},
        ("unit", "fp8", 0): {-6.0: 3.125},
        ("unit", "fp8", 1): {-6.0: 2.0},
    }
    rows = {}
    for (scheme, precision, seed), found in losses.items():
        settings = {"scheme": scheme, "precision": precision, "scaling": "none"}
        for e, loss in found.items():
            status = "done" if loss else "diverged"
            id = run_id(settings, e, seed)
            rows[id] = Row(id, settings, e, seed, status, loss, loss and 0.5, "", 1.0, {})
    monkeypatch.setattr(comparison, "sweep", lambda *_, **__: rows)
    monkeypatch.setattr(comparison, "Run", OneProduct)
    found = compare(small(scales_every=0), tmp_path, seeds=2, variants=(REGULAR, UNIT))
    assert found.grid == {"regular": losses["regular", "fp32", 0], "unit": losses["unit", "fp32", 0]}
    assert found.log2_lr == {"regular": -10.0, "unit": -6.0}
    assert [(r.variant, r.seed, r.log2_lr, r.loss) for r in found.runs] == [
        (REGULAR, 0, -10.0, 3.25),
        (REGULAR, 1, -10.0, 9.0),
        (UNIT, 0, -6.0, 3.125),
        (UNIT, 1, -6.0, 2.0),
    ]
    # Under unit scaling: α of the product, β of w, β of the loss. The product's β of x is not applied: x is constant.
    assert found.factors == {"regular": 0, "unit": 3}
    assert found.seeds == (0, 1)


class OneProduct:
    """In place of ``Run`` and its program: one product of a constant x (4, 16) and a parameter w (16, 8)."""

    specs = {"w": Spec("weight", (16, 8))}  # noqa: RUF012
    buffers = {}  # noqa: RUF012

    def __init__(self, scheme):
        self.scheme, self.task = scheme, self

    @classmethod
    def of(cls, config, data):
        return cls(get_scheme(config.scheme))

    def initial_state(self):
        return SimpleNamespace(parameters={"w": np.ones((16, 8), np.float32)})

    def batches(self, start):
        return iter([np.ones((4, 16), np.float32)])

    def loss(self, p, x, rng=None):
        return SimpleNamespace(total=F.cross_entropy(apply(ops.Matmul(), x, p["w"]), np.arange(4)))


def test_defaults():
    assert signature(compare).parameters["seeds"].default == 3
    assert signature(sweep).parameters["jobs"].default == 1
    assert Variant("unit", "fp8") == Variant("unit", "fp8", "none", None)
    assert (STATIC, [v.name for v in SWEEP], {v.seeds for v in SWEEP}) == (
        "static:2^15",
        [f"regular fp16 static:2^{e}" for e in (-10, -5, 20, 25)],
        {1},
    )
    assert (DEATHS, POLL) == (3, 0.2)


def test_a_run_that_diverged_has_no_loss():
    """Also if it had a validation before."""
    validation = {"masked_lm": 5.0, "masked_lm_accuracy": 0.1}
    summary = {
        "config": {"task": "masked-lm"},
        "diverged": "at step 7",
        "validation": validation,
        "seconds": 1.0,
        "overhead": {},
    }
    row = to_row("id", {}, -6.0, 0, summary)
    assert (row.status, row.loss, row.message) == ("diverged", None, "at step 7")
    row = to_row("id", {}, -6.0, 0, summary | {"diverged": ""})
    assert (row.status, row.loss, row.share) == ("done", 5.0, 0.1)
    row = to_row("id", {}, -6.0, 0, {"failed": "DataError: no text"})
    assert (row.status, row.loss, row.message) == ("failed", None, "DataError: no text")


def test_what_is_lost(tmp_path):
    """Of the first step the worst kind of cast, of the last the gradients that are zero."""
    path = tmp_path / "scales.jsonl"
    assert lost(path) == (None, None)

    def line(flushed, scales):
        casts = [
            {"place": place, "elements": 100, "flushed": n}
            for place, n in zip(("output", "gradient", "operand_gradient"), flushed, strict=True)
        ]
        kinds = ("weight", "activation gradient", "weight gradient", "weight gradient")
        tensors = [
            {"kind": kind, "judged": i < 3, "scale": s} for i, (kind, s) in enumerate(zip(kinds, scales, strict=True))
        ]
        return json.dumps({"casts": casts, "tensors": tensors}) + "\n"

    path.write_text(line((90, 10, 40), (0, 1, 1, 0)), encoding="utf-8")
    assert lost(path) == (0.4, 0.0)
    path.write_text(line((90, 10, 4), (0, 1, 1, 0)) + line((0, 0, 0), (0, 0, 1, 0)), encoding="utf-8")
    assert lost(path) == (0.1, 0.5)


class TestGrid:
    @pytest.mark.parametrize(
        ("losses", "least", "beyond"),
        [
            ({-2.0: 3.0, -1.0: 2.0, 0.0: 3.0}, -1.0, []),
            ({-2.0: 1.0, -1.0: 2.0, 0.0: 3.0}, -2.0, [-3.0]),
            ({-2.0: 3.0, -1.0: 2.0, 0.0: 1.0}, 0.0, [1.0]),
            ({-2.0: 3.0, -1.0: 2.0, 0.0: None}, -1.0, []),
            ({-2.0: None, -1.0: None, 0.0: None}, -2.0, [-3.0]),
        ],
    )
    def test_the_best_is_inside(self, losses, least, beyond):
        assert best(losses) == least
        assert Bracket(-1.0).next(losses) == beyond


def result(variant: Variant, seed: int, loss: float | None, **changes) -> RunResult:
    overhead = dict.fromkeys(("skipped", "statistics", "extra_passes", "elements", "scales", "changes", "state"), 0)
    plain = RunResult(variant, seed, -6.0, loss, 0.25, "" if loss else "diverged at step 2", 60.0, None, None, overhead)
    return replace(plain, **changes)


class TestTables:
    @pytest.fixture
    def text(self):
        runs = (
            result(REGULAR, 0, 4.0),
            result(REGULAR, 1, 4.2, seconds=90.0),
            result(UNIT, 0, 3.9, flushed=0.001, dead=0.5),
            result(UNIT, 1, 4.4),
            result(
                AUTOMATIC,
                0,
                4.5,
                overhead={
                    "skipped": 2,
                    "statistics": 16,
                    "extra_passes": 24,
                    "scales": 1,
                    "elements": 0,
                    "changes": 3,
                    "state": 2,
                },
            ),
            result(AUTOMATIC, 1, None),
            result(Variant("regular", "fp16", "static:2^5", seeds=1), 0, 4.4),
        )
        base = small(scales_every=0)
        grid = {"regular": {-12.0: 4.5, -11.0: 4.0}, "unit": {-7.0: None, -6.0: 3.9}}
        return tables(
            Comparison(base, (0, 1), grid, {"regular": -11.0, "unit": -6.0}, {"regular": 0, "unit": 99}, runs)
        )

    def row(self, text: str, table: int, start: str) -> list[str]:
        block = text.split("\n\n")[table]
        (line,) = [line for line in block.splitlines() if line.startswith(f"| {start} ")]
        return [cell.strip() for cell in line.strip("|").split("|")]

    def test_grid(self, text):
        assert self.row(text, 1, "loss") == ["loss by learning rate, FP32", "2^-12", "2^-11", "2^-7", "2^-6"]
        assert self.row(text, 1, "regular") == ["regular", "4.500", "**4.000**", "", ""]
        assert self.row(text, 1, "unit") == ["unit", "", "", "diverged", "**3.900**"]

    def test_losses(self, text):
        assert self.row(text, 2, "regular fp32")[1:] == ["4.100", "0.141", "", "25.0%", "", "", "60"]
        # differences −0.1 and +0.2: mean 0.05, standard error 0.15
        assert self.row(text, 2, "unit fp8")[1:] == ["4.150", "0.354", "+0.050 ± 0.150", "25.0%", "0.1%", "50.0%", "60"]
        assert self.row(text, 2, "regular fp16 automatic")[1] == "diverged in 1 of 2"
        assert self.row(text, 2, re.escape("regular fp16 static:2^5").replace("\\", ""))[1] == "4.400"

    def test_techniques(self, text):
        assert self.row(text, 3, "unit fp8")[1:] == ["99 constants", "nothing", "0", "0", "0", "0", "0"]
        assert self.row(text, 3, "regular fp16 automatic")[1:] == ["1", "nothing", "3", "2", "3", "2", "2"]
        assert "regular fp32" not in text.split("\n\n")[3]


def test_the_rows_the_paper_asks_for():
    names = {v.name for v in VARIANTS["masked-lm"]}
    assert {"regular fp32", "regular fp16", "regular fp8", "unit fp32", "unit fp16", "unit bf16", "unit fp8"} <= names
    assert {"unit fp8-fnuz", "u-mup fp32", "u-mup fp8", "regular fp8 current", "regular fp8 delayed"} <= names
    assert {f"regular {p} {s}" for p in ("fp16", "fp8") for s in (STATIC, "automatic")} <= names
