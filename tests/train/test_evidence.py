"""The claims of the docs about training, checked with the stored comparison, and (slow) with a new one.

    refscale compare bert-mini --jobs 2 --out evidence              # an hour and a half on two cores
    REFSCALE_EVIDENCE=evidence python -m pytest -m slow tests/train/test_evidence.py

Without ``REFSCALE_EVIDENCE`` the slow test makes the comparison itself, in a temporary directory.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import pytest

from refscale.analysis import load_drifts
from refscale.sweep import Comparison, Variant, compare, load_comparison, tables
from refscale.sweep.comparison import STATIC, VARIANTS

RESULTS = Path(__file__).parents[2] / "tutorials" / "results"
DOCS = Path(__file__).parents[2] / "tutorials" / "07-training-in-fp8.md"


def losses(c: Comparison, name: str) -> list[float]:
    """Of all seeds; infinite where a run diverged."""
    (variant,) = {r.variant for r in c.runs if r.variant.name == name}
    return [math.inf if r.loss is None else r.loss for r in c.of(variant)]


def differences(c: Comparison, name: str, reference: str) -> list[float]:
    """Seed by seed, so that text and initial weights are the same."""
    return [a - b for a, b in zip(losses(c, name), losses(c, reference), strict=True)]


def check(c: Comparison) -> None:
    """The claims. Noise is the standard deviation over seeds of the run that is compared with."""
    assert len(c.seeds) >= 3
    assert {r.variant for r in c.runs} >= set(VARIANTS["masked-lm"])
    noise = stdev(losses(c, "unit fp32"))
    for precision in ("fp16", "bf16", "fp8", "fp8-fnuz"):
        assert abs(mean(differences(c, f"unit {precision}", "unit fp32"))) < noise, precision
    assert mean(differences(c, "unit fp8", "regular fp32")) < stdev(losses(c, "regular fp32"))
    assert abs(mean(differences(c, "u-mup fp8", "u-mup fp32"))) < stdev(losses(c, "u-mup fp32"))
    for name in ("unit fp8", "unit fp16", "u-mup fp8"):
        first = c.of(variant_named(c, name))[0]
        assert (first.flushed < 0.005, first.dead) == (True, 0), name
    unscaled = c.of(Variant("regular", "fp8"))
    assert min(differences(c, "regular fp8", "regular fp32")) > 0.5
    assert (unscaled[0].flushed > 0.3, unscaled[0].dead > 0.3) == (True, True)
    for scaling in (STATIC, "automatic", "current", "delayed"):
        name = f"regular fp8 {scaling}"
        assert c.of(Variant("regular", "fp8", scaling))[0].dead == 0, name
        assert abs(mean(differences(c, name, "regular fp32"))) < stdev(losses(c, "regular fp32")), name
    for variant in VARIANTS["masked-lm"]:
        statistics = [r.overhead["statistics"] for r in c.of(variant)]
        assert (min(statistics) > 0) == (variant.scaling in ("automatic", "current", "delayed")), variant


def variant_named(c: Comparison, name: str) -> Variant:
    return next(r.variant for r in c.runs if r.variant.name == name)


@pytest.fixture(scope="module")
def stored() -> Comparison:
    return load_comparison(RESULTS / "comparison.json")


def test_the_stored_comparison(stored):
    check(stored)


def test_the_lesson_shows_the_stored_tables(stored):
    text = DOCS.read_text(encoding="utf-8")
    assert tables(stored).rstrip("\n").replace("\n\n", "\n<BLANKLINE>\n") in text


def test_the_stored_drift():
    """Unit scaling's tensors start within a few binades of 1, and stay in the range of FP16 and of E5M2."""
    regular, unit = load_drifts(RESULTS / "drift.json")
    assert (regular.label, unit.label) == ("regular fp32", "unit fp32")
    smallest = {d.label: min(x for s in d.tensors for x in s.scales) for d in (regular, unit)}
    assert smallest["unit fp32"] > 2.0**-14 > smallest["regular fp32"]


def test_the_check_can_fail(stored):
    """Unit FP8 a little worse, or a technique that measured nothing: both are noticed."""
    worse = [
        replace(r, loss=r.loss + 0.5) if r.variant == Variant("unit", "fp8") and r.loss is not None else r
        for r in stored.runs
    ]
    with pytest.raises(AssertionError):
        check(replace(stored, runs=tuple(worse)))
    silent = [
        replace(r, overhead=r.overhead | {"statistics": 0}) if r.variant.scaling == "current" else r
        for r in stored.runs
    ]
    with pytest.raises(AssertionError):
        check(replace(stored, runs=tuple(silent)))


@pytest.mark.slow
def test_a_new_comparison(stored, tmp_path):
    out = os.environ.get("REFSCALE_EVIDENCE")
    check(
        load_comparison(Path(out) / "comparison.json")
        if out
        else compare(stored.base, tmp_path, jobs=os.cpu_count() or 1)
    )
