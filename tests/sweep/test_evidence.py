"""What the docs claim of sweeps, held against stored rows, and (slow) against ones made anew.

    refscale sweep transfer --jobs 2 --out transfer          # an hour on two cores
    refscale sweep charlm --jobs 2 --out charlm              # an hour on two cores
    REFSCALE_SWEEPS=. python -m pytest -m slow tests/sweep/test_evidence.py

Without ``REFSCALE_SWEEPS`` the slow tests run the sweeps, in a temporary directory; stopped, they start again.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from refscale.sweep import Row, load_spec, outcomes, read_rows, sweep
from refscale.sweep.summary import seed_interval

RESULTS = Path(__file__).parents[2] / "tutorials" / "results"


def stored(name: str) -> dict[str, Row]:
    return read_rows(RESULTS / name)


def anew(name: str, tmp_path: Path) -> dict[str, Row]:
    out = os.environ.get("REFSCALE_SWEEPS")
    return read_rows(Path(out) / name) if out else sweep(load_spec(name), tmp_path, jobs=os.cpu_count() or 1)


def check_transfer(rows: dict[str, Row]) -> None:
    """u-μP's best rate is that of every width; unit's and regular's fall with it; unit is never behind regular."""
    spec = load_spec("transfer")
    found = {(o.cell.variant, o.cell.point["model.width"]): o for o in outcomes(spec, rows)}
    assert all(len(o.losses) == 3 for o in found.values())
    best = {v: [found[v, w].log2_lr for w in (64, 128, 256, 512)] for v in spec.variants}
    assert max(best["u-μP"]) - min(best["u-μP"]) <= 1
    for variant in ("regular", "unit"):
        assert best[variant] == sorted(best[variant], reverse=True)
        assert best[variant][0] - best[variant][-1] >= 2
        wide = found[variant, 512]
        assert wide.rates[best[variant][0]] > wide.loss + 0.25  # the narrow model's rate in the wide one
    for width in (64, 128, 256, 512):
        assert found["unit", width].loss < found["regular", width].loss + seed_interval(list(found.values()))
    assert found["u-μP", 512].loss > found["unit", 512].loss + 0.25


def test_the_stored_transfer():
    check_transfer(stored("transfer"))


def test_that_check_can_fail():
    """Rows in which wide unit-scaled decoders like the narrow one's rate, or diverge."""
    rows = stored("transfer")

    def changed(loss):
        wide = {id for id, r in rows.items() if (r.settings["scheme"], r.settings["model.width"]) == ("unit", 512)}
        return {id: replace(r, loss=loss(r)) if id in wide else r for id, r in rows.items()}

    for loss in (lambda r: r.loss and r.loss - (r.log2_lr == -3), lambda r: None):
        with pytest.raises(AssertionError):
            check_transfer(changed(loss))


@pytest.mark.slow
def test_a_new_transfer(tmp_path):
    check_transfer(anew("transfer", tmp_path))
