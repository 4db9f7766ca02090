"""The claims of the docs about fine-tuning, checked with the stored comparisons, and (slow) with a new one.

    refscale train bert-mini --scheme regular --seq 128 --batch 8 --steps 1000 --out trained
    refscale compare --pretrained trained --jobs 2 --out evidence
    REFSCALE_FINE_TUNING=evidence python -m pytest -m slow tests/train/test_finetune_evidence.py

The same with a published checkpoint in place of ``trained``. Without ``REFSCALE_FINE_TUNING`` the slow test does all
of this itself, in a temporary directory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import pytest

from refscale.sweep import Comparison, Row, compare, load_comparison, read_rows, tables
from refscale.sweep.comparison import VARIANTS
from refscale.tasks import SpanData
from refscale.train import FINE_TUNING, TrainConfig, train

RESULTS = Path(__file__).parents[2] / "tutorials" / "results"
DOCS = Path(__file__).parents[2] / "tutorials" / "06-bert.md"
STORED = ("finetune-mini.json", "finetune-minilm.json")


def shares(c: Comparison, name: str) -> list[float]:
    """F1 of every seed; 0 where a run diverged."""
    (variant,) = {r.variant for r in c.runs if r.variant.name == name}
    return [r.accuracy or 0.0 for r in c.of(variant)]


def check(c: Comparison) -> None:
    """Unit FP8 does as unit FP32, without a scale; regular FP8 needs one."""
    assert len(c.seeds) >= 3
    assert {r.variant for r in c.runs} >= set(VARIANTS["squad"])
    noise = 2 * max(stdev(shares(c, name)) for name in ("regular fp32", "unit fp32"))
    assert abs(mean(shares(c, "unit fp8")) - mean(shares(c, "unit fp32"))) < noise
    unit = [r for r in c.runs if r.variant.scheme == "unit"]
    assert max(r.overhead["statistics"] for r in unit) == 0
    assert all(r.diverged == "" for r in unit)


@pytest.mark.parametrize("name", STORED)
def test_the_stored_comparison(name):
    check(load_comparison(RESULTS / name))


@pytest.mark.parametrize("name", STORED)
def test_the_lesson_shows_it(name):
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    shown = tables(load_comparison(RESULTS / name)).splitlines()
    assert [line for line in shown if line.startswith("| ") and line not in lines] == []


def check_rates(rows: Iterable[Row], c: Comparison) -> None:
    """Unit FP32 at the regular model's rates ends at the loss of regular FP32 of the seed; at one rate it does not."""
    losses = {(r.variant.name, r.seed): r.loss for r in c.runs}
    rows = list(rows)
    assert rows
    for row in rows:
        assert (row.settings, row.log2_lr) == ({"scheme": "unit:rates=regular"}, c.log2_lr["regular"])
        regular, unit = losses["regular fp32", row.seed], losses["unit fp32", row.seed]
        assert abs(row.loss - regular) < 0.02 < unit - regular


def test_regular_rates_close_the_gap():
    rows, c = read_rows(RESULTS / "finetune-minilm-rates").values(), load_comparison(RESULTS / "finetune-minilm.json")
    check_rates(rows, c)
    for wrong in ([], [replace(r, loss=r.loss + 0.03) for r in rows], [replace(r, log2_lr=-8.0) for r in rows]):
        with pytest.raises(AssertionError):
            check_rates(wrong, c)


@pytest.mark.slow
def test_made_anew(tmp_path):
    stored = os.environ.get("REFSCALE_FINE_TUNING")
    if stored:
        check(load_comparison(Path(stored) / "comparison.json"))
        return
    config = TrainConfig("bert-mini", "regular", seq=128, batch=8, steps=1000)
    train(config, tmp_path / "trained", report=lambda line: None)
    check(compare(FINE_TUNING, tmp_path / "runs", data=SpanData(tmp_path / "trained"), jobs=2))
