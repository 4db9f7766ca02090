"""The claims of the docs about sweeps, checked with stored rows, and (slow) with new ones.

    refscale sweep transfer --jobs 2 --out transfer          # an hour on two cores
    refscale sweep transfer-tuned --jobs 2 --out transfer-tuned
    refscale sweep charlm --jobs 2 --out charlm              # an hour on two cores
    refscale sweep underflow --jobs 2 --out underflow        # two minutes on two cores
    REFSCALE_SWEEPS=. python -m pytest -m slow tests/sweep/test_evidence.py

Without ``REFSCALE_SWEEPS`` the slow tests run the sweeps, in a temporary directory; stopped, they start again.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from refscale.sweep import Row, load_spec, outcomes, read_rows, sweep
from refscale.sweep.spec import run_id
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


def check_tuned(rows: dict[str, Row], others: dict[str, Row]) -> None:
    """With tuned multipliers and the rate of width 64 u-μP has the lowest loss; others have it with their own rates."""
    assert all(row.status == "done" for row in rows.values())
    tuned = {o.cell.point["model.width"]: o for o in outcomes(load_spec("transfer-tuned"), rows)}
    found = {(o.cell.variant, o.cell.point["model.width"]): o for o in outcomes(load_spec("transfer"), others)}
    assert [len(tuned[width].losses) for width in (64, 256)] == [3, 3]
    assert len({o.log2_lr for o in tuned.values()}) == 1
    assert min(tuned[64].rates) < tuned[64].log2_lr < max(tuned[64].rates)
    interval = seed_interval(list(found.values()))
    for width, o in tuned.items():
        for variant in ("regular", "unit", "u-μP"):
            assert o.loss < found[variant, width].rates[found[variant, 64].log2_lr] - (interval if width > 256 else 0)
        assert o.loss < found["u-μP", width].loss - interval
        assert width == 64 or o.loss > max(found[variant, width].loss for variant in ("regular", "unit")) + interval


def check_charlm(rows: dict[str, Row]) -> None:
    """No setting is lost to FP16 or FP8; unit is not worse than regular FP32 in nine of ten, and ahead in attention."""
    spec = load_spec("charlm")
    all_found = outcomes(spec, rows)
    found = {(tuple(o.cell.point.values()), o.cell.variant): o for o in all_found}
    points = {point for point, _ in found}
    assert len(points) == 36
    assert len(found) == 36 * 6
    assert all(len(o.losses) == 3 and math.isfinite(o.loss) for o in all_found)
    interval = seed_interval(all_found)
    assert interval < 0.1
    over = {v: {p: found[p, v].loss - found[p, "regular FP32"].loss for p in points} for v in spec.variants}
    for variant in ("unit FP32", "unit FP16", "unit FP8"):
        assert sum(d > interval for d in over[variant].values()) <= 3
        assert -0.1 < median(over[variant].values()) < 0
        attention = [d for p, d in over[variant].items() if "attention" in str(p[0]) and "adamw" in p]
        assert len(attention) == 6
        assert max(attention) < 0
    for variant in ("regular FP16", "regular FP16, loss scale"):
        assert abs(median(over[variant].values())) < 0.005
    for point in points:
        unit, regular = (found[point, f"{scheme} FP32"].log2_lr for scheme in ("unit", "regular"))
        assert 2 <= unit - regular <= 5 if "adamw" in point else -8 <= unit - regular <= -3


def test_the_stored_character_study():
    check_charlm(stored("charlm"))


@pytest.mark.parametrize(
    ("scheme", "precision", "loss"),
    [
        ("unit", "fp8", lambda r: r.loss + 0.1),
        ("unit", "fp32", lambda r: r.loss + 0.4 * ("rnn" in r.settings["model"])),
        ("unit", "fp16", lambda r: r.loss if r.settings["model.norm"] == "post" else None),
        ("regular", "fp16", lambda r: r.loss + 0.02),
    ],
)
def test_that_check_of_the_character_study_can_fail(scheme, precision, loss):
    """Rows in which one way of training is worse, in some settings or a little in all."""
    rows = stored("charlm")
    mine = {id for id, r in rows.items() if (r.settings["scheme"], r.settings["precision"]) == (scheme, precision)}
    with pytest.raises(AssertionError):
        check_charlm({id: replace(r, loss=r.loss and loss(r)) if id in mine else r for id, r in rows.items()})


@pytest.mark.slow
def test_a_new_character_study(tmp_path):
    check_charlm(anew("charlm", tmp_path))


def check_authors(rows: dict[str, Row]) -> None:
    """By the authors' choices FP16 loses nothing either way, and unit scaling is not behind regular FP32."""
    found = {(tuple(o.cell.point.values()), o.cell.variant): o for o in outcomes(load_spec("charlm-authors"), rows)}
    assert len(found) == 3 * 4
    for (point, variant), o in found.items():
        regular, unit = found[point, "regular FP32"], found[point, "unit FP32"]
        assert min(regular.rates) < regular.log2_lr < max(regular.rates)
        assert min(unit.rates) < unit.log2_lr < max(unit.rates)
        assert unit.loss < regular.loss - 0.05
        if variant.endswith("FP16"):
            assert abs(o.loss - found[point, variant.replace("FP16", "FP32")].loss) < 0.05


def test_the_stored_study_by_the_authors_choices():
    check_authors(stored("charlm-authors"))


@pytest.mark.parametrize(("scheme", "precision", "more"), [("authors", "fp32", 0.3), ("regular", "store=", 0.06)])
def test_the_check_of_the_authors_choices_can_fail(scheme, precision, more):
    rows = stored("charlm-authors")
    for id, r in rows.items():
        if r.settings["scheme"] == scheme and r.settings["precision"].startswith(precision):
            rows[id] = replace(r, loss=r.loss + more)
    with pytest.raises(AssertionError):
        check_authors(rows)


def check_underflow(rows: dict[str, Row]) -> None:
    """Regular FP16 keeps FP32's loss down to 2^-8 and fails at 2^-10; unit FP16 keeps it at 2^-12, flushing nothing."""
    spec = load_spec("underflow")
    found = {(o.cell.point["scaling"], o.cell.variant): o for o in outcomes(spec, rows)}
    assert len(found) == 16
    reference, limit = found["static:2^0", "regular FP32"].loss, {"static:2^0": 0.01, "static:2^-8": 0.05}
    flushed = {v: [] for v in ("regular FP16", "regular FP16, stochastic rounding", "unit FP16")}
    for (scaling, variant), o in found.items():
        if variant in flushed:
            flushed[variant].append(rows[run_id(o.cell.settings, o.log2_lr, 0)].flushed)
        if variant == "regular FP16":
            assert (o.loss < reference + limit[scaling]) if scaling in limit else (o.loss > reference + 1)
        if variant == "regular FP16, stochastic rounding":  # fails later
            assert (o.loss > reference + 0.5) if scaling == "static:2^-12" else (o.loss < reference + 0.1)
        if variant == "unit FP16":
            assert o.loss < reference
    assert all(shares == sorted(shares) for shares in flushed.values())
    assert flushed["regular FP16"][-1] > 0.2
    assert max(flushed["unit FP16"]) < 0.001


def test_the_stored_study_of_smaller_gradients():
    check_underflow(stored("underflow"))


@pytest.mark.parametrize(
    ("scheme", "rounding", "scaling", "change"),
    [
        ("regular", "nearest_even", "static:2^-8", {"loss": 3.2}),
        ("regular", "nearest_even", "static:2^-10", {"loss": 3.2}),
        ("regular", "stochastic", "static:2^-10", {"loss": 3.2}),
        ("regular", "stochastic", "static:2^-12", {"loss": 3.2}),
        ("regular", "nearest_even", "static:2^0", {"flushed": 0.2}),
        ("unit", "nearest_even", "static:2^-12", {"loss": 3.2}),
        ("unit", "nearest_even", "static:2^-12", {"flushed": 0.01}),
        ("unit", "nearest_even", "static:2^-12", None),
    ],
)
def test_the_check_of_smaller_gradients_can_fail(scheme, rounding, scaling, change):
    rows = stored("underflow")
    (mine,) = (
        id
        for id, r in rows.items()
        if (r.settings["scheme"], r.settings["scaling"]) == (scheme, scaling) and rounding in r.settings["precision"]
    )
    rows[mine] = replace(rows[mine], **({"loss": None, "status": "diverged"} if change is None else change))
    with pytest.raises(AssertionError):
        check_underflow(rows)


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


def test_the_stored_multipliers():
    """Each multiplier's best value is the one that is combined; the runs without any are those of ``transfer``."""
    rows = stored("multipliers")
    assert {id: row.loss for id, row in rows.items() if row.settings["scheme"] == "u-mup"}.items() <= {
        id: row.loss for id, row in stored("transfer").items()
    }.items()
    losses = {o.cell.settings["scheme"]: o.loss for o in outcomes(load_spec("multipliers"), rows)}
    assert len(losses) == 21
    best = {}
    for name in ("attention", "loss", "residual", "attention_ratio", "activation"):
        own = [scheme for scheme in losses if scheme.startswith(f"u-mup:{name}=")]
        best[name] = min([*own, "u-mup"], key=losses.__getitem__).partition(":")[2]
    (scheme,) = {o.cell.settings["scheme"] for o in outcomes(load_spec("transfer-tuned"), {})}
    assert scheme == "u-mup:" + ",".join(filter(None, best.values()))


def test_the_stored_tuned_transfer():
    check_tuned(stored("transfer-tuned"), stored("transfer"))


@pytest.mark.parametrize(
    ("width", "change"),
    [
        (64, 0.05),  # behind unit scaling
        (64, -0.4),  # at the edge of its rates
        (256, 0.05),
        (256, -0.1),  # ahead of regular with its own rate
        (512, 0.2),
        (512, -0.1),
        (512, None),
    ],
)
def test_the_check_of_tuned_multipliers_can_fail(width, change):
    rows = stored("transfer-tuned")
    mine = {
        id for id, r in rows.items() if r.settings["model.width"] == width and r.log2_lr == (0 if change != -0.4 else 2)
    }
    changed = {
        id: replace(r, loss=None if change is None else r.loss + change, status="done" if change else "diverged")
        if id in mine
        else r
        for id, r in rows.items()
    }
    with pytest.raises(AssertionError):
        check_tuned(changed, stored("transfer"))


@pytest.mark.slow
def test_a_new_study_of_smaller_gradients(tmp_path):
    check_underflow(anew("underflow", tmp_path))


@pytest.mark.slow
def test_a_new_transfer(tmp_path):
    check_transfer(anew("transfer", tmp_path))


@pytest.mark.slow
def test_a_new_tuned_transfer(tmp_path):
    check_tuned(anew("transfer-tuned", tmp_path / "tuned"), anew("transfer", tmp_path / "transfer"))
