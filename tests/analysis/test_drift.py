from __future__ import annotations

import json
import math
import re

import pytest

from refscale.analysis import Drift, load_drifts, plot_drift, plot_losses, read_drift, render_drift, save_drifts
from refscale.analysis.runs.drift import Series
from refscale.errors import DataError

TENSORS = [
    {"name": "a", "kind": "weight", "layer": "a", "role": "weight", "scale": 1.0, "judged": True},
    {"name": "a", "kind": "weight gradient", "layer": "a", "role": "weight", "scale": 0.125, "judged": True},
    {"name": "b", "kind": "weight", "layer": "b", "role": "bias", "scale": 0.0, "judged": False},
]


def line(step: int, scales: list[float], **changes) -> str:
    tensors = [{**t, "scale": s, **changes.get(t["name"], {})} for t, s in zip(TENSORS, scales, strict=True)]
    return json.dumps({"step": step, "tensors": tensors, "casts": []}) + "\n"


@pytest.fixture
def run(tmp_path):
    config = {"scheme": "unit", "precision": "fp8", "scaling": "none"}
    (tmp_path / "config.json").write_text(json.dumps({"config": config, "text": ""}), encoding="utf-8")
    lines = line(1, [1.0, 0.125, 0.0]) + line(10, [2.0, 0.5, 0.3], b={"judged": True}) + line(20, [4.5, 0.0, 0.4])[:-9]
    (tmp_path / "scales.jsonl").write_text(lines, encoding="utf-8")
    return tmp_path


def test_read(run):
    """A line that was cut off is not read, a bias that starts at zero is not followed."""
    assert read_drift(run) == Drift(
        "unit fp8",
        (1, 10),
        (Series("a", "weight", (1.0, 2.0)), Series("a", "weight gradient", (0.125, 0.5))),
    )


def test_render(run):
    lines = render_drift([read_drift(run)])
    assert lines[2] == "unit fp8"
    assert lines[4].split()[:5] == ["1", "0.0", "[0.0,", "0.0]", "0"]
    assert lines[4].endswith("-3.0 [-3.0, -3.0]  1")
    assert lines[5].endswith("-1.0 [-1.0, -1.0]  0")
    zero = Drift("x", (1,), (Series("a", "weight", (0.0,)),))
    assert "all zero" in render_drift([zero])[-1]


def test_cells_by_hand():
    """Of 1/4, 1/8, 4, 8 and 0 three are outside [1/4, 4]; log2 of those that are not 0: median 0, from −3 to 3."""
    scales = (0.25, 0.125, 4.0, 8.0, 0.0)
    weights = tuple(Series(str(i), "weight", (1.0, x)) for i, x in enumerate(scales))
    drift = Drift("x", (1, 7), (*weights, Series("g", "weight gradient", (2.0, 16.0))))
    head, first, second = render_drift([drift])[3:]
    columns = ["weight /5", "activation /0", "activation gradient /0", "weight gradient /1"]
    assert head.split() == ["step", *" ".join(columns).split()]
    nothing = "all zero all zero"
    assert " ".join(first.split()) == f"1 0.0 [0.0, 0.0] 0 {nothing} 1.0 [1.0, 1.0] 0"
    assert " ".join(second.split()) == f"7 0.0 [-3.0, 3.0] 3 {nothing} 4.0 [4.0, 4.0] 1"


def test_the_middle_of_four_is_between_two():
    weights = tuple(Series(str(k), "weight", (2.0**k,)) for k in (-1, 0, 3, 6))
    assert render_drift([Drift("x", (1,), weights)])[-1].split()[:5] == ["1", "1.5", "[-1.0,", "6.0]", "2"]


def test_round_trip(run, tmp_path):
    drift = read_drift(run)
    save_drifts(tmp_path / "d.json", [drift, drift])
    assert load_drifts(tmp_path / "d.json") == [drift, drift]
    wild = Drift("x", (1, 2), (Series("a", "weight", (math.inf, 0.5)),))
    save_drifts(tmp_path / "d.json", [wild])
    assert load_drifts(tmp_path / "d.json") == [wild]


@pytest.mark.parametrize("text", ["{}", '{"schema": "refscale.drift/9"}', "no json"])
def test_other_files(tmp_path, text):
    (tmp_path / "d.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"load_drifts\("):
        load_drifts(tmp_path / "d.json")


def test_nothing_recorded(run):
    call = re.escape(f"read_drift({str(run)!r})")
    (run / "scales.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match=call + ": no step recorded, expected a run with --scales-every N"):
        read_drift(run)
    (run / "scales.jsonl").write_text('{"step": 1}\n', encoding="utf-8")
    with pytest.raises(DataError, match=call + ": KeyError 'tensors'"):
        read_drift(run)
    (run / "scales.jsonl").unlink()
    with pytest.raises(DataError, match=call + r": no scales\.jsonl, expected a run with --scales-every N"):
        read_drift(run)


def test_figures(run, tmp_path):
    pytest.importorskip("matplotlib")
    plot_drift(tmp_path / "d.svg", [read_drift(run)] * 2)
    plot_losses(tmp_path / "l.svg", {"regular fp32": [4.0, 4.1], "regular fp16": [None, 4.3], "unit fp8": [4.0]})
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("d.svg", "l.svg"))
