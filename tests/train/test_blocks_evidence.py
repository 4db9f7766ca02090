"""What lesson 11 claims of training in block-scaled formats, held against the stored comparison, and (slow) anew.

    refscale compare bert-mini --blocks --jobs 2 --out evidence              # about an hour and a half on two cores
    REFSCALE_BLOCKS=evidence python -m pytest -m slow tests/train/test_blocks_evidence.py

Without ``REFSCALE_BLOCKS`` the slow test makes the comparison itself, in a temporary directory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import pytest

from refscale.precision import get_precision
from refscale.sweep import Comparison, Row, Variant, compare, load_comparison, load_spec, read_rows, tables
from refscale.sweep.comparison import BLOCKS
from tests.train.test_evidence import differences, losses

RESULTS = Path(__file__).parents[2] / "tutorials" / "results" / "blocks.json"
DOCS = Path(__file__).parents[2] / "tutorials" / "11-blocks.md"


def check(c: Comparison) -> None:
    """Unit scaling makes block scales unnecessary in FP8; in FP4 it does not, and blocks do."""
    assert len(c.seeds) >= 3
    assert {r.variant for r in c.runs} >= set(BLOCKS)
    noise = stdev(losses(c, "unit fp32"))
    for name in ("unit fp8", "unit mxfp8", "unit fp8-tiles", "regular mxfp8", "regular fp8-tiles"):
        assert abs(mean(differences(c, name, f"{name.split()[0]} fp32"))) < noise, name
    assert abs(mean(differences(c, "unit fp8", "unit mxfp8"))) < noise
    for scheme in ("regular", "unit"):
        for precision in ("mxfp4", "nvfp4"):
            assert -noise < mean(differences(c, f"{scheme} {precision}", f"{scheme} fp32")) < 3 * noise
    assert min(differences(c, "unit fp4", "unit fp32")) > 1
    for scheme in ("regular", "unit"):
        assert min(losses(c, f"{scheme} fp4 current")) > 9  # worse than guessing evenly among 4096 words
    for variant in BLOCKS:
        counted = [r.overhead["statistics"] for r in c.of(variant)]
        blocks = get_precision(variant.precision).blocks is not None
        assert (min(counted) > 0) == (blocks or variant.scaling == "current"), variant


@pytest.fixture(scope="module")
def stored() -> Comparison:
    return load_comparison(RESULTS)


def test_the_stored_comparison(stored):
    check(stored)


def test_the_lesson_shows_it(stored):
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    assert [line for line in tables(stored).splitlines() if line.startswith("| ") and line not in lines] == []


@pytest.mark.slow
def test_made_anew(stored, tmp_path):
    made = os.environ.get("REFSCALE_BLOCKS")
    if made:
        check(load_comparison(Path(made) / "comparison.json"))
        return
    check(compare(replace(stored.base), tmp_path, variants=BLOCKS, jobs=2))


def check_fp4(rows: Mapping[str, Row], stored: Comparison) -> None:
    """The stored rows of the sweep ``fp4`` beside the comparison's run of the same model, rate and seed."""
    spec, losses = load_spec("fp4"), {}
    names = {variant["precision"]: name for name, variant in spec.variants.items()}
    (plain,) = (r for r in stored.of(Variant("unit", "fp4")) if r.seed == 0)
    for row in rows.values():
        assert (row.log2_lr, row.seed, row.status) == (plain.log2_lr, plain.seed, "done")
        same = (
            "model",
            "scheme",
            "steps",
            "batch",
            "seq",
            "weight_decay",
            "optimizer",
            "schedule",
            "evaluation_batches",
        )
        config = spec.config(row.settings, row.log2_lr, row.seed)
        assert [getattr(config, f) for f in same] == [getattr(replace(stored.base, scheme="unit"), f) for f in same]
        losses[names[row.settings["precision"]]] = row.loss
    assert losses["factor 2"] > plain.loss + 0.2
    mixed = losses["factor 2, stochastic, Hadamard"]
    assert 5.48 + 0.2 < mixed < plain.loss - 0.2  # above the entropy of word frequencies: no variant trains
    assert mixed > max(r.loss for r in stored.of(Variant("unit", "nvfp4"))) + 0.5


def test_a_factor_of_2_before_the_cast_does_not_rescue_fp4(stored):
    rows = read_rows(RESULTS.parent / "fp4")
    check_fp4(rows, stored)
    for wrong in (lambda r: r.loss - 0.2, lambda r: r.loss + 0.4):
        with pytest.raises(AssertionError):
            check_fp4({id: replace(row, loss=wrong(row)) for id, row in rows.items()}, stored)
    with pytest.raises(AssertionError):
        check_fp4({id: replace(row, seed=1) for id, row in rows.items()}, stored)
