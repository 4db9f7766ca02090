import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

import refscale as rs
from refscale.analysis import from_json, load, save, to_json
from refscale.analysis.report.files import SCHEMA
from refscale.errors import DataError
from tests.analysis.builders import report, spread, tensor


def test_round_trip(regular, unit, tmp_path):
    narrow = rs.report("bert-tiny", "regular", "fp8", batch=1, seq=16)
    save(tmp_path / "r.json", [regular, unit, narrow])
    assert load(tmp_path / "r.json") == [regular, unit, narrow]
    content = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert content["schema"] == SCHEMA == "refscale.report/1"
    summary = content["reports"][0]["summary"]
    assert summary["outside"] == regular.summary().outside
    assert summary["worst"]["name"] == regular.summary().worst.name


def test_the_summary_in_a_file_by_hand():
    tensors = [
        tensor(spread(1.0), name="a"),
        tensor(spread(16.0), name="b"),
        tensor(spread(1.0), name="c", kind="activation"),
        tensor(np.zeros(4), name="d.bias", zero_because="biases"),
        tensor(np.zeros(4), name="e.bias", zero_because="biases"),
        tensor(spread(2.0**-9), name="f", kind="activation", damped=True),
    ]
    assert json.loads(to_json([report(tensors)]))["reports"][0]["summary"] == {
        "judged": {"weight": 2, "activation": 1, "activation gradient": 0, "weight gradient": 0},
        "outside": {"weight": 1, "activation": 0, "activation gradient": 0, "weight gradient": 0},
        "worst": {"name": "b", "kind": "weight", "scale": 16.0},
        "zero": {"biases": ["d.bias", "e.bias"]},
        "damped": ["f"],
    }


def test_a_loss_that_overflowed():
    r = report([tensor(spread(1.0))], losses={"loss_sum": math.inf, "mlm": -math.inf})
    assert from_json(to_json([r])) == [r]
    (back,) = from_json(to_json([report([tensor(spread(1.0))], losses={"loss_sum": math.nan})]))
    assert math.isnan(back.losses["loss_sum"])


def test_figures_that_are_not_finite():
    """Of float64 tensors, whose squares leave its range; a prediction there is none of stays None."""
    one = replace(tensor(spread(1.0)), std=math.inf, predicted=-math.inf)
    r = report([one, tensor(spread(2.0))])
    content = json.loads(to_json([r]))["reports"][0]
    assert (content["tensors"][0]["std"], content["summary"]["worst"]["scale"]) == ("inf", "inf")
    (back,) = from_json(to_json([r]))
    assert back == r
    assert back.tensors[1].predicted is None


def test_same_run_same_text(unit):
    assert to_json([unit]) == to_json([rs.report("bert-tiny", "unit")])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{"schema": "refscale.report/9", "reports": []}',
            "schema is 'refscale.report/9', expected 'refscale.report/1'",
        ),
        ("{}", "KeyError 'schema', expected what to_json writes"),
        ("[1]", "contains a list, expected an object"),
        ("no json", "not valid JSON: Expecting value: line 1 column 1"),
        ('{"schema": "refscale.report/1", "reports": [{}]}', "KeyError 'formats'"),
        ('{"schema": "refscale.report/1", "reports": [3]}', "TypeError"),
    ],
)
def test_other_text(tmp_path, text, said):
    """A text is named by the function, a file by its path."""
    with pytest.raises(DataError, match=f"^from_json: .*{said}"):
        from_json(text)
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(DataError, match=f"^{re.escape(f'load({str(path)!r}): ')}.*{said}"):
        load(path)


def test_losses_that_are_none(unit):
    content = json.loads(to_json([unit]))
    content["reports"][0]["losses"] = []
    with pytest.raises(DataError, match="AttributeError 'list' object has no attribute 'items', expected what to_json"):
        from_json(json.dumps(content))


def test_causes_and_files_written_before_there_were_any(regular):
    content = json.loads(to_json([regular]))
    first = content["reports"][0]["causes"][0]
    assert first.keys() == {"tensor", "kind", "cause", "log2", "calls", "at", "remedy"}
    assert first["remedy"]
    del content["reports"][0]["causes"]
    (back,) = from_json(json.dumps(content))
    assert back == replace(regular, causes=())
