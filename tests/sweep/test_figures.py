"""Which losses a figure of a sweep draws, by hand; drawing itself is tested in tests/analysis."""

from __future__ import annotations

import pytest

from refscale.errors import ArgumentError
from refscale.sweep import Row, SweepSpec, draw_values, figures, outcomes
from refscale.sweep.spec import run_id

SPEC = SweepSpec(
    "t",
    base={"batch": 1, "seq": 8, "steps": 1},
    grid={
        "model": ("charlm-attention:layers=1", "charlm-conv:layers=1"),
        "model.tau": ("default", "fixed(0.5)"),
        "optimizer": ("adamw", "sgd"),
    },
    variants={"A": {"scheme": "regular"}, "B": {"scheme": "unit"}},
    search="grid",
    start=({"exponents": [-5]},),
)


def rows(missing: tuple[str, str] = ("", "")) -> dict[str, Row]:
    """Losses 1, 2, … in the order of the cells; one model may lack a rule."""
    found = {}
    for loss, cell in enumerate(SPEC.cells(), 1):
        if missing == (cell.point["model"], cell.point["model.tau"]):
            continue
        id = run_id(cell.settings, -5.0, 0)
        found[id] = Row(id, cell.settings, -5.0, 0, "done", float(loss), None, "", 1.0, {})
    return found


@pytest.fixture
def drawn(monkeypatch):
    calls = []
    monkeypatch.setattr(figures, "plot_against", lambda *arguments: calls.append(arguments))
    return calls


def test_one_value_of_an_axis_against_another(drawn):
    """The cells: attention default adamw A B, sgd A B, fixed adamw A B, sgd A B; then the convolution."""
    draw_values("f.svg", SPEC, rows(), "model.tau", "fixed(0.5)", "default", {"B": "unit", "A": "regular"})
    attention, conv = SPEC.grid["model"]
    points = {
        "unit": [(attention, 6.0, 2.0), (attention, 8.0, 4.0), (conv, 14.0, 10.0), (conv, 16.0, 12.0)],
        "regular": [(attention, 5.0, 1.0), (attention, 7.0, 3.0), (conv, 13.0, 9.0), (conv, 15.0, 11.0)],
    }
    assert drawn == [("f.svg", "fixed(0.5)", [attention, conv], points, "bits per character", 0.0)]


def test_a_cell_without_its_counterpart_is_left_out(drawn):
    attention, conv = SPEC.grid["model"]
    draw_values("f.svg", SPEC, rows((conv, "fixed(0.5)")), "model.tau", "fixed(0.5)", "default", {"A": "A"})
    assert drawn[0][3] == {"A": [(attention, 5.0, 1.0), (attention, 7.0, 3.0)]}
    assert len(outcomes(SPEC, rows())) == 16


@pytest.mark.parametrize(
    ("axis", "value", "panels", "message"),
    [
        ("model", "default", {"A": "A"}, "expected one of ['model.tau', 'optimizer'], and two of its values"),
        ("model.tau", "none", {"A": "A"}, "draw_values('model.tau', 'fixed(0.5)', 'none'): expected one of"),
        ("model.tau", "default", {"C": "C"}, "variants ['C'], expected some of ['A', 'B']"),
    ],
)
def test_errors(axis, value, panels, message):
    with pytest.raises(ArgumentError) as error:
        draw_values("f.svg", SPEC, {}, axis, "fixed(0.5)", value, panels)
    assert message in str(error.value)
